%% MaculaBackup for Erlang: the same functions under the same names; see the Elixir module for what
%% each promises. Invariant: nothing here but delegation.
-module(macula_backup).

-export([backup_app/1, backup_app/2, restore_app/2, restore_app/3, list_backups/1, list_backups/2]).

-define(M, 'Elixir.MaculaBackup').

backup_app(App) -> ?M:backup_app(App).
backup_app(App, Options) -> ?M:backup_app(App, Options).
restore_app(App, Tarball) -> ?M:restore_app(App, Tarball).
restore_app(App, Tarball, Options) -> ?M:restore_app(App, Tarball, Options).
list_backups(App) -> ?M:list_backups(App).
list_backups(App, Options) -> ?M:list_backups(App, Options).
