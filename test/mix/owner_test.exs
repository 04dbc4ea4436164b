defmodule Mix.MaculaOwnerTest do
  @moduledoc """
  The operator's tasks on an app that another OS process owns and keeps writing to: that process does
  them, and one that hangs is named within the deadline.
  """
  use MaculaStorage.Case, async: false
  import ExUnit.CaptureIO

  alias MaculaStorage.{Operator, SQLite}

  # Writes the same number to all tiers, one after the other, and says each that is acknowledged.
  @writer """
  {:ok, _} = Application.ensure_all_started(:macula_storage)
  alias MaculaStorage.SQLite
  app = System.fetch_env!("OWNED_APP")
  :ok = SQLite.execute(app, "CREATE TABLE IF NOT EXISTS t (n INTEGER PRIMARY KEY)")
  restored = MaculaStorage.data_get(app, :last, 0)
  IO.puts("ready")

  Stream.iterate(restored + 1, &(&1 + 1))
  |> Enum.each(fn n ->
    :ok = SQLite.execute(app, "INSERT OR REPLACE INTO t VALUES (?)", [n])
    :ok = MaculaStorage.file_write(app, "n", to_string(n))
    :ok = MaculaStorage.data_put(app, :last, n)
    IO.puts("wrote \#{n}")
  end)
  """

  setup do
    app = unique_app("owned")
    base = unique_dir("owned")
    child = ChildVM.start(@writer, base: base, env: [{"OWNED_APP", app}])
    ChildVM.wait_for(child, "ready")
    %{app: app, base: base, child: child}
  end

  # Mix needs a project, for its configuration. This one names us by a path on the command line and not
  # as a dependency, which Elixir from 1.15 on would take out again.
  @project """
  defmodule Operator.MixProject do
    use Mix.Project
    def project, do: [app: :operator, version: "0.1.0", prune_code_paths: false]
  end
  """

  # The tasks as an operator has them, in an OS process of their own: {lines, exit code}. What they
  # say on standard error comes last.
  defp mix(name, args, base) do
    dir = unique_dir("project")
    File.write!(Path.join(dir, "mix.exs"), @project)

    code = """
    {:ok, err} = StringIO.open("")
    Process.unregister(:standard_error)
    Process.register(err, :standard_error)
    Mix.start()
    Code.require_file("mix.exs")

    try do
      Mix.Task.run("macula.#{name}", #{inspect(args)})
    catch
      :exit, {:shutdown, code} ->
        {_, said} = StringIO.contents(err)
        IO.write(said)
        exit({:shutdown, code})
    end
    """

    {lines, status} = ChildVM.rest(ChildVM.start(code, base: base, cd: dir))
    {Enum.reject(lines, &(&1 =~ ~r/^(Compil|Generated)/)), status}
  end

  defp next_written(child) do
    case ChildVM.next(child) do
      {:line, "wrote " <> n} -> String.to_integer(n)
      other -> flunk("the owner stopped writing: #{inspect(other)}")
    end
  end

  defp drain(child, last) do
    receive do
      {port, {:data, {:eol, "wrote " <> n}}} when port == child.port ->
        drain(child, String.to_integer(n))
    after
      0 -> last
    end
  end

  test "backup and usage while the owner writes; the backup is one instant of it", context do
    %{app: app, base: base, child: child} = context
    before = next_written(child)
    assert {[path, size], 0} = mix("backup", [app], base)
    assert String.starts_with?(path, Path.join(base, "backups"))
    assert size =~ "verified"
    assert {[json], 0} = mix("usage", [app, "--json", "--fresh"], base)
    assert json =~ ~s("app":"#{app}")
    assert {["APP" <> _, line], 0} = mix("usage", [], base)
    assert line =~ app
    # It went on all the while.
    assert drain(child, before) > before
    assert next_written(child) > before

    copy = unique_app("copy")
    assert :ok = MaculaBackup.restore_app(copy, path, from_other_app: true)
    kv = MaculaStorage.data_get(copy, :last, 0)
    {:ok, %{rows: [[sql]]}} = SQLite.query(copy, "SELECT max(n) FROM t")
    {:ok, file} = MaculaStorage.file_read(copy, "n")
    file = String.to_integer(file)
    assert kv >= before
    # n goes to SQLite, then to the file, then to the key-value store.
    assert {sql - file, file - kv, sql - kv} in [{0, 0, 0}, {1, 0, 1}, {0, 1, 1}]
    MaculaStorage.close_app(copy)
    ChildVM.kill(child)
  end

  test "the owner restores, and goes on with the restored data", context do
    %{app: app, base: base, child: child} = context
    before = next_written(child)
    assert {[json], 0} = mix("backup", [app, "--json"], base)
    assert [_, name] = Regex.run(~r/"name":"([^"]+)"/, json)
    assert {[list], 0} = mix("backups", [app, "--json"], base)
    assert list =~ name

    # A writer that meets the exchange may be told so: this one then ends, and its data is looked at.
    assert {[said], 0} = mix("restore", [app, name], base)
    assert said == "#{app} restored from #{name}"
    ChildVM.kill(child)

    child = ChildVM.start(@writer, base: base, env: [{"OWNED_APP", app}])
    ChildVM.wait_for(child, "ready")
    assert next_written(child) >= before
    ChildVM.kill(child)
  end

  test "an owner that is stopped is named within the deadline", context do
    %{app: app, base: base, child: child} = context
    next_written(child)
    ChildVM.signal(child, "STOP")

    for args <- [["usage", app], ["backup", app]], json <- [[], ["--json"]] do
      [name | words] = args
      {lines, status} = mix(name, words ++ json ++ ["--timeout", "1"], base)
      assert status == 1
      text = Enum.join(lines, "\n")
      assert text =~ "did not answer in time: os_pid=#{child.os_pid}"
      if json != [], do: assert(text =~ ~s("kind":"timeout"))
    end

    ChildVM.signal(child, "CONT")
    assert {[_, _], 0} = mix("usage", [app], base)
    ChildVM.kill(child)
  end

  test "the functions of releases do it too", %{app: app, base: base, child: child} do
    next_written(child)
    code = "MaculaStorage.Operator.backup(#{inspect(app)}, json: true)"
    assert {[~S({"app") <> _], 0} = ChildVM.rest(ChildVM.start(code, base: base))
    code = "MaculaStorage.Operator.usage()"
    assert {["APP" <> _, _], 0} = ChildVM.rest(ChildVM.start(code, base: base))
    assert capture_io(fn -> assert :ok = Operator.usage() end) =~ "APP"
    ChildVM.kill(child)
  end
end
