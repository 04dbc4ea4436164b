defmodule MaculaStorage.CubDB.DirectoryTest do
  @moduledoc "Stores in directories of their own: opened, locked, closed with their process, whoever else looks on."
  use MaculaStorage.Case, async: true

  alias MaculaStorage.{CubDB, Error, Native, Wait}
  alias MaculaStorage.CubDB.{Snapshot, Tx}

  setup do
    %{dir: Path.join(unique_dir("cubdb"), "a/store")}
  end

  defp os_pid, do: String.to_integer(System.pid())
  defp all(db), do: db |> CubDB.select() |> Enum.to_list()

  defp start!(place, options \\ []) do
    {:ok, db} = CubDB.start(place, options)
    on_exit(fn -> if Process.alive?(db), do: CubDB.stop(db) end)
    db
  end

  test "every form of naming a place", %{dir: dir} do
    for place <- [dir, to_charlist(dir), [data_dir: dir], [data_dir: to_charlist(dir)]] do
      {:ok, db} = CubDB.start_link(place)
      :ok = CubDB.update(db, :starts, 1, &(&1 + 1))
      assert CubDB.data_dir(db) == dir
      assert CubDB.current_db_file(db) == Path.join(dir, "kv.redb")
      assert File.regular?(CubDB.current_db_file(db))
      :ok = CubDB.stop(db)
    end

    relative = Path.relative_to_cwd(dir)

    options = [
      data_dir: relative,
      auto_compact: {10, 0.5},
      auto_file_sync: false,
      timeout: 60_000
    ]

    {:ok, db} = CubDB.start_link(options)
    assert CubDB.get(db, :starts) == 4
    :ok = CubDB.stop(db)
    # in the directory, and nowhere among the apps
    assert {:ok, apps} = MaculaStorage.list_apps()
    refute Enum.any?(apps, &(&1 =~ "store"))
  end

  test "every function, by pid and by name", %{dir: dir} do
    name = :"Elixir.Cub.#{System.unique_integer([:positive])}"
    pid = start!(dir, name: name)

    for db <- [pid, name, to_string(name)] do
      :ok = CubDB.clear(db)
      :ok = CubDB.put(db, :a, 1)
      assert {:error, :exists} = CubDB.put_new(db, :a, 2)
      :ok = CubDB.put_multi(db, for(n <- 1..1_500, do: {n, n}))
      :ok = CubDB.delete(db, 1)
      assert CubDB.get(db, :a) == 1
      assert CubDB.get_multi(db, [1, 2]) == %{2 => 2}
      assert CubDB.has_key?(db, 2)
      assert CubDB.size(db) == 1_500
      assert CubDB.count(db, min_key: 1_000, max_key: 1_200) == 201
      assert db |> CubDB.select(reverse: true) |> Enum.count() == 1_500
      assert 1 = CubDB.get_and_update(db, :a, &{&1, &1 + 1})
      :ok = CubDB.put(db, :large, :binary.copy("x", 2_000_000))
      assert byte_size(CubDB.get(db, :large)) == 2_000_000
      assert 2_000_000 = CubDB.get_and_update(db, :large, &{byte_size(&1), 1})
      assert :done = CubDB.transaction(db, fn tx -> {:commit, Tx.delete(tx, :large), :done} end)
      assert CubDB.with_snapshot(db, &Snapshot.get(&1, :a)) == 2
      assert {:error, :too_large} = CubDB.put(db, :binary.copy("k", 70_000), 1)
      inside = fn tx -> {:cancel, CubDB.put(db, :a, tx)} end
      assert_raise RuntimeError, ~r/the store of #{dir}/, fn -> CubDB.transaction(db, inside) end
    end
  end

  test "what was acknowledged is there after stop, and after kill", %{dir: dir} do
    for stop <- [&CubDB.stop/1, &kill/1], n <- 1..5 do
      db = start!(dir)
      assert CubDB.get(db, :n, 0) == rem(n - 1, 5) or n == 1
      :ok = CubDB.put(db, :n, n)
      stop.(db)
    end

    # at once: a store that is still being closed is waited for
    assert all(start!(dir)) == [n: 5]
  end

  defp kill(pid) do
    ref = Process.monitor(pid)
    Process.exit(pid, :kill)
    assert_receive {:DOWN, ^ref, _, _, _}, 60_000
  end

  test "open once: a second time in this VM is refused at once, by whatever path", %{dir: dir} do
    db = start!(dir)
    taken = {:error, {:locked, os_pid()}}
    assert ^taken = CubDB.start(dir)
    assert ^taken = CubDB.start(data_dir: Path.join(dir, "../store"))
    Process.flag(:trap_exit, true)
    assert ^taken = CubDB.start_link(dir)
    :ok = CubDB.put(db, :a, 1)
    :ok = CubDB.stop(db)
    assert {:ok, again} = CubDB.start(dir)
    :ok = CubDB.stop(again)
  end

  test "open once on the machine: another VM is told who has it, until that one is gone", %{
    dir: dir
  } do
    code = """
    {:ok, _} = Application.ensure_all_started(:macula_storage)
    {:ok, db} = MaculaStorage.CubDB.start_link(#{inspect(dir)})
    :ok = MaculaStorage.CubDB.put(db, :from, :child)
    IO.puts("open")
    IO.gets("")
    """

    child = ChildVM.start(code, base: unique_dir("base"))
    ChildVM.wait_for(child, "open")
    os_pid = child.os_pid
    assert {:error, {:locked, ^os_pid}} = CubDB.start(dir)
    ChildVM.kill(child)
    assert all(start!(dir)) == [from: :child]
  end

  test "its handles end with it: snapshots, transactions, calls of others", %{dir: dir} do
    for stop <- [&CubDB.stop/1, &kill/1] do
      db = start!(dir)
      :ok = CubDB.put(db, :a, 1)
      {:ok, {:dir, ^dir, handle}} = CubDB.Server.store(db)
      snapshot = CubDB.snapshot(db, :infinity)
      stream = CubDB.select(db)

      CubDB.transaction(db, fn tx ->
        stop.(db)

        Wait.until("its end", fn ->
          match?({:error, :closed}, Native.kv_has(handle, :erlang.term_to_binary(:a)))
        end)

        assert_raise Error, fn -> Wait.until("its end", fn -> Tx.get(tx, :a) != 1 end) end
        {:cancel, nil}
      end)

      assert assert_raise(Error, fn -> Snapshot.get(snapshot, :a) end).kind == :closed
      assert_raise ArgumentError, ~r/store's pid/, fn -> Enum.to_list(stream) end
      assert {:error, :closed} = Native.dir_close(handle, make_ref())
      Wait.until("the lock", fn -> Native.dir_owner(dir) == {:ok, nil} end)
    end
  end

  test "under a supervisor: restarted after a kill, found by its name, never an app", %{dir: dir} do
    name = unique_app("name")
    children = [{CubDB, data_dir: dir, name: name}, {CubDB, {dir <> "2", []}}]
    {:ok, sup} = Supervisor.start_link(children, strategy: :one_for_one)
    assert %{id: {CubDB, ^dir}} = CubDB.child_spec(data_dir: dir)

    for n <- 1..3 do
      :ok = CubDB.put(name, n, n)
      {_, pid, :worker, _} = List.keyfind(Supervisor.which_children(sup), {CubDB, dir}, 0)
      kill(pid)
      # answers after the restart
      assert Supervisor.which_children(sup) |> length() == 2
      assert CubDB.size(name) == n
    end

    :ok = Supervisor.stop(sup)
    assert {:error, :closed} = CubDB.put(name, 4, 4)
    error = assert_raise Error, fn -> CubDB.get(name, 1) end
    assert {error.kind, error.app} == {:closed, dir}
    assert Exception.message(error) =~ "store in #{dir}"
    refute File.exists?(Path.join([base_path(), "apps", name]))
    assert all(start!(dir)) == [{1, 1}, {2, 2}, {3, 3}]
  end

  # that it was taken along is told
  @tag :capture_log
  test "a process that it is linked to takes it along, and it closes", %{dir: dir} do
    test = self()

    {:ok, starter} =
      Task.start(fn ->
        {:ok, db} = CubDB.start_link(dir)
        :ok = CubDB.put(db, :a, 1)
        send(test, {:db, db})
        receive do: (:never -> :ok)
      end)

    assert_receive {:db, db}, 60_000
    ref = Process.monitor(db)
    kill(starter)
    assert_receive {:DOWN, ^ref, _, _, _}, 60_000
    assert all(start!(dir)) == [a: 1]
  end

  test "a directory of an app is refused, by whatever path, and stays as it is" do
    app = unique_app()
    :ok = CubDB.put(app, :a, 1)
    link = Path.join(unique_dir(), "link")
    File.ln_s!(MaculaStorage.app_data_path(app), link)

    for dir <- [CubDB.data_dir(app), MaculaStorage.app_data_path(app), Path.join(link, "new/x")] do
      assert {:error, %Error{kind: :invalid, message: message, hint: hint}} = CubDB.start(dir)
      assert message =~ "inside the directory of an app" and hint =~ app
    end

    assert File.ls!(MaculaStorage.app_data_path(app)) |> Enum.sort() == ["files", "kv"] or
             File.ls!(MaculaStorage.app_data_path(app)) == ["kv"]

    assert all(app) == [a: 1]
  end

  test "the files of CubDB itself are refused with what to do", %{dir: dir} do
    File.mkdir_p!(dir)
    File.write!(Path.join(dir, "3F.cub"), "an old database")
    assert {:error, %Error{kind: :invalid, hint: hint}} = CubDB.start(dir)
    assert hint =~ "macula.import.cubdb"
    assert File.ls!(dir) == ["3F.cub"]
  end

  test "what is no directory, or cannot be made, is an error that names it", %{dir: dir} do
    File.mkdir_p!(Path.dirname(dir))
    File.write!(dir, "a file")

    for path <- [dir, Path.join(dir, "below")] do
      assert {:error, %Error{message: message}} = CubDB.start(path)
      assert message =~ dir
    end
  end

  test "a store that is damaged says so, and may be mended and opened", %{dir: dir} do
    db = start!(dir)
    :ok = CubDB.put(db, :a, 1)
    :ok = CubDB.stop(db)
    file = Path.join(dir, "kv.redb")
    bytes = File.read!(file)
    File.write!(file, binary_part(bytes, 0, 4_096))
    assert {:error, %Error{kind: :corrupt}} = CubDB.start(dir)
    File.write!(file, bytes)
    assert all(start!(dir)) == [a: 1]
  end

  test "many opened and closed leave no descriptor", %{dir: dir} do
    cycle = fn n ->
      db = start!(dir)
      :ok = CubDB.put(db, n, n)
      # one snapshot that nobody ends
      _ = CubDB.snapshot(db, :infinity)
      if rem(n, 2) == 0, do: CubDB.stop(db), else: kill(db)
    end

    for n <- 1..20, do: cycle.(n)
    descriptors = fn -> for fd <- File.ls!("/proc/self/fd"), target(fd) =~ dir, do: fd end
    Wait.until("descriptors of #{dir}", fn -> descriptors.() == [] end)
    assert CubDB.size(start!(dir)) == 20
  end

  defp target(fd) do
    case File.read_link("/proc/self/fd/#{fd}") do
      {:ok, target} -> target
      {:error, _} -> ""
    end
  end

  test "misuse", %{dir: dir} do
    for place <- [
          [],
          [name: :x],
          [data_dir: 1],
          [data_dir: ""],
          [data_dir: "a\0b"],
          %{},
          1,
          self()
        ],
        do: assert_raise(ArgumentError, fn -> CubDB.start(place) end)

    for options <- [
          [auto_compact: 1],
          [auto_compact: {1, 2}],
          [auto_file_sync: 1],
          [name: {:global, :x}],
          [unknown: 1]
        ],
        do: assert_raise(ArgumentError, fn -> CubDB.start(dir, options) end)

    refute File.exists?(dir)
  end
end
