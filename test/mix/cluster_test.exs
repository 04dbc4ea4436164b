defmodule Mix.MaculaClusterTest do
  @moduledoc "The tasks that make and issue certificates: what they print, and their exit codes."
  use MaculaStorage.Case, async: false

  alias MaculaStorage.{Authority, SQLite, TaskRun}

  @tasks %{
    "init" => Mix.Tasks.Macula.Cluster.Init,
    "issue" => Mix.Tasks.Macula.Cluster.Issue,
    "show" => Mix.Tasks.Macula.Cluster.Show
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
    dir = unique_dir("cluster")
    %{dir: dir, ca: Path.join(dir, "ca")}
  end

  test "from an authority to a node's files", %{dir: dir, ca: ca} do
    assert {0, out, ""} = mix("init", [ca])
    {:ok, authority} = Authority.describe(ca)
    assert out =~ "authority #{authority.id} of cluster #{authority.cluster}\n"
    assert out =~ "in #{ca}, issues until #{authority.valid_until}\n"
    assert out =~ "mix macula.cluster.issue #{ca} NODE"

    assert {0, out, ""} = mix("issue", [ca, "a@host"])
    assert out =~ "certificate of a@host, member of cluster #{authority.cluster}\n"
    assert out =~ "in #{ca}/issued/a@host, valid until "
    assert out =~ ", 364 days left\n"
    assert out =~ "copy ca.pem, cert.pem and key.pem" and out =~ "state_certificates: "

    for name <- ["ca.key", "issued/a@host/key.pem"],
        line <- ca |> Path.join(name) |> File.read!() |> String.split("\n", trim: true),
        not String.starts_with?(line, "-----"),
        do: refute(out =~ line)

    to = Path.join(dir, "client")
    args = ["--role", "client", "--out", to, "--days", "10"]
    assert {0, out, ""} = mix("issue", [ca, "console" | args])

    assert out =~ "certificate of console, client of" and
             out =~ "9 days left: issue it again soon"

    assert {0, shown, ""} = mix("show", [to])
    assert String.starts_with?(out, shown |> String.trim_trailing())
  end

  test "a rotation, in JSON", %{dir: dir, ca: ca} do
    next = Path.join(dir, "next")
    assert {0, out, ""} = mix("init", [ca, "--days", "100", "--json"])
    old_id = json(out, "$.id")
    assert {json(out, "$.kind"), json(out, "$.days_left")} == {"authority", 99}
    assert {0, out, ""} = mix("init", [next, "--successor-of", ca, "--json"])
    new_id = json(out, "$.id")

    assert {0, out, ""} = mix("issue", [ca, "a@host", "--trust", next, "--json"])
    assert {json(out, "$.trusts[0]"), json(out, "$.trusts[1]")} == {old_id, new_id}
    to = json(out, "$.dir")
    assert {0, out, ""} = mix("issue", [next, "a@host", "--out", to, "--json"])
    assert {json(out, "$.issued_by"), json(out, "$.trusts[1]")} == {new_id, nil}
    assert {0, out, ""} = mix("show", [to, "--json"])
    assert {json(out, "$.node"), json(out, "$.role")} == {"a@host", "member"}
    assert {:ok, _, 0} = DateTime.from_iso8601(json(out, "$.valid_until"))

    # two others are one too many
    args = [ca, "a@host", "--trust", next, "--trust", next, "--json"]
    assert {1, out, ""} = mix("issue", args)
    assert json(out, "$.error.kind") == "invalid"
  end

  test "failures say what to do", %{dir: dir, ca: ca} do
    assert {0, _, ""} = mix("init", [ca])
    assert {1, "", err} = mix("init", [ca])
    assert err =~ "macula.cluster.init: something is there already" and err =~ "--successor-of"
    assert {1, out, ""} = mix("init", [ca, "--json"])
    assert json(out, "$.error.kind") == "exists"

    assert {1, "", err} = mix("issue", [Path.join(dir, "none"), "a@host"])
    assert err =~ "dir=#{dir}/none" and err =~ "create one"
    assert {1, "", err} = mix("show", [Path.join(dir, "none")])
    assert err =~ "no such directory"
    refute File.exists?(Path.join(dir, "none"))
  end

  test "a wrong call is told apart from a failure", %{ca: ca} do
    for {name, args, part} <- [
          {"init", [], "wrong number of arguments: 0"},
          {"issue", [ca], "wrong number of arguments: 1"},
          {"show", [], "wrong number of arguments: 0"},
          {"init", [ca, "--bogus"], "--bogus"},
          {"init", [ca, "--days", "0"], ":days"},
          {"issue", [ca, "a@host", "--role", "admin"], ":role"},
          {"issue", [ca, "a"], "name@host"}
        ] do
      assert {2, "", err} = mix(name, args)
      assert {name, args, err =~ part} == {name, args, true}
    end

    refute File.exists?(ca)

    for {name, module} <- @tasks do
      assert {0, out, ""} = mix(name, ["--help"])
      assert out =~ "mix macula.cluster.#{name} " and out =~ "Exit codes: 0 done, 1 failed"
      assert Mix.Task.shortdoc(module) != nil
    end
  end
end
