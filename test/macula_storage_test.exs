defmodule MaculaStorageTest do
  @moduledoc "The front door: directories, apps, owners, and the doctests of every verb."
  use MaculaStorage.Case, async: true

  alias MaculaStorage.{CubDB, Error, SQLite}

  doctest MaculaStorage

  test "paths, without touching the disk" do
    app = "paths-#{System.unique_integer([:positive])}"
    assert MaculaStorage.app_data_path(app) == "#{base_path()}/apps/#{app}/data"
    assert MaculaStorage.app_uploads_path(app) == "#{base_path()}/apps/#{app}/uploads"
    assert MaculaStorage.app_cache_path(app) == "#{base_path()}/apps/#{app}/cache"
    assert MaculaStorage.app_data_path(:my_app) == MaculaStorage.app_data_path("my_app")
    refute File.exists?("#{base_path()}/apps/#{app}")
  end

  test "ensure_app_dirs, again and again, beside what is there" do
    app = unique_app()
    assert :ok = MaculaStorage.ensure_app_dirs(app)
    dir = Path.dirname(MaculaStorage.app_data_path(app))
    assert Enum.sort(File.ls!(dir)) == ["cache", "data", "uploads"]
    File.write!(Path.join(MaculaStorage.app_uploads_path(app), "kept"), "kept")
    File.rmdir!(MaculaStorage.app_cache_path(app))
    assert :ok = MaculaStorage.ensure_app_dirs(app)
    assert File.dir?(MaculaStorage.app_cache_path(app))
    assert File.ls!(MaculaStorage.app_uploads_path(app)) == ["kept"]
  end

  test "list_apps knows exactly the apps that have a directory" do
    app = unique_app("listed")
    {:ok, before} = MaculaStorage.list_apps()
    refute app in before
    :ok = MaculaStorage.ensure_app_dirs(app)
    apps = Path.join(base_path(), "apps")
    strange = ["Not An App", ".hidden", "file-not-dir#{System.unique_integer([:positive])}"]
    [one, two, file] = Enum.map(strange, &Path.join(apps, &1))
    File.mkdir_p!(one)
    File.mkdir_p!(two)
    File.write!(file, "")
    on_exit(fn -> Enum.each([one, two, file], &File.rm_rf!/1) end)
    {:ok, listed} = MaculaStorage.list_apps()
    assert app in listed
    assert listed == Enum.sort(listed)
    for name <- strange, do: refute(name in listed)
  end

  test "names that are none" do
    bad = [
      "",
      "A",
      "my app",
      "../x",
      "-x",
      "_x",
      "a/b",
      "a.b",
      "ä",
      "a\n",
      String.duplicate("a", 65)
    ]

    for name <- bad ++ [nil, true, false, :"", :"Elixir.X", 1, ~c"list", {}] do
      assert_raise ArgumentError, ~r/app name/, fn -> MaculaStorage.app_data_path(name) end
      assert_raise ArgumentError, ~r/app name/, fn -> MaculaStorage.ensure_app_dirs(name) end
      assert_raise ArgumentError, ~r/app name/, fn -> MaculaStorage.data_put(name, 1, 1) end
      assert_raise ArgumentError, ~r/app name/, fn -> MaculaStorage.file_read(name, "a") end
      assert_raise ArgumentError, ~r/app name/, fn -> SQLite.query(name, "SELECT 1") end
      assert_raise ArgumentError, ~r/app name/, fn -> MaculaBackup.backup_app(name) end
      assert_raise ArgumentError, ~r/app name/, fn -> MaculaBackup.list_backups(name) end
    end

    for name <- ["a", "0", "a-b_c", String.duplicate("a", 64)] do
      assert MaculaStorage.app_data_path(name) =~ "/apps/#{name}/data"
    end
  end

  test "unknown options raise wherever options are taken" do
    app = unique_app()

    for call <- [
          &MaculaStorage.app_usage(app, &1),
          &MaculaStorage.data_put(app, 1, 1, &1),
          &MaculaStorage.data_select(app, &1),
          &MaculaStorage.file_write(app, "a", "a", &1),
          &MaculaStorage.file_read(app, "a", &1),
          &MaculaStorage.file_delete(app, "a", &1),
          &MaculaStorage.file_list(app, &1),
          &MaculaStorage.file_stream!(app, "a", &1),
          &MaculaStorage.archive(app, "/nowhere/a.tar.zst", &1),
          &MaculaStorage.restore(app, "/nowhere/a.tar.zst", &1),
          &MaculaBackup.backup_app(app, &1),
          &MaculaBackup.restore_app(app, "a.tar.zst", &1),
          &MaculaBackup.list_backups(app, &1),
          &SQLite.open(app, &1),
          &SQLite.query(app, "SELECT 1", [], &1),
          &SQLite.execute(app, "SELECT 1", [], &1),
          &SQLite.backup(app, "/nowhere/copy", &1),
          &CubDB.start_link(app, &1)
        ] do
      assert_raise ArgumentError, ~r/unknown option :nonsense/, fn -> call.(nonsense: 1) end
      assert_raise ArgumentError, fn -> call.([:nonsense]) end
      assert_raise ArgumentError, fn -> call.(%{nonsense: 1}) end
    end
  end

  test "close_app and app_owner" do
    app = unique_app()
    assert {:ok, nil} = MaculaStorage.app_owner(app)
    :ok = MaculaStorage.data_put(app, :a, 1)
    own_pid = String.to_integer(System.pid())
    assert {:ok, ^own_pid} = MaculaStorage.app_owner(app)
    assert :ok = MaculaStorage.close_app(app)
    assert :ok = MaculaStorage.close_app(app)
    assert {:ok, nil} = MaculaStorage.app_owner(app)
    assert MaculaStorage.data_get(app, :a) == 1
  end

  test "an app opened and closed by many at once works for each of them" do
    app = unique_app()

    1..60
    |> Task.async_stream(
      fn n ->
        if rem(n, 6) == 0 do
          MaculaStorage.close_app(app)
        else
          # whoever is cut off hears so, and is served when it asks again
          put(app, n)
        end
      end,
      max_concurrency: 12,
      timeout: 120_000
    )
    |> Enum.each(&assert &1 == {:ok, :ok})

    assert CubDB.size(app) == 50
  end

  defp put(app, n) do
    case MaculaStorage.data_put(app, n, n) do
      {:error, :closed} -> put(app, n)
      answer -> answer
    end
  end

  test "another OS process is told who owns the app, and gets it when it is free" do
    app = unique_app()
    :ok = MaculaStorage.data_put(app, :a, 1)

    child =
      ChildVM.start("""
      {:ok, _} = Application.ensure_all_started(:macula_storage)
      use_it = fn -> IO.inspect(MaculaStorage.data_put(#{inspect(app)}, :b, 2)) end
      use_it.()
      IO.inspect(MaculaStorage.file_write(#{inspect(app)}, "a", "b"))
      IO.inspect(MaculaStorage.app_owner(#{inspect(app)}))
      IO.gets("")
      use_it.()
      IO.gets("")
      """)

    assert ["{:error, :locked}", "{:error, :locked}"] =
             ChildVM.wait_for(child, "{:ok, #{System.pid()}}")

    :ok = MaculaStorage.close_app(app)
    ChildVM.tell(child, "now")
    assert [] = ChildVM.wait_for(child, ":ok")
    assert {:error, :locked} = MaculaStorage.data_put(app, :c, 3)
    assert {:ok, child.os_pid} == MaculaStorage.app_owner(app)
    ChildVM.kill(child)
    assert CubDB.get_multi(app, [:a, :b, :c]) == %{a: 1, b: 2}
  end

  test "a base that cannot be used is one clear error" do
    file = Path.join(unique_dir(), "file")
    File.write!(file, "")

    child =
      ChildVM.start(
        """
        {:ok, _} = Application.ensure_all_started(:macula_storage)
        {:error, %MaculaStorage.Error{} = error} = MaculaStorage.data_put(:app, 1, 1)
        IO.puts(error.kind)
        IO.puts(Exception.message(error))
        {:error, _} = MaculaStorage.list_apps()
        {:error, _} = MaculaStorage.ensure_app_dirs(:app)
        {:error, _} = MaculaBackup.list_backups(:app)
        {:error, _} = MaculaStorage.SQLite.query(:app, "SELECT 1")
        """,
        base: Path.join(file, "base")
      )

    assert {[kind, message], 0} = ChildVM.rest(child)
    assert kind in ["io", "permission", "invalid"]
    assert message =~ "base" and message =~ "MACULA_STORAGE_BASE"
  end

  test "an error's message names what, whom and what to do" do
    error = %Error{kind: :io, op: :open, app: "my", message: "it broke", hint: "mend it"}
    assert Exception.message(error) == "open (app my): it broke. mend it"
    assert Exception.message(%{error | app: nil, hint: nil}) == "open: it broke"
  end
end
