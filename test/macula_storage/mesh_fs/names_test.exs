defmodule MaculaStorage.MeshFS.NamesTest do
  @moduledoc """
  No name and no planted link leads replicated files out of their app; and what other programs do to the files harms
  nothing but what they touched.
  """
  use MaculaStorage.Case, async: true

  alias MaculaStorage.{Error, MeshFS}
  alias MaculaStorage.Cluster.Meshes

  # one component too long, and the whole: 4,096 bytes
  @long [String.duplicate("x", 256), String.duplicate("a/", 2_047) <> "bb"]
  @names [
           "",
           ".",
           "..",
           "/",
           "/etc/passwd",
           "../x",
           "a/../../x",
           "a/..",
           "a/./b",
           "./a",
           "a//b",
           "a/",
           "//a",
           "a\0b",
           "\0",
           "../../other/data/files/a",
           ".macula/../../x"
         ] ++ @long

  setup_all do
    Meshes.look()
  end

  setup do
    app = unique_app()
    :ok = MeshFS.write(app, "good", "good")
    outside = unique_dir("outside")
    File.write!(Path.join(outside, "secret"), "secret")
    %{app: app, files: Path.join(MaculaStorage.app_data_path(app), "files"), outside: outside}
  end

  # Every verb; none may answer with content, and none may change anything.
  defp verbs(app, name) do
    [
      fn -> MeshFS.read(app, name) end,
      fn -> MeshFS.write(app, name, "planted") end,
      fn -> MeshFS.write(app, name, Stream.take(["planted"], 1)) end,
      fn -> MeshFS.delete(app, name) end,
      fn -> MeshFS.stat(app, name) end,
      fn -> MeshFS.versions(app, name) end,
      fn -> MeshFS.resolve(app, name, {1, 1}) end,
      fn -> MeshFS.copy(app, name, "copied") end,
      fn -> MeshFS.copy(app, "good", name) end,
      fn -> MeshFS.rename(app, name, "renamed") end,
      fn -> MeshFS.rename(app, "good", name) end,
      fn -> stream(fn -> Enum.to_list(MeshFS.stream!(app, name)) end) end,
      fn -> stream(fn -> Enum.into(["planted"], MeshFS.stream!(app, name)) end) end
    ]
  end

  defp stream(fun) do
    {:ok, fun.()}
  rescue
    error in Error -> {:error, error}
  end

  defp refusals(app, name) do
    for {verb, n} <- Enum.with_index(verbs(app, name)) do
      assert {:error, reason} = verb.(), "verb #{n} took #{inspect(name)}"
      assert reason == :not_found or match?(%Error{}, reason)
      reason
    end
  end

  defp nothing_staged!(app) do
    staged = Path.join(MaculaStorage.app_data_path(app), ".macula/staged")
    assert File.ls(staged) in [{:ok, []}, {:error, :enoent}]
  end

  test "names that leave, or are no names", %{app: app, files: files} do
    before = File.ls!(Path.join(base_path(), "apps/#{app}/data"))

    for name <- @names,
        reason <- refusals(app, name),
        do: assert({_, %Error{kind: :invalid, app: ^app}} = {name, reason})

    for prefix <- ["..", "/etc", "a/../..", "\0", "/"] do
      assert {:error, %Error{kind: :invalid}} = MeshFS.list(app, prefix: prefix)
      assert {:error, %Error{kind: :invalid}} = MeshFS.list(app, after: prefix)
    end

    assert File.ls!(files) == ["good"]
    assert File.ls!(Path.join(base_path(), "apps/#{app}/data")) == before
    assert {:ok, ["good"]} = MeshFS.list(app)
    nothing_staged!(app)
  end

  test "names that only look hostile are names", %{app: app, files: files} do
    # with what is before it, no longer than the system takes in one piece
    deep = Enum.map_join(1..12, "/", fn _ -> String.duplicate("x", 255) end)

    for name <-
          ["...", "a..b", "..a", " ", "~", "-rf", "a\\b", "a\nb", "$(x)", <<255, 254>>, "ünï"] ++
            [deep, ".macula/tmp/a", ".macula", "data/files"] do
      assert :ok = MeshFS.write(app, name, name)
      assert {:ok, ^name} = MeshFS.read(app, name)
      assert File.read!(Path.join(files, name)) == name
      assert {:ok, names} = MeshFS.list(app)
      assert name in names
      assert {:ok, [^name]} = MeshFS.list(app, prefix: name)
      assert :ok = MeshFS.delete(app, name)
    end

    assert File.ls!(files) == ["good"]
  end

  test "a planted link to a file outside", %{app: app, files: files, outside: outside} do
    secret = Path.join(outside, "secret")
    link = Path.join(files, "link")
    File.ln_s!(secret, link)
    # of the mesh it is no file
    for verb <- [:read, :stat, :versions, :delete],
        do: assert({:error, :not_found} = apply(MeshFS, verb, [app, "link"]))

    # writing may replace the link itself, never what it points to
    MeshFS.write(app, "link", "planted")
    assert File.read!(secret) == "secret"

    # planted in the place of one that is
    :ok = MeshFS.write(app, "file", "mine")
    File.rm!(Path.join(files, "file"))
    File.ln_s!(secret, Path.join(files, "file"))
    refute match?({:ok, "secret"}, MeshFS.read(app, "file"))

    refute "secret" in (fn -> Enum.to_list(MeshFS.stream!(app, "file")) end
                        |> stream()
                        |> elem(1)
                        |> List.wrap())

    MeshFS.write(app, "file", "planted")
    assert File.read!(secret) == "secret"
    MeshFS.delete(app, "file")
    assert File.read!(secret) == "secret"
    nothing_staged!(app)
  end

  test "a planted link to a directory outside", %{app: app, files: files, outside: outside} do
    File.ln_s!(outside, Path.join(files, "dir"))
    for name <- ["dir/secret", "dir/new", "dir/deep/new"], do: refusals(app, name)
    assert {:ok, ["good"]} = MeshFS.list(app)
    assert {:ok, []} = MeshFS.list(app, prefix: "dir")

    # in the place of a directory in which files of the mesh lie
    :ok = MeshFS.write(app, "own/secret", "mine")
    File.rm_rf!(Path.join(files, "own"))
    File.ln_s!(outside, Path.join(files, "own"))
    refute match?({:ok, "secret"}, MeshFS.read(app, "own/secret"))
    assert {:error, _} = MeshFS.write(app, "own/secret", "planted")
    MeshFS.delete(app, "own/secret")
    assert File.ls!(outside) == ["secret"]
    assert File.read!(Path.join(outside, "secret")) == "secret"
    nothing_staged!(app)
  end

  test "the places of what is put together and kept as links", %{outside: outside} do
    for part <- ["data", "data/files", "data/.macula", "data/.macula/staged"] do
      app = unique_app()
      path = Path.join([base_path(), "apps", app, part])
      File.mkdir_p!(Path.dirname(path))
      File.ln_s!(outside, path)
      MeshFS.write(app, "a", "planted")
      MeshFS.write(app, "a", Stream.take(["planted"], 1))
      assert File.ls!(outside) == ["secret"], part
    end
  end

  test "a directory in the way, a file in the way, a fifo", %{app: app, files: files} do
    File.mkdir_p!(Path.join(files, "dir/below"))
    {_, 0} = System.cmd("mkfifo", [Path.join(files, "fifo")])

    for name <- ["dir", "good/below"] do
      assert [:not_found] = app |> refusals(name) |> Enum.filter(&is_atom/1) |> Enum.uniq()
      nothing_staged!(app)
    end

    assert {:error, :not_found} = MeshFS.read(app, "fifo")
    # whether it is replaced or refused, nobody waits for it
    _ = MeshFS.write(app, "fifo", "x")
    assert {:ok, "good"} = MeshFS.read(app, "good")
    # what was in the way is so no more
    File.rm_rf!(Path.join(files, "dir"))
    assert :ok = MeshFS.write(app, "dir", "now")
    assert {:ok, "now"} = MeshFS.read(app, "dir")
    assert :ok = MeshFS.delete(app, "good")
    assert :ok = MeshFS.write(app, "good/below", "below")
    assert {:ok, "below"} = MeshFS.read(app, "good/below")
  end

  ## Other programs

  test "a file that was there already is replaced", %{app: app, files: files} do
    File.write!(Path.join(files, "a"), "theirs")
    :ok = MaculaStorage.file_write(app, "b", "ours, of this node only")
    for name <- ["a", "b"], do: assert({:error, :not_found} = MeshFS.read(app, name))
    for name <- ["a", "b"], do: assert({:error, :not_found} = MeshFS.delete(app, name))
    assert File.read!(Path.join(files, "a")) == "theirs"

    for name <- ["a", "b"] do
      assert :ok = MeshFS.write(app, name, "mesh")
      assert {:ok, "mesh"} = MeshFS.read(app, name)
      assert File.read!(Path.join(files, name)) == "mesh"
      assert {:ok, %{conflicts: 0}} = MeshFS.stat(app, name)
    end
  end

  test "a file that another program rewrote is read as it is now", %{app: app, files: files} do
    File.write!(Path.join(files, "good"), "theirs, later")
    assert {:ok, "theirs, later"} = MeshFS.read(app, "good")
    assert {:ok, %{size: 13, conflicts: 0, here: true}} = MeshFS.stat(app, "good")
    :ok = MaculaStorage.file_write(app, "good", "by the front door")
    assert ["by the front door"] = Enum.to_list(MeshFS.stream!(app, "good"))
    assert :ok = MeshFS.write(app, "good", "ours again")
    assert {:ok, "ours again"} = MeshFS.read(app, "good")
  end

  test "a file that was only touched is the same version", %{app: app, files: files} do
    {:ok, %{version: version}} = MeshFS.stat(app, "good")
    File.touch!(Path.join(files, "good"), 1_000_000_000)
    assert {:ok, "good"} = MeshFS.read(app, "good")
    assert {:ok, %{version: ^version, here: true}} = MeshFS.stat(app, "good")
  end

  test "a file that vanished is not taken for deleted", %{app: app, files: files} do
    {:ok, %{version: version}} = MeshFS.stat(app, "good")
    File.rm!(Path.join(files, "good"))
    assert {:error, %Error{kind: :unreachable} = error} = MeshFS.read(app, "good")
    assert Exception.message(error) =~ "good"
    error = assert_raise Error, fn -> Enum.to_list(MeshFS.stream!(app, "good")) end
    assert error.kind == :unreachable
    assert {:ok, ["good"]} = MeshFS.list(app)
    assert {:ok, %{here: false, replicas: [], version: ^version}} = MeshFS.stat(app, "good")
    assert {:error, %Error{kind: :unreachable}} = MeshFS.resolve(app, "good", version)
    assert :ok = MeshFS.write(app, "good", "again")
    assert {:ok, "again"} = MeshFS.read(app, "good")

    File.rm_rf!(files)
    assert :ok = MeshFS.delete(app, "good")
    assert {:ok, []} = MeshFS.list(app)
    assert {:error, :not_found} = MeshFS.read(app, "good")
    assert :ok = MeshFS.write(app, "good", "and again")
    assert {:ok, "and again"} = MeshFS.read(app, "good")
  end
end
