defmodule Mix.MaculaTest do
  @moduledoc "The operator's tasks: what they print, as text and as JSON, and their exit codes."
  use MaculaStorage.Case, async: false

  alias MaculaStorage.{SQLite, TaskRun}

  @tasks %{
    "backup" => Mix.Tasks.Macula.Backup,
    "restore" => Mix.Tasks.Macula.Restore,
    "backups" => Mix.Tasks.Macula.Backups,
    "usage" => Mix.Tasks.Macula.Usage,
    "import.cubdb" => Mix.Tasks.Macula.Import.Cubdb
  }

  # {exit code, standard output, standard error}
  defp mix(name, args), do: TaskRun.run(Map.fetch!(@tasks, name), args)

  # One line of JSON, read back by SQLite, which is no code of ours. `$.a.b` as in SQLite.
  defp json(out, path) do
    assert [line] = String.split(out, "\n", trim: true)

    assert {:ok, %{rows: [[value]]}} =
             SQLite.query("json", "SELECT json_extract(?, ?)", [line, path])

    value
  end

  defp stored do
    app = unique_app("op")
    :ok = MaculaStorage.data_put(app, :a, 1)
    :ok = SQLite.execute(app, "CREATE TABLE t (n); INSERT INTO t VALUES (1)")
    :ok = MaculaStorage.file_write(app, "f", "one")

    on_exit(fn ->
      MaculaStorage.close_app(app)
      for name <- MaculaBackup.list_backups(app), do: File.rm!(backup_path(name))
    end)

    app
  end

  defp backup_path(name), do: Path.join([base_path(), "backups", name])

  defp change(app) do
    :ok = MaculaStorage.data_put(app, :a, 2)
    :ok = SQLite.execute(app, "UPDATE t SET n = 2")
    :ok = MaculaStorage.file_write(app, "f", "two")
  end

  defp assert_as_stored(app) do
    assert MaculaStorage.data_get(app, :a) == 1
    assert {:ok, %{rows: [[1]]}} = SQLite.query(app, "SELECT n FROM t")
    assert {:ok, "one"} = MaculaStorage.file_read(app, "f")
  end

  test "backup, backups and restore as text" do
    app = stored()
    assert {0, out, ""} = mix("backup", [app])
    assert [path, size] = String.split(out, "\n", trim: true)
    assert File.regular?(path) and String.ends_with?(path, ".tar.zst")
    assert size =~ ~r/\A[\d.]+ k?B for [\d.]+ k?B in \d+ entries, verified\z/

    name = Path.basename(path)
    assert {0, out, ""} = mix("backups", [app])
    assert ["NAME" <> _, line] = String.split(out, "\n", trim: true)
    assert line =~ ~r/\A#{Regex.escape(name)} +[\d.]+ k?B +\d{4}-\d\d-\d\d \d\d:\d\d:\d\dZ +/

    for from <- [name, path] do
      change(app)
      assert {0, out, ""} = mix("restore", [app, from])
      assert out == "#{app} restored from #{from}\n"
      assert_as_stored(app)
    end
  end

  test "backup, backups and restore in JSON" do
    app = stored()
    assert {0, out, ""} = mix("backup", [app, "--json", "--format", "gz", "--no-verify"])
    path = json(out, "$.path")
    assert File.regular?(path) and String.ends_with?(path, ".tar.gz")
    assert json(out, "$.app") == app
    assert json(out, "$.bytes") == File.stat!(path).size
    assert json(out, "$.bytes_in") > 0 and json(out, "$.entries") > 0
    assert json(out, "$.changed") == 0 and json(out, "$.left_out") == "[]"

    assert {0, out, ""} = mix("backups", ["--json", app])
    assert json(out, "$.backups[0].name") == Path.basename(path)
    assert json(out, "$.backups[0].bytes") == File.stat!(path).size
    assert {:ok, _, 0} = DateTime.from_iso8601(json(out, "$.backups[0].at"))
    assert json(out, "$.backups[1]") == nil

    change(app)
    assert {0, out, ""} = mix("restore", [app, path, "--json", "--timeout", "60"])
    assert json(out, "$.app") == app
    assert json(out, "$.restored") == path
    assert_as_stored(app)
  end

  test "usage of one app and of all" do
    app = stored()

    File.write!(
      Path.join(MaculaStorage.app_uploads_path(app), "film"),
      String.duplicate("x", 5000)
    )

    assert {0, out, ""} = mix("usage", [app, "--json", "--fresh"])
    {:ok, usage} = MaculaStorage.app_usage(app)
    assert json(out, "$.app") == app
    assert json(out, "$.total") == usage.total
    assert json(out, "$.parts.uploads") == usage.parts.uploads
    assert usage.parts.uploads >= 5000

    assert {0, out, ""} = mix("usage", [app])
    assert ["APP" <> head, line] = String.split(out, "\n", trim: true)
    assert String.split(head) == ~w(TOTAL KV SQLITE FILES UPLOADS CACHE OTHER)
    assert [^app, total | parts] = line |> String.replace(",", "") |> String.split()

    assert String.to_integer(total) ==
             parts |> Enum.map(&String.to_integer/1) |> Enum.sum()

    assert {0, out, ""} = mix("usage", [])
    assert out =~ ~r/^#{app} /m
    assert {0, out, ""} = mix("usage", ["--json"])
    assert json(out, "$.apps") =~ ~s("app":"#{app}")
  end

  test "an app without backups, and one that is not there" do
    app = stored()
    assert {0, "no backups of " <> _, ""} = mix("backups", [app])
    assert {0, out, ""} = mix("backups", [app, "--json"])
    assert json(out, "$.backups") == "[]"

    for name <- ["backup", "usage"] do
      assert {1, "", err} = mix(name, ["not-there"])
      assert err =~ "macula.#{name}: no such app: app=not-there"
      assert err =~ app
      assert {1, out, ""} = mix(name, ["not-there", "--json"])
      assert json(out, "$.error.kind") == "not_found"
    end

    refute File.exists?(Path.join([base_path(), "apps", "not-there"]))
  end

  test "what cannot be restored changes nothing" do
    {app, other} = {stored(), stored()}
    {:ok, of_other} = MaculaBackup.backup_app(other)
    bad = Path.join(unique_dir(), "bad.tar.zst")
    File.write!(bad, "no archive")

    assert {1, "", err} = mix("restore", [app, "not-there.tar.zst"])
    assert err =~ "no such backup: not-there.tar.zst"

    for {path, kind} <- [{bad, "invalid"}, {of_other, "invalid"}, {"/not/there", "not_found"}] do
      assert {1, "", "macula.restore: " <> _} = mix("restore", [app, path])
      assert {1, out, ""} = mix("restore", [app, path, "--json"])
      assert {path, json(out, "$.error.kind")} == {path, kind}
    end

    assert_as_stored(app)
    assert {0, _, ""} = mix("restore", [app, of_other, "--from-other-app"])
  end

  test "help is the documentation, and needs nothing to be there" do
    for {name, module} <- @tasks, flag <- ["--help", "-h"] do
      assert {0, out, ""} = mix(name, [flag])
      assert out =~ "mix macula.#{name} "
      assert out =~ "Exit codes: 0 done, 1 failed"
      assert Mix.Task.shortdoc(module) != nil
    end
  end

  test "a wrong call is told apart from a failure" do
    app = stored()

    for {name, args, part} <- [
          {"backup", [], "wrong number of arguments: 0"},
          {"backup", ["a", "b"], "wrong number of arguments: 2"},
          {"restore", ["a"], "wrong number of arguments: 1"},
          {"usage", ["a", "b"], "wrong number of arguments: 2"},
          {"backup", [app, "--bogus"], "--bogus"},
          {"backup", [app, "--format", "zip"], ":format"},
          {"backup", [app, "--level", "x"], "--level x"},
          {"backup", [app, "--timeout", "0"], ":timeout"},
          {"backups", ["../a"], "expected an app name"},
          {"usage", ["A"], "expected an app name"}
        ] do
      assert {2, "", err} = mix(name, args)
      assert {name, args, err =~ part} == {name, args, true}
      assert {2, out, ""} = mix(name, args ++ ["--json"])
      assert json(out, "$.error.kind") == "usage"
    end
  end

  test "an exit code is the exit code of mix" do
    code = ~S|Mix.start(); Mix.Tasks.Macula.Backup.run(["a", "b", "--json"])|

    assert {[~S({"error":{"hint":null,"kind":"usage") <> _], 2} =
             code |> ChildVM.start() |> ChildVM.rest()

    code = ~S|MaculaStorage.Operator.backup("not-there", json: true)|

    assert {[~S|{"error":| <> _], 1} = code |> ChildVM.start() |> ChildVM.rest()
  end
end
