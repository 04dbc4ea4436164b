%% What an Erlang application does with the library: a call of each function, its answer matched. A
%% failed match ends the test with the line.
-module(facade_user).

-export([directories/1, key_value/1, many/1, transactions/1, snapshots/1, stores/1, directory/1, sqlite/2, files/1, chunks/1, mesh/1, backups/1, archives/2, misuse/1, atoms/1, mnesia/2, state/2, certificates/1]).

directories(App) ->
    ok = macula_storage:ensure_app_dirs(App),
    <<_, _/binary>> = macula_storage:app_data_path(App),
    <<_, _/binary>> = macula_storage:app_uploads_path(App),
    <<_, _/binary>> = macula_storage:app_cache_path(App),
    {ok, Apps} = macula_storage:list_apps(),
    true = lists:member(App, Apps),
    Used = macula_storage:app_quota(App),
    {ok, #{total := Used, parts := #{kv := _}}} = macula_storage:app_usage(App),
    {ok, #{age_ms := Age}} = macula_storage:app_usage(App, [{fresh, true}]),
    true = is_integer(Age),
    {ok, Pid} = macula_storage:app_owner(App),
    Pid = list_to_integer(os:getpid()),
    ok = macula_storage:close_app(App),
    {ok, nil} = macula_storage:app_owner(App),
    ok.

key_value(App) ->
    ok = macula_storage:data_put(App, {user, 1}, #{name => "Ada"}),
    ok = macula_storage:data_put(App, {user, 2}, undefined, []),
    #{name := "Ada"} = macula_storage:data_get(App, {user, 1}),
    undefined = macula_storage:data_get(App, {user, 2}, none),
    nil = macula_storage:data_get(App, {user, 3}),
    none = macula_storage:data_get(App, {user, 3}, none),
    ok = macula_storage:data_delete(App, {user, 2}),
    Collect = fun({Key, _Value}, Acc) -> [Key | Acc] end,
    [{user, 1}] = macula_storage:data_fold(App, [{min_key, {user, 0}}], Collect, []),
    {ok, #{name := "Ada"}} = macula_storage:data_fetch(App, {user, 1}),
    error = macula_storage:data_fetch(App, {user, 3}),
    true = macula_storage:data_has_key(App, {user, 1}),
    {error, exists} = macula_storage:data_put_new(App, {user, 1}, x),
    <<_, _/binary>> = macula_storage:data_dir(App),
    ok = macula_storage:data_put(App, session, 1, [{ttl, 600000}]),
    {ok, Left} = macula_storage:data_ttl(App, session),
    true = Left > 0 andalso Left =< 600000,
    {error, exists} = macula_storage:data_put_new(App, session, 2, [{ttl, 600000}]),
    ok = macula_storage:data_put_multi(App, [{session, 3}], [{ttl, infinity}]),
    {ok, infinity} = macula_storage:data_ttl(App, session),
    ok = macula_storage:data_compare_and_put(App, session, {ok, 3}, 4, [{ttl, 600000}]),
    committed = macula_storage:data_transaction(App, fun(Tx) ->
        {ok, _} = macula_storage:data_ttl(Tx, session),
        {commit, macula_storage:data_put(Tx, session, 5, [{ttl, 600000}]), committed}
    end),
    {ok, _} = macula_storage:data_with_snapshot(App, fun(Of) -> macula_storage:data_ttl(Of, session) end),
    ok = macula_storage:data_delete(App, session),
    error = macula_storage:data_ttl(App, session),
    ok.

many(App) ->
    Size = macula_storage:data_size(App),
    ok = macula_storage:data_put_multi(App, [{N, N * N} || N <- lists:seq(1, 2000)]),
    ok = macula_storage:data_put_multi(App, #{a => 1, b => 2}),
    #{1 := 1, 2 := 4} = Found = macula_storage:data_get_multi(App, [1, 2, none]),
    2 = map_size(Found),
    Numbers = [{max_key, 2000}],
    2000 = length(macula_storage:data_select(App, Numbers)),
    [{1, 1}, {2, 4}] = macula_storage:data_select(App, [{limit, 2}]),
    [{2000, 4000000}] = macula_storage:data_select(App, [{limit, 1}, {reverse, true} | Numbers]),
    2000 = length(macula_storage:data_select(App, [{limit, infinity} | Numbers])),
    [] = macula_storage:data_select(App, [{limit, 0}]),
    2000 = macula_storage:data_count(App, Numbers),
    true = macula_storage:data_count(App) =:= macula_storage:data_size(App),
    [{{user, 1}, _}] = macula_storage:data_select(App, [{prefix, {user}}, {tuple_size, 2}]),
    true = length(macula_storage:data_select(App)) =:= macula_storage:data_size(App),
    ok = macula_storage:data_delete_multi(App, lists:seq(3, 2000)),
    ok = macula_storage:data_put_and_delete_multi(App, [{c, 3}], [1, 2]),
    ok = macula_storage:data_update(App, a, 0, fun(N) -> N + 1 end),
    2 = macula_storage:data_get_and_update(App, a, fun(2) -> {2, 3} end),
    6 = macula_storage:data_get_and_update_multi(App, [a, c], fun(#{a := A, c := C}) -> {A + C, #{}, [a, b, c]} end),
    Size = macula_storage:data_size(App),
    ok = macula_storage:data_compare_and_put(App, lease, error, 1),
    {error, conflict} = macula_storage:data_compare_and_put(App, lease, {ok, 2}, 3),
    ok = macula_storage:data_compare_and_delete(App, lease, {ok, 1}),
    {ok, All, Revision} = macula_storage:data_subscribe(App),
    Revision = macula_storage:data_revision(App),
    {ok, Ref, Revision} = macula_storage:data_subscribe(App, [{key, lease}, {from, Revision}]),
    ok = macula_storage:data_put(App, lease, 1),
    receive {'Elixir.MaculaStorage.CubDB', Ref, Later, [{put, lease, 1}]} when Later > Revision -> ok end,
    ok = macula_storage:data_unsubscribe(Ref),
    ok = macula_storage:data_unsubscribe(All),
    ok.

transactions(App) ->
    done = macula_storage:data_transaction(App, fun(Tx) ->
        Tx = macula_storage:data_put(Tx, x, 1),
        {error, exists} = macula_storage:data_put_new(Tx, x, 2),
        Tx = macula_storage:data_put_new(Tx, y, 2),
        Tx = macula_storage:data_delete(Tx, y),
        1 = macula_storage:data_get(Tx, x),
        none = macula_storage:data_get(Tx, y, none),
        {ok, 1} = macula_storage:data_fetch(Tx, x),
        false = macula_storage:data_has_key(Tx, y),
        #{x := 1} = macula_storage:data_get_multi(Tx, [x, y]),
        [{x, 1}] = macula_storage:data_select(Tx, [{min_key, x}, {max_key, y}]),
        1 = macula_storage:data_count(Tx, [{min_key, x}, {max_key, y}]),
        1 = macula_storage:data_fold(Tx, [{min_key, x}, {max_key, y}], fun(_, N) -> N + 1 end, 0),
        {commit, Tx, done}
    end),
    1 = macula_storage:data_get(App, x),
    Cancel = fun(Tx) ->
        0 = macula_storage:data_size(macula_storage:data_clear(Tx)),
        {cancel, cancelled}
    end,
    cancelled = macula_storage:data_transaction(App, Cancel, [{timeout, 60000}]),
    1 = macula_storage:data_get(App, x),
    ok.

snapshots(App) ->
    Snapshot = macula_storage:data_snapshot(App),
    ok = macula_storage:data_put(App, x, 2),
    1 = macula_storage:data_get(Snapshot, x),
    {ok, 1} = macula_storage:data_fetch(Snapshot, x),
    true = macula_storage:data_has_key(Snapshot, x),
    #{x := 1} = macula_storage:data_get_multi(Snapshot, [x]),
    true = macula_storage:data_size(Snapshot) > 0,
    [{x, 1}] = macula_storage:data_select(Snapshot, [{min_key, x}, {limit, 1}]),
    1 = macula_storage:data_count(Snapshot, [{min_key, x}, {max_key, x}]),
    {ok, 2} = macula_storage:data_transaction(App, fun(Tx) ->
        {cancel, macula_storage:data_refetch(Tx, x, Snapshot)}
    end),
    ok = macula_storage:data_release_snapshot(Snapshot),
    closed = try macula_storage:data_get(Snapshot, x) catch
        error:#{'__struct__' := 'Elixir.MaculaStorage.Error', kind := Kind} -> Kind
    end,
    ok = macula_storage:data_release_snapshot(macula_storage:data_snapshot(App, 60000)),
    2 = macula_storage:data_with_snapshot(App, fun(Of) -> macula_storage:data_get(Of, x) end),
    ok.

stores(App) ->
    Name = <<App/binary, "-store">>,
    {ok, Pid} = macula_storage:data_start_link(App, [{name, Name}]),
    {error, {already_started, Pid}} = macula_storage:data_start(App, [{name, Name}]),
    2 = macula_storage:data_get(Name, x),
    2 = macula_storage:data_get(Pid, x),
    ok = macula_storage:data_stop(Pid),
    {error, closed} = macula_storage:data_put(Name, x, 3),
    {ok, One} = macula_storage:data_start(App),
    ok = macula_storage:data_stop(One, normal),
    {ok, Two} = macula_storage:data_start_link(App),
    ok = macula_storage:data_stop(Two, normal, 60000),
    #{start := {_, start_link, [App, []]}} = macula_storage:data_child_spec(App),
    ok.

directory(Dir) ->
    {ok, Db} = macula_storage:data_start([{data_dir, Dir}]),
    {error, {locked, OsPid}} = macula_storage:data_start(binary_to_list(Dir)),
    OsPid = list_to_integer(os:getpid()),
    ok = macula_storage:data_put(Db, x, 1),
    1 = macula_storage:data_get(Db, x),
    Dir = macula_storage:data_dir(Db),
    <<_, _/binary>> = macula_storage:data_current_db_file(Db),
    ok = macula_storage:data_file_sync(Db),
    ok = macula_storage:data_set_auto_file_sync(Db, false),
    ok = macula_storage:data_set_auto_compact(Db, {100, 0.25}),
    {ok, #{bytes_before := _, bytes_after := _}} = macula_storage:data_compact(Db, [{wait, true}]),
    {error, no_compaction_running} = macula_storage:data_halt_compaction(Db),
    #{live_bytes := _} = macula_storage:data_stats(Db),
    false = macula_storage:data_compacting(Db),
    true = macula_storage:data_dirt_factor(Db) =:= 0.0,
    {ok, #{entries := 1, blocks := _}} = macula_storage:data_check(Db),
    ok = macula_storage:data_back_up(Db, <<Dir/binary, "-copy">>),
    {error, eexist} = macula_storage:data_back_up(Db, <<Dir/binary, "-copy">>),
    ok = macula_storage:data_with_snapshot(Db, fun(Of) -> macula_storage:data_back_up(Of, <<Dir/binary, "-of">>) end),
    ok = macula_storage:data_stop(Db),
    ok.

sqlite(App, Dest) ->
    <<_, _/binary>> = macula_storage:sqlite_db_path(App),
    <<_, _/binary>> = macula_storage:sqlite_bridge_path(),
    not_loaded = macula_storage:sqlite_bridge_status(),
    {ok, Conn} = macula_storage:sqlite_open(App),
    ok = macula_storage:sqlite_execute(Conn, "CREATE TABLE t (id INTEGER PRIMARY KEY, v); INSERT INTO t VALUES (1, 'one')"),
    ok = macula_storage:sqlite_execute(App, <<"INSERT INTO t VALUES (?, ?)">>, [2, {blob, <<"two">>}]),
    ok = macula_storage:sqlite_execute(App, "INSERT INTO t VALUES (:id, :v)", #{id => 3, v => 3.5}, [{timeout, 60000}]),
    {ok, #{columns := [<<"v">>], rows := [[<<"one">>], [<<"two">>], [3.5]]}} =
        macula_storage:sqlite_query(App, "SELECT v FROM t ORDER BY id"),
    {ok, #{rows := [[2]]}} = macula_storage:sqlite_query(Conn, "SELECT id FROM t WHERE id = :id", [{id, 2}]),
    {ok, #{changes := 1, last_insert_rowid := 4}} =
        macula_storage:sqlite_query(App, "INSERT INTO t (v) VALUES (?)", [nil], [{timeout, infinity}]),
    {ok, four} = macula_storage:sqlite_transaction(App, fun(Tx) ->
        {ok, #{rows := [[4]]}} = macula_storage:sqlite_query(Tx, "SELECT count(*) FROM t"),
        ok = macula_storage:sqlite_execute(Tx, "DELETE FROM t WHERE id = ?", [4]),
        four
    end),
    Rollback = fun(Tx) ->
        ok = macula_storage:sqlite_execute(Tx, "DELETE FROM t"),
        macula_storage:sqlite_rollback(Tx, undone)
    end,
    {error, undone} = macula_storage:sqlite_transaction(Conn, Rollback, [{timeout, 60000}]),
    {ok, #{rows := [[3]]}} = macula_storage:sqlite_query(App, "SELECT count(*) FROM t"),
    ok = macula_storage:sqlite_backup(App, Dest),
    {error, exists} = macula_storage:sqlite_backup(Conn, Dest),
    ok = macula_storage:sqlite_backup(Conn, Dest, [{overwrite, true}]),
    ok = macula_storage:sqlite_close(Conn),
    {error, closed} = macula_storage:sqlite_query(Conn, "SELECT 1"),
    {ok, Again} = macula_storage:sqlite_open(App, []),
    ok = macula_storage:sqlite_close(Again),
    {error, #{kind := sql}} = macula_storage:sqlite_query(App, "SELEC 1"),
    ok.

mnesia(App, Path) ->
    ok = macula_storage:mnesia_setup([node()]),
    ok = macula_storage:mnesia_setup([node()], [{timeout, 30000}]),
    ok = macula_storage:mnesia_create_app_table(App),
    ok = macula_storage:mnesia_create_app_table(App, [{replicas, [node()]}]),
    {ok, Ref} = macula_storage:mnesia_subscribe(),
    ok = macula_storage:mnesia_put(App, {user, 1}, #{name => "Ada"}),
    ok = macula_storage:mnesia_put(App, 2, two, [{durability, async}]),
    {ok, #{name := "Ada"}} = macula_storage:mnesia_get(App, {user, 1}),
    {ok, two} = macula_storage:mnesia_get(App, 2, [{consistency, local}]),
    ok = macula_storage:mnesia_backup(App, Path),
    {error, exists} = macula_storage:mnesia_backup(App, Path),
    ok = macula_storage:mnesia_backup(App, Path, [{overwrite, true}]),
    ok = macula_storage:mnesia_delete(App, 2),
    ok = macula_storage:mnesia_delete(App, {user, 1}, [{durability, async}]),
    {error, not_found} = macula_storage:mnesia_get(App, 2),
    {ok, 2} = macula_storage:mnesia_backup_fold(App, Path, 0, fun({_Key, _Value}, N) -> N + 1 end),
    ok = macula_storage:mnesia_restore(App, Path),
    {ok, [_, _]} = macula_storage:mnesia_list_keys(App),
    #{running := true, inconsistent := []} = macula_storage:mnesia_status(),
    {ok, None} = macula_storage:mnesia_resolve(node()),
    {ok, None} = macula_storage:mnesia_resolve(node(), [{timeout, 1000}]),
    0 = map_size(None),
    ok = macula_storage:mnesia_unsubscribe(Ref).

state(Root, File) ->
    ok = macula_storage:state_put([Root, a], 1),
    ok = macula_storage:state_put([Root, b], 2, [{ttl, 600000}]),
    {error, exists} = macula_storage:state_create([Root, a], 1),
    ok = macula_storage:state_update([Root, a], 3, []),
    ok = macula_storage:state_compare_and_swap([Root, a], 3, 4),
    {ok, 4} = macula_storage:state_get([Root, a]),
    {ok, 4} = macula_storage:state_get([Root, a], [{consistency, local}]),
    true = macula_storage:state_exists([Root]),
    false = macula_storage:state_has_data([Root]),
    {ok, [a, b]} = macula_storage:state_list([Root]),
    ok = macula_storage:state_start([node()]),
    {ok, [#{standing := voter, leader := true}]} = macula_storage:state_members(),
    {ok, _Leader} = macula_storage:state_wait_for_leader(),
    {ok, #{[Root, a] := 4}} = macula_storage:state_get_many([Root, '*']),
    {ok, 6} = macula_storage:state_fold([Root, '*'], 0, fun(_Path, #{value := N}, Sum) -> Sum + N end),
    ok = macula_storage:state_foreach([Root, '*'], fun(_Path, #{value := _}) -> ok end),
    {ok, #{[Root, b] := 3}} = macula_storage:state_map([Root, '*'], fun(_Path, #{value := N}) -> N + 1 end),
    {ok, Even} = macula_storage:state_filter([Root, '*'], fun(_Path, #{value := N}) -> N =:= 4 end),
    1 = map_size(Even),
    {ok, 2} = macula_storage:state_count([Root, '*']),
    {ok, 1} = macula_storage:state_put_many([Root, '*'], 5, [{where, [{value, 4}]}]),
    {ok, 5} = macula_storage:state_transaction(fun(Tx) ->
        {ok, N} = macula_storage:state_tx_get(Tx, [Root, a]),
        ok = macula_storage:state_tx_put(Tx, [Root, a], N + 1),
        ok = macula_storage:state_tx_delete(Tx, [Root, b]),
        N
    end),
    {error, {aborted, no}} = macula_storage:state_transaction(fun(_) -> macula_storage:state_abort(no) end),
    {ok, true, [{ok, 6}]} = macula_storage:state_txn([{[Root, a], [{value, 6}]}], [{get, [Root, a]}]),
    ok = macula_storage:state_app_put(Root, key, 1),
    {ok, 1} = macula_storage:state_app_get(Root, key),
    {ok, [key]} = macula_storage:state_app_list_keys(Root),
    ok = macula_storage:state_delete([apps, Root]),
    state_watched(Root),
    {ok, #{entries := 1}} = macula_storage:state_export([Root], File),
    %% its parent goes with the last of them
    {ok, 2} = macula_storage:state_delete_many([Root, '*']),
    {ok, 1} = macula_storage:state_import(File),
    {ok, #{revision := _}} = macula_storage:state_status(),
    ok = macula_storage:state_delete([Root]).

state_watched(Root) ->
    {ok, Ref, Revision} = macula_storage:state_watch([Root, '**']),
    {ok, Cache} = macula_storage:state_cache_start_link([{prefix, [Root]}, {name, Name = list_to_atom(Root)}]),
    ok = macula_storage:state_cache_wait(Name),
    {ok, 6} = macula_storage:state_cache_get(Name, [Root, a]),
    {ok, 6} = macula_storage:state_get([Root, a], [{consistency, cached}]),
    none = macula_storage:state_cache_fetch(Name, [Root, b], none),
    {ok, [a]} = macula_storage:state_cache_list(Name, [Root]),
    #{state := ready, entries := 1} = macula_storage:state_cache_stats(Name),
    ok = gen_server:stop(Cache),
    {ok, Id} = macula_storage:state_lease(),
    ok = macula_storage:state_put([Root, held], 1, [{lease, Id}]),
    ok = macula_storage:state_revoke(Id),
    receive {'Elixir.MaculaStorage.Khepri', Ref, Put, [#{kind := put, path := [Root, held], value := 1}]} when Put > Revision -> ok end,
    receive {'Elixir.MaculaStorage.Khepri', Ref, _, [#{kind := deleted, path := [Root, held]}]} -> ok end,
    ok = macula_storage:state_unwatch(Ref).

files(App) ->
    ok = macula_storage:file_write(App, "a/b.txt", ["io", <<"data">>]),
    ok = macula_storage:file_write(App, <<"c">>, <<"c">>, [{timeout, 60000}]),
    {ok, <<"iodata">>} = macula_storage:file_read(App, <<"a/b.txt">>),
    {error, too_large} = macula_storage:file_read(App, "a/b.txt", [{bytes_max, 1}]),
    {ok, #{size := 6}} = macula_storage:file_stat(App, "a/b.txt"),
    {ok, [<<"a/b.txt">>, <<"c">>]} = macula_storage:file_list(App),
    {ok, [<<"c">>]} = macula_storage:file_list(App, [{'after', <<"b">>}]),
    ok = macula_storage:file_delete(App, "c"),
    {error, not_found} = macula_storage:file_delete(App, "c", [{timeout, 60000}]),
    {error, not_found} = macula_storage:file_read(App, "c"),
    ok.

chunks(App) ->
    Next = fun(0) -> done; (N) -> {["chunk", integer_to_list(N), $\n], N - 1} end,
    ok = macula_storage:file_unfold(App, "many", Next, 10000),
    Size = fun(Chunk, {Count, Bytes}) -> {Count + 1, Bytes + byte_size(Chunk)} end,
    {_, Bytes} = macula_storage:file_fold(App, <<"many">>, Size, {0, 0}),
    {ok, #{size := Bytes}} = macula_storage:file_stat(App, "many"),
    {Chunks, Bytes} = macula_storage:file_fold(App, "many", Size, {0, 0}, [{chunk_bytes, 1000}]),
    true = Chunks >= Bytes div 1000,
    %% one that fails half way leaves what was there
    failed = try macula_storage:file_unfold(App, "many", fun(0) -> throw(failed); (N) -> {"x", N - 1} end, 10) catch
        throw:Reason -> Reason
    end,
    {ok, #{size := Bytes}} = macula_storage:file_stat(App, "many"),
    not_found = try macula_storage:file_fold(App, "none", Size, {0, 0}) catch
        error:#{'__struct__' := 'Elixir.MaculaStorage.Error', kind := Kind} -> Kind
    end,
    ok = macula_storage:file_delete(App, "many"),
    ok.

mesh(App) ->
    ok = macula_storage:mesh_write(App, "a/b.txt", ["io", <<"data">>]),
    {error, unsupported} = macula_storage:mesh_transport_up('b@host'),
    {error, unsupported} = macula_storage:mesh_transport_down(<<"b@host">>),
    {error, unsupported} = macula_storage:mesh_transport_answer('b@host', <<"request">>),
    {error, unsupported} = macula_storage:mesh_transport_answer('b@host', <<>>, [{timeout, 1000}]),
    {ok, #{version := Version, replicas := 0}} = macula_storage:mesh_write(App, <<"c">>, "c", [{return, info}, {ack, all}]),
    {ok, <<"iodata">>} = macula_storage:mesh_read(App, <<"a/b.txt">>),
    {ok, <<"data">>} = macula_storage:mesh_read(App, "a/b.txt", [{range, {2, 4}}]),
    {ok, <<"iodata">>} = macula_storage:file_read(App, "a/b.txt", [{replicate, true}]),
    {ok, #{size := 6, here := true, conflicts := 0}} = macula_storage:mesh_stat(App, "a/b.txt"),
    {ok, #{version := Version}} = macula_storage:mesh_stat(App, "c", [{timeout, 60000}]),
    {ok, [#{version := Version, size := 1}]} = macula_storage:mesh_versions(App, "c"),
    {ok, [_]} = macula_storage:mesh_versions(App, "c", [{timeout, 60000}]),
    ok = macula_storage:mesh_resolve(App, "c", Version),
    {error, not_found} = macula_storage:mesh_resolve(App, "c", Version, [{ack, local}]),
    {ok, [<<"a/b.txt">>, <<"c">>]} = macula_storage:mesh_list(App),
    {ok, [<<"c">>]} = macula_storage:mesh_list(App, [{'after', <<"b">>}]),
    ok = macula_storage:mesh_delete(App, "c"),
    {error, not_found} = macula_storage:mesh_delete(App, "c", [{ack, local}]),
    ok = macula_storage:mesh_copy(App, "a/b.txt", "c"),
    ok = macula_storage:mesh_copy(App, "a/b.txt", "d", [{ack, local}]),
    ok = macula_storage:mesh_rename(App, "c", "e"),
    ok = macula_storage:mesh_rename(App, <<"d">>, <<"f">>, [{ack, local}]),
    {ok, [<<"a/b.txt">>, <<"e">>, <<"f">>]} = macula_storage:mesh_list(App),
    {ok, #{known := 3, found := 0, changed := 0, deleted := 0, lost := 0}} = macula_storage:mesh_scan(App),
    {ok, #{known := 3}} = macula_storage:mesh_scan(App, [{deletions, true}]),
    {ok, #{files := _, bytes := _, mended := _, rotten := _}} = macula_storage:mesh_scrub(),
    {ok, #{files := _}} = macula_storage:mesh_scrub([{pause_us, 1}]),
    {ok, []} = macula_storage:mesh_conflicts(App),
    {ok, []} = macula_storage:mesh_conflicts(App, [{prefix, <<"a">>}]),
    {ok, Ref} = macula_storage:mesh_subscribe(App),
    ok = macula_storage:mesh_unsubscribe(Ref),
    {ok, Other} = macula_storage:mesh_subscribe(App, [{kinds, [conflict]}, {prefix, <<"a">>}]),
    ok = macula_storage:mesh_unsubscribe(Other),
    {ok, #{peers := [], scrub := #{last := _}}} = macula_storage:mesh_status(),
    {ok, #{peers := []}} = macula_storage:mesh_status([{timeout, 60000}]),
    ok.

backups(App) ->
    {ok, Tarball} = macula_backup:backup_app(App),
    {ok, Gz} = macula_backup:backup_app(App, [{format, gz}]),
    Listed = [filename:basename(Gz), filename:basename(Tarball)],
    Listed = macula_backup:list_backups(App),
    [#{verified := _}, #{bytes := _}] = macula_backup:list_backups(App, [{details, true}]),
    ok = macula_storage:data_put(App, later, 1),
    ok = macula_backup:restore_app(App, Tarball),
    nil = macula_storage:data_get(App, later),
    ok = macula_backup:restore_app(App, filename:basename(Gz), [{bytes_max, 1000000000}]),
    #{name := "Ada"} = macula_storage:data_get(App, {user, 1}),
    ok.

archives(App, Dest) ->
    {ok, #{path := Dest}} = macula_storage:archive(App, Dest),
    {error, exists} = macula_storage:archive(App, Dest, [{verify, false}]),
    ok = macula_storage:restore(App, Dest),
    ok = macula_storage:restore(App, Dest, [{foreign, false}]),
    {ok, <<"iodata">>} = macula_storage:file_read(App, "a/b.txt"),
    ok.

certificates(Dir) ->
    Ca = Dir ++ "/ca",
    {ok, #{kind := authority, id := Id, dir := _}} = macula_storage:authority_create(Ca),
    {error, exists} = macula_storage:authority_create(Ca, [{days, 30}]),
    {ok, #{id := Next}} = macula_storage:authority_create(Dir ++ "/next", [{successor_of, Ca}]),
    {ok, #{role := member, dir := Out}} = macula_storage:authority_issue(Ca, 'a@host'),
    {ok, #{trusts := [Id, Next]}} = macula_storage:authority_issue(Ca, "a@host", [{trust, [Dir ++ "/next"]}]),
    {ok, #{trusts := [Id, Next]}} = macula_storage:authority_issue(Ca, <<"a@host">>, [{trust, Dir ++ "/next"}]),
    {ok, #{kind := certificate, node := <<"a@host">>, days_left := 364}} = macula_storage:authority_describe(Out),
    ok.

misuse(App) ->
    {error, Error} = macula_storage:file_read(App, "../x"),
    invalid = maps:get(kind, Error),
    Badarg = fun(Call) ->
        try Call() of
            Answer -> exit({answered, Answer})
        catch
            error:#{'__struct__' := 'Elixir.ArgumentError'} -> ok
        end
    end,
    ok = Badarg(fun() -> macula_storage:data_put("No App", 1, 1) end),
    ok = Badarg(fun() -> macula_storage:data_select(App, [{nonsense, 1}]) end),
    ok = Badarg(fun() -> macula_storage:sqlite_query(App, "SELECT ?", [an_atom]) end),
    badarg = try macula_storage:data_select(App, [{limit, -1}]) catch error:Reason -> Reason end,
    ok = Badarg(fun() -> macula_storage:app_usage(App, [{nonsense, 1}]) end).

atoms(App) ->
    ok = macula_storage:data_put(App, key, value),
    value = macula_storage:data_get(App, key),
    value = macula_storage:data_get(atom_to_binary(App), key),
    ok.
