%% MaculaStorage for Erlang: the same functions under the same names; see the Elixir module for what
%% each promises. Invariant: nothing here but delegation.
-module(macula_storage).

-export([app_data_path/1, app_uploads_path/1, app_cache_path/1, ensure_app_dirs/1, list_apps/0]).
-export([close_app/1, app_owner/1, app_quota/1, app_usage/1, app_usage/2]).
-export([data_put/3, data_put/4, data_get/2, data_get/3, data_delete/2, data_fold/4]).
-export([file_write/3, file_write/4, file_read/2, file_read/3, file_delete/2, file_delete/3, file_list/1, file_list/2, file_stat/2]).
-export([archive/2, archive/3, restore/2, restore/3]).

-define(M, 'Elixir.MaculaStorage').

app_data_path(App) -> ?M:app_data_path(App).
app_uploads_path(App) -> ?M:app_uploads_path(App).
app_cache_path(App) -> ?M:app_cache_path(App).
ensure_app_dirs(App) -> ?M:ensure_app_dirs(App).
list_apps() -> ?M:list_apps().
close_app(App) -> ?M:close_app(App).
app_owner(App) -> ?M:app_owner(App).
app_quota(App) -> ?M:app_quota(App).
app_usage(App) -> ?M:app_usage(App).
app_usage(App, Options) -> ?M:app_usage(App, Options).

data_put(App, Key, Value) -> ?M:data_put(App, Key, Value).
data_put(App, Key, Value, Options) -> ?M:data_put(App, Key, Value, Options).
data_get(App, Key) -> ?M:data_get(App, Key).
data_get(App, Key, Default) -> ?M:data_get(App, Key, Default).
data_delete(App, Key) -> ?M:data_delete(App, Key).

%% Elixir's data_select/2 is a lazy stream; Erlang folds over it.
data_fold(App, Options, Fun, Acc) ->
    'Elixir.Enum':reduce(?M:data_select(App, Options), Acc, Fun).

file_write(App, Name, Content) -> ?M:file_write(App, Name, Content).
file_write(App, Name, Content, Options) -> ?M:file_write(App, Name, Content, Options).
file_read(App, Name) -> ?M:file_read(App, Name).
file_read(App, Name, Options) -> ?M:file_read(App, Name, Options).
file_delete(App, Name) -> ?M:file_delete(App, Name).
file_delete(App, Name, Options) -> ?M:file_delete(App, Name, Options).
file_list(App) -> ?M:file_list(App).
file_list(App, Options) -> ?M:file_list(App, Options).
file_stat(App, Name) -> ?M:file_stat(App, Name).

archive(App, Dest) -> ?M:archive(App, Dest).
archive(App, Dest, Options) -> ?M:archive(App, Dest, Options).
restore(App, Archive) -> ?M:restore(App, Archive).
restore(App, Archive, Options) -> ?M:restore(App, Archive, Options).
