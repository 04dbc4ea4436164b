defmodule Mix.MaculaMeshTest do
  @moduledoc "The tasks for replicated files: what they print, as text and as JSON, and their exit codes."
  use MaculaStorage.Case, async: false

  alias MaculaStorage.{MeshFS, SQLite, TaskRun}
  alias MaculaStorage.Cluster.Meshes

  @tasks %{
    "status" => Mix.Tasks.Macula.Mesh.Status,
    "scrub" => Mix.Tasks.Macula.Mesh.Scrub,
    "scan" => Mix.Tasks.Macula.Mesh.Scan,
    "conflicts" => Mix.Tasks.Macula.Mesh.Conflicts
  }

  defp mix(name, args), do: TaskRun.run(Map.fetch!(@tasks, name), args)

  # One line of JSON, read back by SQLite, which is no code of ours.
  defp json(out, path) do
    assert [line] = String.split(out, "\n", trim: true)

    assert {:ok, %{rows: [[value]]}} =
             SQLite.query("json", "SELECT json_extract(?, ?)", [line, path])

    value
  end

  setup do
    :ok = Meshes.look()
    app = unique_app()
    :ok = MeshFS.write(app, "a", "1")
    %{app: app, files: Path.join(MaculaStorage.app_data_path(app), "files")}
  end

  test "status" do
    {:ok, %{replica: replica, scrub: %{due_ms: due_ms}}} = MeshFS.status()
    assert {0, out, ""} = mix("status", [])
    assert out =~ ~r/^replica +#{replica}$/m
    assert out =~ ~r/^can be asked +nobody$/m
    assert out =~ ~r/^scrub under way +no$/m
    due = due_ms |> DateTime.from_unix!(:millisecond) |> DateTime.truncate(:second)
    assert out =~ ~r/^next scrub +#{due}$/m
    assert {0, out, ""} = mix("status", ["--json", "--timeout", "60"])
    assert json(out, "$.replica") == Integer.to_string(replica)
    assert json(out, "$.peers") == "[]" and json(out, "$.scrub.due_ms") == due_ms
  end

  test "scrub, and what is rotten stays a failure", %{files: files} do
    assert {0, out, ""} = mix("scrub", ["--pause-us", "1"])
    assert out =~ ~r/^[\d,]+ files, .*, 0 mended, 0 rotten/
    Meshes.rot(Path.join(files, "a"), 0)
    assert {1, out, ""} = mix("scrub", ["--pause-us", "1"])
    assert out =~ "1 rotten"
    assert {1, out, ""} = mix("scrub", ["--json"])
    assert json(out, "$.rotten") == 1
  end

  test "scan", %{app: app, files: files} do
    File.write!(Path.join(files, "b"), "2")
    assert {0, "1 known, 1 found, 0 changed, 0 deleted, 0 lost\n", ""} = mix("scan", [app])
    File.rm!(Path.join(files, "a"))
    File.rm!(Path.join(files, "b"))
    assert {0, out, ""} = mix("scan", [app, "--deletions", "--json"])
    assert {json(out, "$.app"), json(out, "$.deleted")} == {app, 2}
    assert {1, "", err} = mix("scan", ["not-there"])
    assert err =~ "macula.mesh.scan: no such app: app=not-there"
    refute File.exists?(Path.join([base_path(), "apps", "not-there"]))
  end

  test "conflicts", %{app: app} do
    assert {0, out, ""} = mix("conflicts", [app, "--prefix", "d", "--limit", "3"])
    assert out == "no conflicts in #{app}\n"
    assert {0, out, ""} = mix("conflicts", [app, "--json"])
    assert json(out, "$.conflicts") == "[]"
  end

  test "help and wrong calls" do
    for {name, module} <- @tasks do
      assert {0, out, ""} = mix(name, ["--help"])
      assert out =~ "mix macula.mesh.#{name} " and out =~ "Exit codes: 0 done, 1 failed"
      assert Mix.Task.shortdoc(module) != nil
    end

    for {name, args, part} <- [
          {"status", ["a"], "wrong number of arguments: 1"},
          {"scan", [], "wrong number of arguments: 0"},
          {"scan", ["../a"], "expected an app name"},
          {"scrub", ["--pause-us", "0"], ":pause_us"},
          {"conflicts", ["a", "--limit", "x"], "--limit x"}
        ] do
      assert {2, "", err} = mix(name, args)
      assert {name, args, err =~ part} == {name, args, true}
    end
  end

  # It would be another member of the cluster, on the directory of one that runs or ran.
  test "in a VM of its own it opens nothing" do
    base = unique_dir()

    for call <- ["mesh_status(json: true)", ~s|mesh_scan("my_app", json: true)|] do
      child = ChildVM.start("MaculaStorage.Operator.#{call}", base: base)
      assert {[line], 1} = ChildVM.rest(child)
      assert json(line, "$.error.kind") == "unsupported"
      assert json(line, "$.error.hint") =~ "rpc"
    end

    refute File.exists?(Path.join(base, "mesh"))
    refute File.exists?(Path.join(base, "state/raft"))
  end
end
