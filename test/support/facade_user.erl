%% What an Erlang application does with the library: a call of each function, its answer matched. A
%% failed match ends the test with the line.
-module(facade_user).

-export([directories/1, key_value/1, files/1, backups/1, archives/2, misuse/1, atoms/1]).

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
    ok.

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
    ok = Badarg(fun() -> macula_storage:app_usage(App, [{nonsense, 1}]) end).

atoms(App) ->
    ok = macula_storage:data_put(App, key, value),
    value = macula_storage:data_get(App, key),
    value = macula_storage:data_get(atom_to_binary(App), key),
    ok.
