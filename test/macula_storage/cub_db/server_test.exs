defmodule MaculaStorage.CubDB.ServerTest do
  @moduledoc "Stores as processes: started, supervised, named, and found by pid, name or app."
  use MaculaStorage.Case, async: true

  alias MaculaStorage.CubDB

  setup do
    %{app: unique_app()}
  end

  test "start_link, use by pid, stop", %{app: app} do
    assert {:ok, pid} = CubDB.start_link(app)
    assert :ok = CubDB.put(pid, :a, 1)
    assert CubDB.get(pid, :a) == 1
    assert CubDB.get(app, :a) == 1
    assert CubDB.data_dir(pid) == CubDB.data_dir(app)
    assert CubDB.transaction(pid, fn tx -> {:commit, tx, :done} end) == :done
    assert CubDB.with_snapshot(pid, &CubDB.Snapshot.size/1) == 1
    assert :ok = CubDB.stop(pid)
    refute Process.alive?(pid)
    # the app stays open for others
    assert CubDB.get(app, :a) == 1
    assert_raise ArgumentError, ~r/store's pid/, fn -> CubDB.get(pid, :a) end
  end

  test "two that stand for one app share its store", %{app: app} do
    {:ok, one} = CubDB.start_link(app)
    {:ok, two} = CubDB.start(app)
    :ok = CubDB.put(one, :a, 1)
    assert CubDB.get(two, :a) == 1
    :ok = CubDB.stop(one)
    assert CubDB.get(two, :a) == 1
    :ok = CubDB.stop(two)
  end

  test "names, as atoms and strings, go before apps", %{app: app} do
    name = unique_app("name")
    {:ok, pid} = CubDB.start_link(app, name: name)
    :ok = CubDB.put(name, :a, 1)
    assert CubDB.get(app, :a) == 1
    :ok = CubDB.stop(pid)

    # a name that stood for a store never turns into an app: a write between two lives of the store's
    # process once landed in an app of that name
    assert {:error, :closed} = CubDB.put(name, :a, 2)
    refute File.exists?(Path.join([base_path(), "apps", name]))

    {:ok, _} = CubDB.start_link(app, name: :"Elixir.Any Name")
    assert CubDB.get(:"Elixir.Any Name", :a) == 1
  end

  # It was refused from init once, and the exit of what was started took the caller with it, who had
  # linked to it and traps no exits.
  test "a name that is taken is refused without an exit", %{app: app} do
    name = unique_app("name")
    {:ok, pid} = CubDB.start_link(app, name: name)
    other = unique_app()

    for start <- [&CubDB.start_link/2, &CubDB.start/2],
        do: assert({:error, {:already_started, ^pid}} = start.(other, name: name))

    assert Process.info(self(), :trap_exit) == {:trap_exit, false}
    :ok = CubDB.put(name, :a, 1)
    assert CubDB.get(app, :a) == 1
    # as free as any other when its process is gone
    :ok = CubDB.stop(pid)
    assert {:ok, _pid} = CubDB.start_link(other, name: name)
    :ok = CubDB.put(name, :b, 2)
    assert CubDB.get(other, :b) == 2
  end

  # A store named as its app left that name behind when it stopped, and every call by the app's own name
  # raised until the VM ended.
  test "a name that is the app's own is the app when no store is there", %{app: app} do
    {:ok, sup} = Supervisor.start_link([{CubDB, {app, name: app}}], strategy: :one_for_one)
    :ok = MaculaStorage.data_put(app, :a, 1)
    :ok = Supervisor.stop(sup)
    assert :ok = MaculaStorage.data_put(app, :b, 2)
    assert MaculaStorage.data_get(app, :a) == 1
    assert CubDB.transaction(app, fn tx -> {:commit, tx, :done} end) == :done
    assert app |> CubDB.select() |> Enum.to_list() == [a: 1, b: 2]
  end

  # Writes raised where the module's documentation says `{:error, :closed}`.
  test "between a crash and the restart writes answer closed and reads raise it", %{app: app} do
    name = unique_app("name")
    {:ok, pid} = CubDB.start(app, name: name)
    :ok = CubDB.put(name, :a, 1)
    ref = Process.monitor(pid)
    Process.exit(pid, :kill)
    assert_receive {:DOWN, ^ref, _, _, :killed}, 60_000

    for write <- [
          fn -> CubDB.put(name, :a, 2) end,
          fn -> CubDB.put_new(name, :b, 2) end,
          fn -> CubDB.put_multi(name, b: 2) end,
          fn -> CubDB.delete(name, :a) end,
          fn -> CubDB.clear(name) end,
          fn -> CubDB.update(name, :a, 0, &(&1 + 1)) end,
          fn -> CubDB.get_and_update(name, :a, fn _ -> :pop end) end,
          fn -> CubDB.transaction(name, fn _tx -> flunk("it has no store") end) end,
          fn -> MaculaStorage.data_put(name, :a, 2) end
        ],
        do: assert({:error, :closed} = write.())

    for read <- [&CubDB.get(&1, :a), &CubDB.size/1, &CubDB.snapshot/1, &CubDB.data_dir/1] do
      error = assert_raise MaculaStorage.Error, fn -> read.(name) end
      assert {error.kind, error.app} == {:closed, app}
    end

    {:ok, _pid} = CubDB.start_link(app, name: name)
    assert CubDB.get(name, :a) == 1
  end

  test "a registered process is no store", %{app: _app} do
    name = :"cubdb-registered-#{System.unique_integer([:positive])}"
    Process.register(self(), name)
    on_exit(fn -> File.rm_rf!(Path.join([base_path(), "apps", to_string(name)])) end)
    assert CubDB.get(name, :a) == nil
    assert_raise ArgumentError, ~r/store's pid/, fn -> CubDB.get(self(), :a) end
  end

  test "under a supervisor, and again after it was killed", %{app: app} do
    assert %{id: {CubDB, ^app}, start: {CubDB, :start_link, [^app, []]}} = CubDB.child_spec(app)
    name = unique_app("name")
    {:ok, sup} = Supervisor.start_link([{CubDB, {app, name: name}}], strategy: :one_for_one)
    [{_, pid, :worker, _}] = Supervisor.which_children(sup)
    :ok = CubDB.put(name, :a, 1)
    ref = Process.monitor(pid)
    Process.exit(pid, :kill)
    assert_receive {:DOWN, ^ref, _, _, :killed}, 60_000
    # which_children answers after the restart
    [{_, again, :worker, _}] = Supervisor.which_children(sup)
    assert again != pid
    assert CubDB.get(name, :a) == 1
    :ok = Supervisor.stop(sup)
  end

  test "misuse", %{app: app} do
    assert_raise ArgumentError, ~r/app name/, fn -> CubDB.start_link("No App") end
    assert_raise ArgumentError, ~r/unknown option/, fn -> CubDB.start_link(app, data_dir: "x") end
    assert_raise ArgumentError, ~r/:name/, fn -> CubDB.start_link(app, name: {:via, A, :b}) end
  end
end
