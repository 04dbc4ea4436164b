defmodule Mix.Macula.ImportTest do
  @moduledoc "A CubDB database becomes an app's store: whole, counted, its source as it was."
  use MaculaStorage.Case, async: false

  alias MaculaStorage.{CubDB, Error, TaskRun}
  alias MaculaStorage.Operator.Import
  alias Mix.Tasks.Macula.Import.Cubdb

  setup do
    dir = unique_dir("cubdb")
    %{dir: dir, app: unique_app("import")}
  end

  # The fake CubDB of test/support reads this.
  defp database(dir, entries),
    do: File.write!(Path.join(dir, "0.cub"), :erlang.term_to_binary(entries))

  defp mix(args), do: TaskRun.run(Cubdb, args)

  defp all(app), do: app |> CubDB.select() |> Enum.to_list()

  test "everything, in batches, and the source stays", %{dir: dir, app: app} do
    entries =
      [{1, :integer}, {1.0, :float}, {nil, nil}, {"large", :binary.copy("x", 1_500_000)}] ++
        for(n <- 1..2_500, do: {{:key, n}, n})

    database(dir, entries)
    before = {File.ls!(dir), File.read!(Path.join(dir, "0.cub"))}
    assert {0, out, ""} = mix([dir, app])
    assert out == "2,504 entries imported from #{dir} into #{app}\n"
    assert CubDB.size(app) == 2_504
    assert CubDB.get_multi(app, Enum.map(entries, &elem(&1, 0))) === Map.new(entries)
    assert {File.ls!(dir), File.read!(Path.join(dir, "0.cub"))} == before
  end

  test "in JSON", %{dir: dir, app: app} do
    database(dir, a: 1)
    assert {0, out, ""} = mix([dir, app, "--json"])

    for part <- [~s("entries":1), ~s("app":"#{app}"), ~s("changed":false)],
        do: assert(out =~ part)

    assert {1, out, ""} = mix([dir, app, "--json"])
    assert out =~ ~s("kind":"exists")
  end

  test "a store that is not empty needs --merge, which replaces", %{dir: dir, app: app} do
    database(dir, a: 1, b: 2)
    :ok = CubDB.put_multi(app, a: :old, c: :mine)
    assert {1, "", err} = mix([dir, app])
    assert err =~ "is not empty: app=#{app} entries=2" and err =~ "--merge"
    assert all(app) == [a: :old, c: :mine]
    for _ <- 1..2, do: assert({0, "2 entries" <> _, ""} = mix([dir, app, "--merge"]))
    assert all(app) == [a: 1, b: 2, c: :mine]
  end

  test "what is no database makes none, and no app", %{dir: dir, app: app} do
    for path <- [dir, Path.join(dir, "none")] do
      assert {1, "", err} = mix([path, app])
      assert err =~ "no CubDB database there: #{path}"
    end

    assert File.ls!(dir) == []
    refute File.exists?(Path.join([base_path(), "apps", app]))
  end

  test "one that CubDB does not open", %{dir: dir, app: app} do
    File.write!(Path.join(dir, "0.cub"), "busy")
    assert {1, "", err} = mix([dir, app])
    assert err =~ "CubDB does not open the database: :busy"
  end

  test "counts that differ are a failure", %{dir: dir, app: app} do
    database(dir, a: 1, lost: 2)
    assert {1, "", err} = mix([dir, app])
    assert err =~ "the source has 2 entries, 1 were read"
  end

  test "an entry that is too large is told with where it is", %{dir: dir, app: app} do
    database(dir, for(n <- 1..1_500, do: {n, n}) ++ [{:binary.copy("k", 70_000), 1}])
    assert {1, "", err} = mix([dir, app])
    assert err =~ "a key over 64 KiB" and err =~ "the first 1000"
    assert CubDB.size(app) == 1_000
  end

  test "without CubDB, and with an old one, it says what to do", %{dir: dir, app: app} do
    database(dir, a: 1)
    options = %{merge: false, progress: nil}
    assert {:error, %Error{hint: hint}} = Import.run(dir, app, options, CubDB.NotThere)
    assert hint =~ ":cubdb"
    assert {:error, %Error{message: message}} = Import.run(dir, app, options, Enum)
    assert message =~ "older than version 2"
  end

  test "progress, and a source that is written to meanwhile", %{dir: dir, app: app} do
    database(dir, for(n <- 1..2_500, do: {n, n}))
    me = self()

    tell = fn progress ->
      send(me, {:progress, progress.entries_done})
      File.write!(Path.join(dir, "1.cub"), "new")
    end

    options = %{merge: false, progress: tell}
    assert {:ok, %{entries: 2_500, changed: true}} = Import.run(dir, app, options)
    for n <- [1_000, 2_000, 2_500], do: assert_received({:progress, ^n})
  end

  test "an app that another process owns", %{dir: dir, app: app} do
    database(dir, a: 1)

    code = """
    {:ok, _} = Application.ensure_all_started(:macula_storage)
    :ok = MaculaStorage.data_put(#{inspect(app)}, :a, :theirs)
    IO.puts("open")
    IO.gets("")
    """

    child = ChildVM.start(code)
    ChildVM.wait_for(child, "open")
    assert {1, "", err} = mix([dir, app])
    assert err =~ "another process owns the app" and err =~ "os_pid=#{child.os_pid}"
    ChildVM.kill(child)
    assert all(app) == [a: :theirs]
  end

  test "wrong calls", %{dir: dir, app: app} do
    for args <- [[], [dir], [dir, app, "c"], [dir, app, "--bogus"], [dir, "No App"]],
        do: assert({2, "", "macula.import.cubdb: " <> _} = mix(args))
  end
end
