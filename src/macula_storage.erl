%% MaculaStorage for Erlang: the same functions under the same names, and beneath a prefix those of its
%% tiers: data_* is MaculaStorage.CubDB (`has_key?` is data_has_key), sqlite_* is MaculaStorage.SQLite,
%% mnesia_* is MaculaStorage.Mnesia, state_* is MaculaStorage.Khepri, state_cache_* MaculaStorage.Cache,
%% authority_* MaculaStorage.Authority, mesh_* MaculaStorage.MeshFS and mesh_transport_* its Transport.
%% A data_* function takes an app, a store's pid or name, or the transaction or snapshot that a function
%% was given. What is a lazy stream in Elixir is a list (data_select, bounded by {limit, N}), a fold or an
%% unfold here; options are lists of pairs; results are maps (sqlite: #{columns, rows, changes, ...}).
%% Where Elixir raises, so does this: error:#{'__struct__' := 'Elixir.MaculaStorage.Error', kind := Kind}.
%% The Elixir modules tell what each function promises. Invariant: nothing here but delegation.
-module(macula_storage).

-export([app_data_path/1, app_uploads_path/1, app_cache_path/1, ensure_app_dirs/1, list_apps/0]).
-export([close_app/1, app_owner/1, app_quota/1, app_usage/1, app_usage/2]).
-export([data_put/3, data_put/4, data_put_new/3, data_put_new/4, data_delete/2, data_clear/1, data_ttl/2]).
-export([data_get/2, data_get/3, data_fetch/2, data_has_key/2, data_get_multi/2, data_size/1, data_count/1, data_count/2]).
-export([data_select/1, data_select/2, data_fold/4]).
-export([data_put_multi/2, data_put_multi/3, data_delete_multi/2, data_put_and_delete_multi/3]).
-export([data_update/4, data_get_and_update/3, data_get_and_update_multi/3, data_transaction/2, data_transaction/3, data_refetch/3]).
-export([data_compare_and_put/4, data_compare_and_put/5, data_compare_and_delete/3]).
-export([data_snapshot/1, data_snapshot/2, data_release_snapshot/1, data_with_snapshot/2]).
-export([data_start_link/1, data_start_link/2, data_start/1, data_start/2, data_child_spec/1, data_stop/1, data_stop/2, data_stop/3]).
-export([data_dir/1, data_current_db_file/1, data_file_sync/1, data_set_auto_file_sync/2]).
-export([data_compact/1, data_compact/2, data_stats/1, data_set_auto_compact/2, data_halt_compaction/1, data_compacting/1, data_dirt_factor/1]).
-export([data_back_up/2, data_check/1]).
-export([data_subscribe/1, data_subscribe/2, data_unsubscribe/1, data_revision/1]).
-export([sqlite_db_path/1, sqlite_open/1, sqlite_open/2, sqlite_close/1]).
-export([sqlite_execute/2, sqlite_execute/3, sqlite_execute/4, sqlite_query/2, sqlite_query/3, sqlite_query/4]).
-export([sqlite_execute_many/3, sqlite_execute_many/4, sqlite_batch/2, sqlite_batch/3]).
-export([sqlite_fold/5]).
-export([sqlite_stats/1, sqlite_optimize/1, sqlite_integrity_check/1, sqlite_vacuum/1, sqlite_vacuum/2]).
-export([sqlite_subscribe/2, sqlite_subscribe/3, sqlite_unsubscribe/1]).
-export([sqlite_transaction/2, sqlite_transaction/3, sqlite_rollback/2, sqlite_backup/2, sqlite_backup/3]).
-export([sqlite_bridge_path/0, sqlite_bridge_status/0]).
-export([mnesia_setup/1, mnesia_setup/2, mnesia_create_app_table/1, mnesia_create_app_table/2, mnesia_status/0]).
-export([mnesia_put/3, mnesia_put/4, mnesia_get/2, mnesia_get/3, mnesia_delete/2, mnesia_delete/3, mnesia_list_keys/1]).
-export([mnesia_backup/2, mnesia_backup/3, mnesia_restore/2, mnesia_backup_fold/4]).
-export([mnesia_resolve/1, mnesia_resolve/2, mnesia_subscribe/0, mnesia_unsubscribe/1]).
-export([state_put/2, state_put/3, state_create/2, state_create/3, state_update/2, state_update/3, state_compare_and_swap/3, state_compare_and_swap/4]).
-export([state_delete/1, state_delete/2, state_get/1, state_get/2, state_exists/1, state_exists/2, state_has_data/1, state_has_data/2]).
-export([state_list/1, state_list/2, state_get_many/1, state_get_many/2, state_fold/3, state_fold/4, state_foreach/2, state_foreach/3]).
-export([state_map/2, state_map/3, state_filter/2, state_filter/3, state_count/1, state_count/2, state_put_many/2, state_put_many/3]).
-export([state_delete_many/1, state_delete_many/2, state_transaction/1, state_transaction/2, state_abort/1, state_txn/2, state_txn/3, state_txn/4]).
-export([state_app_put/3, state_app_get/2, state_app_list_keys/1, state_watch/1, state_watch/2, state_unwatch/1]).
-export([state_lease/0, state_lease/1, state_lease/2, state_revoke/1, state_revoke/2, state_export/2, state_export/3]).
-export([state_import/1, state_import/2, state_status/0, state_close/0]).
-export([state_start/1, state_start/2, state_join/1, state_join/2, state_invite/0, state_invite/1, state_leave/0, state_leave/1, state_leave/2]).
-export([state_replace/2, state_replace/3, state_reset/0, state_reset/1, state_members/0, state_transfer_leader/1, state_transfer_leader/2]).
-export([state_wait_for_leader/0, state_wait_for_leader/1]).
-export([state_tx_get/2, state_tx_get_many/2, state_tx_put/3, state_tx_put/4, state_tx_delete/2]).
-export([state_cache_start_link/1, state_cache_child_spec/1, state_cache_get/2, state_cache_get/3, state_cache_fetch/2, state_cache_fetch/3]).
-export([state_cache_list/2, state_cache_list/3, state_cache_wait/1, state_cache_wait/2, state_cache_stats/1]).
-export([authority_create/1, authority_create/2, authority_issue/2, authority_issue/3, authority_describe/1]).
-export([mesh_write/3, mesh_write/4, mesh_read/2, mesh_read/3, mesh_delete/2, mesh_delete/3, mesh_list/1, mesh_list/2]).
-export([mesh_stat/2, mesh_stat/3, mesh_versions/2, mesh_versions/3, mesh_resolve/3, mesh_resolve/4, mesh_status/0, mesh_status/1]).
-export([mesh_transport_up/1, mesh_transport_down/1, mesh_transport_answer/2, mesh_transport_answer/3]).
-export([mesh_scan/1, mesh_scan/2, mesh_scrub/0, mesh_scrub/1, mesh_copy/3, mesh_copy/4, mesh_rename/3, mesh_rename/4]).
-export([mesh_conflicts/1, mesh_conflicts/2, mesh_subscribe/1, mesh_subscribe/2, mesh_unsubscribe/1]).
-export([file_write/3, file_write/4, file_read/2, file_read/3, file_delete/2, file_delete/3, file_list/1, file_list/2, file_stat/2]).
-export([file_fold/4, file_fold/5, file_unfold/4]).
-export([archive/2, archive/3, restore/2, restore/3]).

-define(M, 'Elixir.MaculaStorage').
-define(MESH, 'Elixir.MaculaStorage.MeshFS').
-define(MESH_TRANSPORT, 'Elixir.MaculaStorage.MeshFS.Transport').
-define(KV, 'Elixir.MaculaStorage.CubDB').
-define(TX, 'Elixir.MaculaStorage.CubDB.Tx').
-define(SNAPSHOT, 'Elixir.MaculaStorage.CubDB.Snapshot').
-define(SQL, 'Elixir.MaculaStorage.SQLite').
-define(MNESIA, 'Elixir.MaculaStorage.Mnesia').
-define(STATE, 'Elixir.MaculaStorage.Khepri').
-define(STATE_TX, 'Elixir.MaculaStorage.Khepri.Tx').
-define(CACHE, 'Elixir.MaculaStorage.Cache').
-define(AUTHORITY, 'Elixir.MaculaStorage.Authority').

%% Directories and apps

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

%% Key-value. A function that writes answers a transaction with the transaction, as in Elixir.

data_put(Target, Key, Value) -> (kv(Target)):put(Target, Key, Value).
data_put(Target, Key, Value, Options) -> (kv(Target)):put(Target, Key, Value, Options).
data_put_new(Target, Key, Value) -> (kv(Target)):put_new(Target, Key, Value).
data_put_new(Target, Key, Value, Options) -> (kv(Target)):put_new(Target, Key, Value, Options).
data_ttl(Target, Key) -> (kv(Target)):ttl(Target, Key).
data_delete(Target, Key) -> (kv(Target)):delete(Target, Key).
data_clear(Target) -> (kv(Target)):clear(Target).

data_get(Target, Key) -> (kv(Target)):get(Target, Key).
data_get(Target, Key, Default) -> (kv(Target)):get(Target, Key, Default).
data_fetch(Target, Key) -> (kv(Target)):fetch(Target, Key).
data_has_key(Target, Key) -> (kv(Target)):'has_key?'(Target, Key).
data_get_multi(Target, Keys) -> (kv(Target)):get_multi(Target, Keys).
data_size(Target) -> (kv(Target)):size(Target).
data_count(Target) -> (kv(Target)):count(Target).
data_count(Target, Options) -> (kv(Target)):count(Target, Options).

%% All entries, or with {limit, N} the first N, in memory: fold over what may be more than fits.
data_select(Target) -> data_select(Target, []).
data_select(Target, Options) ->
    case lists:keytake(limit, 1, Options) of
        {value, {limit, Limit}, Bounds} -> first(Limit, (kv(Target)):select(Target, Bounds));
        false -> first(infinity, (kv(Target)):select(Target, Options))
    end.

%% Fun(Entry, Acc) -> Acc, page by page.
data_fold(Target, Options, Fun, Acc) ->
    'Elixir.Enum':reduce((kv(Target)):select(Target, Options), Acc, Fun).

data_put_multi(App, Entries) -> ?KV:put_multi(App, Entries).
data_put_multi(App, Entries, Options) -> ?KV:put_multi(App, Entries, Options).
data_delete_multi(App, Keys) -> ?KV:delete_multi(App, Keys).
data_put_and_delete_multi(App, Entries, Keys) -> ?KV:put_and_delete_multi(App, Entries, Keys).
data_update(App, Key, Initial, Fun) -> ?KV:update(App, Key, Initial, Fun).
data_get_and_update(App, Key, Fun) -> ?KV:get_and_update(App, Key, Fun).
data_get_and_update_multi(App, Keys, Fun) -> ?KV:get_and_update_multi(App, Keys, Fun).
data_compare_and_put(App, Key, Expected, New) -> ?KV:compare_and_put(App, Key, Expected, New).
data_compare_and_put(App, Key, Expected, New, Options) -> ?KV:compare_and_put(App, Key, Expected, New, Options).
data_compare_and_delete(App, Key, Expected) -> ?KV:compare_and_delete(App, Key, Expected).

%% Fun(Tx) -> {commit, Tx, Result} | {cancel, Result}.
data_transaction(App, Fun) -> ?KV:transaction(App, Fun).
data_transaction(App, Fun, Options) -> ?KV:transaction(App, Fun, Options).
data_refetch(Tx, Key, Snapshot) -> ?TX:refetch(Tx, Key, Snapshot).

data_snapshot(App) -> ?KV:snapshot(App).
data_snapshot(App, Timeout) -> ?KV:snapshot(App, Timeout).
data_release_snapshot(Snapshot) -> ?KV:release_snapshot(Snapshot).
data_with_snapshot(App, Fun) -> ?KV:with_snapshot(App, Fun).

data_start_link(App) -> ?KV:start_link(App).
data_start_link(App, Options) -> ?KV:start_link(App, Options).
data_start(App) -> ?KV:start(App).
data_start(App, Options) -> ?KV:start(App, Options).
data_child_spec(AppOrPair) -> ?KV:child_spec(AppOrPair).
data_stop(Store) -> ?KV:stop(Store).
data_stop(Store, Reason) -> ?KV:stop(Store, Reason).
data_stop(Store, Reason, Timeout) -> ?KV:stop(Store, Reason, Timeout).
data_dir(App) -> ?KV:data_dir(App).
data_current_db_file(App) -> ?KV:current_db_file(App).
data_file_sync(App) -> ?KV:file_sync(App).
data_set_auto_file_sync(App, Setting) -> ?KV:set_auto_file_sync(App, Setting).
data_compact(App) -> ?KV:compact(App).
data_compact(App, Options) -> ?KV:compact(App, Options).
data_stats(App) -> ?KV:stats(App).
data_set_auto_compact(App, Setting) -> ?KV:set_auto_compact(App, Setting).
data_halt_compaction(App) -> ?KV:halt_compaction(App).
data_compacting(App) -> ?KV:'compacting?'(App).
data_back_up(Source, Path) -> (kv(Source)):back_up(Source, Path).
data_check(App) -> ?KV:check(App).
data_dirt_factor(App) -> ?KV:dirt_factor(App).

%% Messages are {'Elixir.MaculaStorage.CubDB', Ref, Revision, Changes}.
data_subscribe(App) -> ?KV:subscribe(App).
data_subscribe(App, Options) -> ?KV:subscribe(App, Options).
data_unsubscribe(Ref) -> ?KV:unsubscribe(Ref).
data_revision(Source) -> (kv(Source)):revision(Source).

%% SQLite. A target is an app, a connection, or the transaction that a function was given.

sqlite_db_path(App) -> ?SQL:db_path(App).
sqlite_open(App) -> ?SQL:open(App).
sqlite_open(App, Options) -> ?SQL:open(App, Options).
sqlite_close(Conn) -> ?SQL:close(Conn).
sqlite_execute(Target, Sql) -> ?SQL:execute(Target, Sql).
sqlite_execute(Target, Sql, Params) -> ?SQL:execute(Target, Sql, Params).
sqlite_execute(Target, Sql, Params, Options) -> ?SQL:execute(Target, Sql, Params, Options).
sqlite_query(Target, Sql) -> ?SQL:query(Target, Sql).
sqlite_query(Target, Sql, Params) -> ?SQL:query(Target, Sql, Params).
sqlite_query(Target, Sql, Params, Options) -> ?SQL:query(Target, Sql, Params, Options).
sqlite_execute_many(Target, Sql, Rows) -> ?SQL:execute_many(Target, Sql, Rows).
sqlite_execute_many(Target, Sql, Rows, Options) -> ?SQL:execute_many(Target, Sql, Rows, Options).
sqlite_batch(Target, Statements) -> ?SQL:batch(Target, Statements).
sqlite_batch(Target, Statements, Options) -> ?SQL:batch(Target, Statements, Options).
%% Fun(Row, Acc) for each row, in memory of a page.
sqlite_fold(App, Sql, Params, Fun, Acc) -> 'Elixir.Enum':reduce(?SQL:stream(App, Sql, Params), Acc, Fun).
sqlite_stats(Target) -> ?SQL:stats(Target).
sqlite_optimize(Target) -> ?SQL:optimize(Target).
sqlite_integrity_check(Target) -> ?SQL:integrity_check(Target).
sqlite_vacuum(Target) -> ?SQL:vacuum(Target).
sqlite_vacuum(Target, Options) -> ?SQL:vacuum(Target, Options).
sqlite_subscribe(Target, Table) -> ?SQL:subscribe(Target, Table).
sqlite_subscribe(Target, Table, Options) -> ?SQL:subscribe(Target, Table, Options).
sqlite_unsubscribe(Ref) -> ?SQL:unsubscribe(Ref).
sqlite_transaction(Target, Fun) -> ?SQL:transaction(Target, Fun).
sqlite_transaction(Target, Fun, Options) -> ?SQL:transaction(Target, Fun, Options).
sqlite_rollback(Tx, Reason) -> ?SQL:rollback(Tx, Reason).
sqlite_backup(Target, Dest) -> ?SQL:backup(Target, Dest).
sqlite_backup(Target, Dest, Options) -> ?SQL:backup(Target, Dest, Options).
sqlite_bridge_path() -> ?SQL:bridge_path().
sqlite_bridge_status() -> ?SQL:bridge_status().

%% Mnesia, set up by us. Messages are {'Elixir.MaculaStorage.Mnesia', Ref, Event}; paths are binaries.

mnesia_setup(Nodes) -> ?MNESIA:setup(Nodes).
mnesia_setup(Nodes, Options) -> ?MNESIA:setup(Nodes, Options).
mnesia_create_app_table(App) -> ?MNESIA:create_app_table(App).
mnesia_create_app_table(App, Options) -> ?MNESIA:create_app_table(App, Options).
mnesia_put(App, Key, Value) -> ?MNESIA:put(App, Key, Value).
mnesia_put(App, Key, Value, Options) -> ?MNESIA:put(App, Key, Value, Options).
mnesia_get(App, Key) -> ?MNESIA:get(App, Key).
mnesia_get(App, Key, Options) -> ?MNESIA:get(App, Key, Options).
mnesia_delete(App, Key) -> ?MNESIA:delete(App, Key).
mnesia_delete(App, Key, Options) -> ?MNESIA:delete(App, Key, Options).
mnesia_list_keys(App) -> ?MNESIA:list_keys(App).
mnesia_backup(App, Path) -> ?MNESIA:backup(App, Path).
mnesia_backup(App, Path, Options) -> ?MNESIA:backup(App, Path, Options).
mnesia_restore(App, Path) -> ?MNESIA:restore(App, Path).
%% Fun({Key, Value}, Acc) -> Acc.
mnesia_backup_fold(App, Path, Acc, Fun) -> ?MNESIA:backup_fold(App, Path, Acc, Fun).
mnesia_status() -> ?MNESIA:status().
mnesia_resolve(MasterNode) -> ?MNESIA:resolve(MasterNode).
mnesia_resolve(MasterNode, Options) -> ?MNESIA:resolve(MasterNode, Options).
mnesia_subscribe() -> ?MNESIA:subscribe().
mnesia_unsubscribe(Ref) -> ?MNESIA:unsubscribe(Ref).

%% Replicated state

state_put(Path, Value) -> ?STATE:put(Path, Value).
state_put(Path, Value, Options) -> ?STATE:put(Path, Value, Options).
state_create(Path, Value) -> ?STATE:create(Path, Value).
state_create(Path, Value, Options) -> ?STATE:create(Path, Value, Options).
state_update(Path, Value) -> ?STATE:update(Path, Value).
state_update(Path, Value, Options) -> ?STATE:update(Path, Value, Options).
state_compare_and_swap(Path, Expected, Value) -> ?STATE:compare_and_swap(Path, Expected, Value).
state_compare_and_swap(Path, Expected, Value, Options) -> ?STATE:compare_and_swap(Path, Expected, Value, Options).
state_delete(Path) -> ?STATE:delete(Path).
state_delete(Path, Options) -> ?STATE:delete(Path, Options).
state_get(Path) -> ?STATE:get(Path).
state_get(Path, Options) -> ?STATE:get(Path, Options).
state_exists(Path) -> ?STATE:exists(Path).
state_exists(Path, Options) -> ?STATE:exists(Path, Options).
state_has_data(Path) -> ?STATE:has_data(Path).
state_has_data(Path, Options) -> ?STATE:has_data(Path, Options).
state_list(Path) -> ?STATE:list(Path).
state_list(Path, Options) -> ?STATE:list(Path, Options).
state_get_many(Pattern) -> ?STATE:get_many(Pattern).
state_get_many(Pattern, Options) -> ?STATE:get_many(Pattern, Options).
%% Fun(Path, Node, Acc) -> Acc; Fun(Path, Node) of foreach, map and filter.
state_fold(Pattern, Acc, Fun) -> ?STATE:fold(Pattern, Acc, Fun).
state_fold(Pattern, Acc, Fun, Options) -> ?STATE:fold(Pattern, Acc, Fun, Options).
state_foreach(Pattern, Fun) -> ?STATE:foreach(Pattern, Fun).
state_foreach(Pattern, Fun, Options) -> ?STATE:foreach(Pattern, Fun, Options).
state_map(Pattern, Fun) -> ?STATE:map(Pattern, Fun).
state_map(Pattern, Fun, Options) -> ?STATE:map(Pattern, Fun, Options).
state_filter(Pattern, Fun) -> ?STATE:filter(Pattern, Fun).
state_filter(Pattern, Fun, Options) -> ?STATE:filter(Pattern, Fun, Options).
state_count(Pattern) -> ?STATE:count(Pattern).
state_count(Pattern, Options) -> ?STATE:count(Pattern, Options).
state_put_many(Pattern, Value) -> ?STATE:put_many(Pattern, Value).
state_put_many(Pattern, Value, Options) -> ?STATE:put_many(Pattern, Value, Options).
state_delete_many(Pattern) -> ?STATE:delete_many(Pattern).
state_delete_many(Pattern, Options) -> ?STATE:delete_many(Pattern, Options).
%% Fun(Tx) -> Result, with state_tx_get, state_tx_put and state_tx_delete.
state_transaction(Fun) -> ?STATE:transaction(Fun).
state_transaction(Fun, Options) -> ?STATE:transaction(Fun, Options).
state_abort(Reason) -> ?STATE:abort(Reason).
state_txn(Conditions, Then) -> ?STATE:txn(Conditions, Then).
state_txn(Conditions, Then, Otherwise) -> ?STATE:txn(Conditions, Then, Otherwise).
state_txn(Conditions, Then, Otherwise, Options) -> ?STATE:txn(Conditions, Then, Otherwise, Options).
state_app_put(App, Key, Value) -> ?STATE:app_put(App, Key, Value).
state_app_get(App, Key) -> ?STATE:app_get(App, Key).
state_app_list_keys(App) -> ?STATE:app_list_keys(App).
%% Messages: {'Elixir.MaculaStorage.Khepri', Ref, Revision, [#{kind, path, value, version}]}.
state_watch(Pattern) -> ?STATE:watch(Pattern).
state_watch(Pattern, Options) -> ?STATE:watch(Pattern, Options).
state_unwatch(Ref) -> ?STATE:unwatch(Ref).
state_lease() -> ?STATE:lease().
state_lease(Pid) -> ?STATE:lease(Pid).
state_lease(Pid, Options) -> ?STATE:lease(Pid, Options).
state_revoke(Id) -> ?STATE:revoke(Id).
state_revoke(Id, Options) -> ?STATE:revoke(Id, Options).
state_export(Pattern, File) -> ?STATE:export(Pattern, File).
state_export(Pattern, File, Options) -> ?STATE:export(Pattern, File, Options).
state_import(File) -> ?STATE:import(File).
state_import(File, Options) -> ?STATE:import(File, Options).
state_start(Nodes) -> ?STATE:start(Nodes).
state_start(Nodes, Options) -> ?STATE:start(Nodes, Options).
state_join(NodeOrInvitation) -> ?STATE:join(NodeOrInvitation).
state_join(NodeOrInvitation, Options) -> ?STATE:join(NodeOrInvitation, Options).
state_invite() -> ?STATE:invite().
state_invite(Options) -> ?STATE:invite(Options).
state_leave() -> ?STATE:leave().
state_leave(Node) -> ?STATE:leave(Node).
state_leave(Node, Options) -> ?STATE:leave(Node, Options).
state_replace(Old, New) -> ?STATE:replace(Old, New).
state_replace(Old, New, Options) -> ?STATE:replace(Old, New, Options).
state_reset() -> ?STATE:reset().
state_reset(Options) -> ?STATE:reset(Options).
state_members() -> ?STATE:members().
state_transfer_leader(Node) -> ?STATE:transfer_leader(Node).
state_transfer_leader(Node, Options) -> ?STATE:transfer_leader(Node, Options).
state_wait_for_leader() -> ?STATE:wait_for_leader().
state_wait_for_leader(Timeout) -> ?STATE:wait_for_leader(Timeout).
state_status() -> ?STATE:status().
state_close() -> ?STATE:close().
state_tx_get(Tx, Path) -> ?STATE_TX:get(Tx, Path).
state_tx_get_many(Tx, Pattern) -> ?STATE_TX:get_many(Tx, Pattern).
state_tx_put(Tx, Path, Value) -> ?STATE_TX:put(Tx, Path, Value).
state_tx_put(Tx, Path, Value, Options) -> ?STATE_TX:put(Tx, Path, Value, Options).
state_tx_delete(Tx, Path) -> ?STATE_TX:delete(Tx, Path).
state_cache_start_link(Options) -> ?CACHE:start_link(Options).
state_cache_child_spec(Options) -> ?CACHE:child_spec(Options).
state_cache_get(Name, Path) -> ?CACHE:get(Name, Path).
state_cache_get(Name, Path, Options) -> ?CACHE:get(Name, Path, Options).
state_cache_fetch(Name, Path) -> ?CACHE:fetch(Name, Path).
state_cache_fetch(Name, Path, Default) -> ?CACHE:fetch(Name, Path, Default).
state_cache_list(Name, Path) -> ?CACHE:list(Name, Path).
state_cache_list(Name, Path, Options) -> ?CACHE:list(Name, Path, Options).
state_cache_wait(Name) -> ?CACHE:wait(Name).
state_cache_wait(Name, Timeout) -> ?CACHE:wait(Name, Timeout).
state_cache_stats(Name) -> ?CACHE:stats(Name).

%% Certificates. Directories are strings or binaries, in results binaries.

authority_create(Dir) -> ?AUTHORITY:create(Dir).
authority_create(Dir, Options) -> ?AUTHORITY:create(Dir, Options).
authority_issue(Dir, Node) -> ?AUTHORITY:issue(Dir, Node).
authority_issue(Dir, Node, Options) -> ?AUTHORITY:issue(Dir, Node, Options).
authority_describe(Dir) -> ?AUTHORITY:describe(Dir).

%% Replicated files; in chunks by file_fold and file_unfold with {replicate, true}

mesh_write(App, Name, Content) -> ?MESH:write(App, Name, Content).
mesh_write(App, Name, Content, Options) -> ?MESH:write(App, Name, Content, Options).
mesh_read(App, Name) -> ?MESH:read(App, Name).
mesh_read(App, Name, Options) -> ?MESH:read(App, Name, Options).
mesh_delete(App, Name) -> ?MESH:delete(App, Name).
mesh_delete(App, Name, Options) -> ?MESH:delete(App, Name, Options).
mesh_list(App) -> ?MESH:list(App).
mesh_list(App, Options) -> ?MESH:list(App, Options).
mesh_conflicts(App) -> ?MESH:conflicts(App).
mesh_conflicts(App, Options) -> ?MESH:conflicts(App, Options).
mesh_subscribe(App) -> ?MESH:subscribe(App).
mesh_subscribe(App, Options) -> ?MESH:subscribe(App, Options).
mesh_unsubscribe(Ref) -> ?MESH:unsubscribe(Ref).
mesh_stat(App, Name) -> ?MESH:stat(App, Name).
mesh_stat(App, Name, Options) -> ?MESH:stat(App, Name, Options).
mesh_versions(App, Name) -> ?MESH:versions(App, Name).
mesh_versions(App, Name, Options) -> ?MESH:versions(App, Name, Options).
mesh_resolve(App, Name, Version) -> ?MESH:resolve(App, Name, Version).
mesh_resolve(App, Name, Version, Options) -> ?MESH:resolve(App, Name, Version, Options).
mesh_status() -> ?MESH:status().
mesh_status(Options) -> ?MESH:status(Options).
mesh_copy(App, Name, To) -> ?MESH:copy(App, Name, To).
mesh_copy(App, Name, To, Options) -> ?MESH:copy(App, Name, To, Options).
mesh_rename(App, Name, To) -> ?MESH:rename(App, Name, To).
mesh_rename(App, Name, To, Options) -> ?MESH:rename(App, Name, To, Options).
mesh_transport_up(Node) -> ?MESH_TRANSPORT:up(Node).
mesh_transport_down(Node) -> ?MESH_TRANSPORT:down(Node).
mesh_transport_answer(From, Request) -> ?MESH_TRANSPORT:answer(From, Request).
mesh_transport_answer(From, Request, Options) -> ?MESH_TRANSPORT:answer(From, Request, Options).
mesh_scrub() -> ?MESH:scrub().
mesh_scrub(Options) -> ?MESH:scrub(Options).
mesh_scan(App) -> ?MESH:scan(App).
mesh_scan(App, Options) -> ?MESH:scan(App, Options).

%% Files

file_write(App, Name, Content) -> ?M:file_write(App, Name, Content).
file_write(App, Name, Content, Options) -> ?M:file_write(App, Name, Content, Options).
file_read(App, Name) -> ?M:file_read(App, Name).
file_read(App, Name, Options) -> ?M:file_read(App, Name, Options).
file_delete(App, Name) -> ?M:file_delete(App, Name).
file_delete(App, Name, Options) -> ?M:file_delete(App, Name, Options).
file_list(App) -> ?M:file_list(App).
file_list(App, Options) -> ?M:file_list(App, Options).
file_stat(App, Name) -> ?M:file_stat(App, Name).

%% Reads a file of any size: Fun(Chunk, Acc) -> Acc. Options: {chunk_bytes, N}.
file_fold(App, Name, Fun, Acc) -> file_fold(App, Name, Fun, Acc, []).
file_fold(App, Name, Fun, Acc, Options) ->
    'Elixir.Enum':reduce(?M:'file_stream!'(App, Name, Options), Acc, Fun).

%% Writes a file of any size: Next(Acc) -> {Chunk, Acc} | done. All of it or, when Next fails, nothing.
file_unfold(App, Name, Next, Acc) ->
    Chunks = 'Elixir.Stream':unfold(Acc, fun(State) ->
        case Next(State) of
            done -> nil;
            {Chunk, Then} -> {Chunk, Then}
        end
    end),
    'Elixir.Enum':into(Chunks, ?M:'file_stream!'(App, Name)),
    ok.

%% Archives

archive(App, Dest) -> ?M:archive(App, Dest).
archive(App, Dest, Options) -> ?M:archive(App, Dest, Options).
restore(App, Archive) -> ?M:restore(App, Archive).
restore(App, Archive, Options) -> ?M:restore(App, Archive, Options).

kv(#{'__struct__' := ?TX}) -> ?TX;
kv(#{'__struct__' := ?SNAPSHOT}) -> ?SNAPSHOT;
kv(_App) -> ?KV.

first(infinity, Stream) -> 'Elixir.Enum':to_list(Stream);
first(Limit, Stream) when is_integer(Limit), Limit >= 0 -> 'Elixir.Enum':take(Stream, Limit);
first(_Limit, _Stream) -> erlang:error(badarg).
