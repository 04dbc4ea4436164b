defmodule MaculaStorage.MeshFS.ScanTest do
  @moduledoc "What other programs and the disk did to replicated files: seen, told apart, and never taken for more than it was."
  use MaculaStorage.Case, async: true

  alias MaculaStorage.{Error, MeshFS}
  alias MaculaStorage.Cluster.Meshes

  doctest MaculaStorage.MeshFS, only: [scrub: 1]

  setup_all do
    Meshes.look()
  end

  setup do
    app = unique_app()
    for n <- 1..8, do: :ok = MeshFS.write(app, "d/#{n}", "#{n}")
    %{app: app, files: Path.join(MaculaStorage.app_data_path(app), "files")}
  end

  defp scan!(app, options \\ []) do
    {:ok, scanned} = MeshFS.scan(app, options)
    assert Enum.sort(Map.keys(scanned)) == [:changed, :deleted, :found, :known, :lost]
    scanned
  end

  @nothing %{known: 8, found: 0, changed: 0, deleted: 0, lost: 0}

  test "new files, changed ones, missing ones; what was told once is not told again", context do
    %{app: app, files: files} = context
    assert @nothing == scan!(app)
    {:ok, %{version: version}} = MeshFS.stat(app, "d/1")
    {:ok, %{version: touched}} = MeshFS.stat(app, "d/3")
    File.mkdir_p!(Path.join(files, "theirs/deep"))
    File.write!(Path.join(files, "theirs/deep/new"), :binary.copy("new", 200_000))
    File.write!(Path.join(files, "d/1"), "changed")
    File.rm!(Path.join(files, "d/2"))
    File.touch!(Path.join(files, "d/3"), 1_000_000_000)
    # of this node only, and not followed
    :ok = MaculaStorage.file_write(app, "own", "own")
    File.ln_s!("d/1", Path.join(files, "link"))

    assert scan!(app) == %{@nothing | found: 1, changed: 1, deleted: 1}
    assert scan!(app) == @nothing
    {:ok, names} = MeshFS.list(app)
    assert names == ["d/1", "d/3", "d/4", "d/5", "d/6", "d/7", "d/8", "theirs/deep/new"]
    assert {:ok, "changed"} = MeshFS.read(app, "d/1")
    assert {:ok, %{conflicts: 0, here: true, version: now}} = MeshFS.stat(app, "d/1")
    assert now > version
    assert {:error, :not_found} = MeshFS.read(app, "d/1", version: version)
    assert {:error, :not_found} = MeshFS.read(app, "d/2")
    assert {:ok, %{version: ^touched}} = MeshFS.stat(app, "d/3")

    assert {:ok, %{size: 600_000, id: <<1, 0x56, _::binary>>}} =
             MeshFS.stat(app, "theirs/deep/new")

    assert {:ok, "own"} = MaculaStorage.file_read(app, "own")
    assert File.read!(Path.join(files, "d/1")) == "changed"

    # one that was deleted is put there again
    File.write!(Path.join(files, "d/2"), "again")
    assert scan!(app) == %{@nothing | found: 1}
    assert {:ok, "again"} = MeshFS.read(app, "d/2")
  end

  test "much that is missing is lost, not deleted, unless somebody says so", context do
    %{app: app, files: files} = context
    for n <- 1..3, do: File.rm!(Path.join(files, "d/#{n}"))
    assert scan!(app) == %{@nothing | lost: 3}
    assert {:ok, names} = MeshFS.list(app)
    assert length(names) == 8
    assert {:error, %Error{kind: :unreachable}} = MeshFS.read(app, "d/1")
    assert {:ok, %{here: false, replicas: []}} = MeshFS.stat(app, "d/1")
    assert {:ok, %{fetching: fetching}} = MeshFS.status()
    assert fetching >= 3

    File.rm_rf!(files)
    assert scan!(app) == %{@nothing | known: 5, lost: 5}
    assert {:ok, ^names} = MeshFS.list(app)
    # what is not known to be here cannot be found missing
    assert scan!(app, deletions: true) == %{@nothing | known: 0}
    for n <- 1..8, do: assert(:ok = MeshFS.write(app, "d/#{n}", "again"))

    for n <- 1..7, do: File.rm!(Path.join(files, "d/#{n}"))
    assert scan!(app, deletions: true) == %{@nothing | deleted: 7}
    assert {:ok, ["d/8"]} = MeshFS.list(app)
    # the last one of all
    File.rm!(Path.join(files, "d/8"))
    assert scan!(app) == %{@nothing | known: 1, lost: 1}
    assert {:ok, ["d/8"]} = MeshFS.list(app)
  end

  test "a scan of nothing, of many, and beside writers", %{app: app, files: files} do
    none = unique_app()
    assert scan!(none) == %{@nothing | known: 0}

    for n <- 1..2_100 do
      if rem(n, 700) == 1, do: File.mkdir_p!(Path.join(files, "m#{div(n, 700)}"))
      File.write!(Path.join(files, "m#{div(n, 701)}/#{n}"), "#{n}")
    end

    writer = Task.async(fn -> for n <- 1..200, do: :ok = MeshFS.write(app, "w/#{n}", "#{n}") end)
    %{found: found, changed: 0, deleted: 0, lost: 0} = scan!(app)
    Task.await(writer, 60_000)
    # one that is being written is no other program's
    assert found == 2_100
    assert scan!(app) == %{@nothing | known: 2_308}
    assert {:ok, names} = MeshFS.list(app)
    assert length(names) == 2_308
    for n <- 1..200, do: assert({:ok, "#{n}"} == MeshFS.read(app, "w/#{n}"))
  end

  test "rot is found by reading; what is right of the file is read", %{app: app, files: files} do
    large = :crypto.strong_rand_bytes(3_000_000)
    :ok = MeshFS.write(app, "large", large)
    assert {:ok, %{rotten: 0, mended: 0, files: read, bytes: bytes}} = MeshFS.scrub(pause_us: 1)
    assert read >= 9 and bytes >= 3_000_000

    Meshes.rot(Path.join(files, "large"), 2_000_000)
    Meshes.rot(Path.join(files, "d/1"), 0)
    assert {:ok, %{rotten: 2, mended: 0}} = MeshFS.scrub(pause_us: 1)

    for name <- ["large", "d/1"] do
      assert {:error, %Error{kind: :corrupt} = error} = MeshFS.read(app, name)
      assert Exception.message(error) =~ name
      error = assert_raise Error, fn -> Enum.to_list(MeshFS.stream!(app, name)) end
      assert error.kind == :corrupt
      assert {:error, %Error{kind: :corrupt}} = MeshFS.copy(app, name, "copied")
    end

    part = binary_part(large, 0, 1_000_000)
    assert {:ok, ^part} = MeshFS.read(app, "large", range: {0, 1_000_000})
    assert {:ok, names} = MeshFS.list(app)
    assert length(names) == 9

    # mended by hand, or written anew
    Meshes.rot(Path.join(files, "large"), 2_000_000)
    assert {:ok, ^large} = MeshFS.read(app, "large")
    assert :ok = MeshFS.write(app, "d/1", "anew")
    assert {:ok, %{rotten: 0}} = MeshFS.scrub(pause_us: 1)
    assert {:ok, "anew"} = MeshFS.read(app, "d/1")
  end

  test "misuse", %{app: app} do
    for bad <- [[deletions: :yes], [prefix: "d"], [timeout: 0], :all],
        do: assert_raise(ArgumentError, fn -> MeshFS.scan(app, bad) end)

    for bad <- [[pause_us: -1], [pause_us: 1.0], [app: app], [timeout: 0]],
        do: assert_raise(ArgumentError, fn -> MeshFS.scrub(bad) end)
  end
end
