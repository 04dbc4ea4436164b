defmodule MaculaStorage.MeshFSTest do
  @moduledoc """
  Replicated files on a node alone: every verb, every option, what they refuse, and that they are plain files. Names and
  other programs: mesh_fs/names_test.exs; several nodes: test/cluster/mesh_fs_test.exs.
  """
  use MaculaStorage.Case, async: true

  alias MaculaStorage.{Error, MeshFS, Wait}

  # where nothing is made to rot: mesh_fs/scan_test.exs
  doctest MaculaStorage.MeshFS, except: [scrub: 1]

  @block 262_144

  # the first look opens each app once more, also one that a test has just closed to remove it
  setup_all do
    MaculaStorage.Cluster.Meshes.look()
  end

  setup do
    %{app: unique_app()}
  end

  defp path(app, name), do: Path.join([MaculaStorage.app_data_path(app), "files", name])

  # What is being put together, or was and stayed.
  defp staged(app) do
    case File.ls(Path.join(MaculaStorage.app_data_path(app), ".macula/staged")) do
      {:ok, names} -> names
      {:error, :enoent} -> []
    end
  end

  defp version(app, name) do
    {:ok, %{version: version}} = MeshFS.stat(app, name)
    version
  end

  test "write, read, replace, stat, delete", %{app: app} do
    assert {:error, :not_found} = MeshFS.read(app, "a/b.txt")
    assert {:error, :not_found} = MeshFS.stat(app, "a/b.txt")
    assert {:error, :not_found} = MeshFS.versions(app, "a/b.txt")
    assert {:error, :not_found} = MeshFS.delete(app, "a/b.txt")
    assert {:ok, []} = MeshFS.list(app)

    assert :ok = MeshFS.write(app, "a/b.txt", ["io", ?-, ["data"]])
    assert {:ok, "io-data"} = MeshFS.read(app, "a/b.txt")
    assert File.read!(path(app, "a/b.txt")) == "io-data"
    assert :ok = MeshFS.write(app, "a/b.txt", "")
    assert {:ok, ""} = MeshFS.read(app, "a/b.txt")
    assert File.read!(path(app, "a/b.txt")) == ""
    assert :ok = MeshFS.write(app, ~c"a/b.txt", "new")
    assert {:ok, "new"} = MeshFS.read(app, ~c"a/b.txt")

    assert {:ok, stat} = MeshFS.stat(app, "a/b.txt")
    assert %{size: 3, replicas: [here], here: true, conflicts: 0} = stat
    assert here == node()
    assert_in_delta stat.written_ms, System.os_time(:millisecond), 60_000
    assert {stamp, replica} = stat.version
    assert Bitwise.bsr(stamp, 16) == stat.written_ms
    assert {:ok, %{replica: ^replica}} = MeshFS.status()

    assert :ok = MeshFS.delete(app, "a/b.txt")
    for verb <- [:read, :stat, :delete], do: assert(gone?(apply(MeshFS, verb, [app, "a/b.txt"])))
    assert {:ok, []} = MeshFS.list(app)
    # the directory that is empty now went with it
    refute File.exists?(path(app, "a"))
    assert :ok = MeshFS.write(app, "a/b.txt", "again")
    assert {:ok, "again"} = MeshFS.read(app, "a/b.txt")
    assert {:ok, [%{size: 5}]} = MeshFS.versions(app, "a/b.txt")
  end

  defp gone?(answer), do: answer == {:error, :not_found}

  test "the id is told by the content alone", %{app: app} do
    :ok = MeshFS.write(app, "a", "same")
    :ok = MeshFS.write(app, "b", "same")
    assert {:ok, %{id: <<1, 0x55, hash::binary-32>> = id}} = MeshFS.stat(app, "a")
    assert {:ok, %{id: ^id}} = MeshFS.stat(app, "b")
    assert {:ok, %{blake3: ^hash}} = MaculaStorage.file_stat(app, "a")

    block = :binary.copy("x", @block)
    :ok = MeshFS.write(app, "block", block)
    assert {:ok, %{id: <<1, 0x55, _::binary-32>>}} = MeshFS.stat(app, "block")
    :ok = MeshFS.write(app, "more", block <> "x")
    :ok = MeshFS.write(app, "parts", [block] |> Stream.concat(["x"]))
    assert {:ok, %{id: <<1, 0x56, _::binary-32>> = id, size: size}} = MeshFS.stat(app, "more")
    assert size == @block + 1
    assert {:ok, %{id: ^id}} = MeshFS.stat(app, "parts")
  end

  test "content: iodata, a file of this machine, a stream", %{app: app} do
    large = :crypto.strong_rand_bytes(5_000_001)
    source = Path.join(unique_dir("source"), "large")
    File.write!(source, large)

    parts =
      Stream.unfold(large, fn
        "" -> nil
        <<part::binary-size(70_000), rest::binary>> -> {part, rest}
        rest -> {[rest, []], ""}
      end)

    for {content, n} <-
          Enum.with_index([
            large,
            [large],
            {:path, source},
            {:path, to_charlist(source)},
            parts,
            File.stream!(source, [], 4_096)
          ]) do
      assert :ok = MeshFS.write(app, "large/#{n}", content)
      assert {:ok, ^large} = MeshFS.read(app, "large/#{n}")
      assert File.read!(path(app, "large/#{n}")) == large
    end

    File.write!(source, "")
    assert :ok = MeshFS.write(app, "empty", {:path, source})
    assert :ok = MeshFS.write(app, "none", Stream.take([], 1))
    for name <- ["empty", "none"], do: assert({:ok, ""} = MeshFS.read(app, name))
    assert [] = staged(app)
  end

  test "content that is none leaves what was, and no trace", %{app: app} do
    :ok = MeshFS.write(app, "a", "old")
    missing = Path.join(unique_dir("missing"), "none")
    assert_raise File.Error, fn -> MeshFS.write(app, "a", {:path, missing}) end
    broken = Stream.map(1..9, &if(&1 == 9, do: raise("broken"), else: "part"))
    assert_raise RuntimeError, fn -> MeshFS.write(app, "a", broken) end
    assert catch_throw(MeshFS.write(app, "a", Stream.map(1..9, &throw/1))) == 1
    assert_raise ArgumentError, fn -> MeshFS.write(app, "a", ["a", :b]) end
    assert_raise ArgumentError, fn -> MeshFS.write(app, "a", Stream.take(["a", :b], 2)) end
    assert {:ok, "old"} = MeshFS.read(app, "a")
    Wait.until("no trace", fn -> staged(app) == [] end)
  end

  test "content that is not iodata is misuse", %{app: app} do
    for content <- [:not_iodata, nil, 1, <<1::3>>, {:path, :not_a_path, 1}, {:path, 1}],
        do: assert_raise(ArgumentError, fn -> MeshFS.write(app, "a", content) end)

    assert {:error, :not_found} = MeshFS.read(app, "a")
  end

  test "ranges, and a limit", %{app: app} do
    large = :crypto.strong_rand_bytes(3_000_000)
    :ok = MeshFS.write(app, "a", large)

    for {offset, len} <- [
          {0, 0},
          {0, 1},
          {@block - 1, 2},
          {999_999, 1_500_000},
          {2_999_999, 9},
          {0, 3_000_000},
          {3_000_000, 1},
          {9_000_000_000_000_000_000_000, 1},
          {1, 9_000_000_000_000_000_000_000}
        ] do
      from = min(offset, byte_size(large))
      expected = binary_part(large, from, min(len, byte_size(large) - from))
      assert MeshFS.read(app, "a", range: {offset, len}) == {:ok, expected}
    end

    assert {:ok, ^large} = MeshFS.read(app, "a", bytes_max: 3_000_000)
    assert {:error, :too_large} = MeshFS.read(app, "a", bytes_max: 2_999_999)
    # it is what is read that counts
    assert {:ok, <<_>>} = MeshFS.read(app, "a", range: {2_999_999, 5}, bytes_max: 1)
    assert {:error, :not_found} = MeshFS.read(app, "b", range: {0, 0})

    for bad <- [{-1, 1}, {0, -1}, {0, 1.0}, {0}, 0..9, :all],
        do: assert_raise(ArgumentError, ~r/:range/, fn -> MeshFS.read(app, "a", range: bad) end)
  end

  test "how many others must have it: nobody is there", %{app: app} do
    for ack <- [:local, :quorum, :all] do
      assert {:ok, %{version: version, replicas: 0}} =
               MeshFS.write(app, "a", "#{ack}", ack: ack, return: :info)

      assert version == version(app, "a")
    end

    # it is here all the same, and says so
    for {verb, arguments} <- [write: ["b", "b"], resolve: ["a", version(app, "a")]] do
      answer = apply(MeshFS, verb, [app | arguments] ++ [[ack: 1, timeout: 50]])
      assert {:error, %Error{kind: :unreachable, app: ^app} = error} = answer
      assert Exception.message(error) =~ "written here"
    end

    assert {:ok, "b"} = MeshFS.read(app, "b")
    assert File.read!(path(app, "b")) == "b"

    stream = Stream.take(["c", "c"], 2)

    assert {:error, %Error{kind: :unreachable}} =
             MeshFS.write(app, "c", stream, ack: 2, timeout: 50)

    assert {:ok, "cc"} = MeshFS.read(app, "c")
    unheard = [ack: 1, timeout: 50]
    assert {:error, %Error{kind: :unreachable}} = MeshFS.copy(app, "c", "copied", unheard)
    assert {:error, %Error{kind: :unreachable}} = MeshFS.rename(app, "copied", "renamed", unheard)
    assert {:ok, ["a", "b", "c", "renamed"]} = MeshFS.list(app)
    assert {:error, %Error{kind: :unreachable}} = MeshFS.delete(app, "c", unheard)
    assert {:error, :not_found} = MeshFS.read(app, "c")

    assert {:ok, %{replicas: 0, version: {_, _}}} = MeshFS.delete(app, "b", return: :info)
    assert :ok = MeshFS.write(app, "b", "b", timeout: :infinity)

    for bad <- [0, -1, 1001, 1.0, "all", :some, true] do
      for call <- [
            fn -> MeshFS.write(app, "a", "a", ack: bad) end,
            fn -> MeshFS.delete(app, "a", ack: bad) end,
            fn -> MeshFS.resolve(app, "a", {1, 1}, ack: bad) end,
            fn -> MeshFS.stream!(app, "a", ack: bad) end
          ],
          do: assert_raise(ArgumentError, ~r/:ack/, call)
    end
  end

  test "a collection that waits for others is there before they have it", %{app: app} do
    {pid, monitor} = spawn_monitor(fn -> Enum.into(["a"], MeshFS.stream!(app, "a", ack: 1)) end)
    Wait.until("the file", fn -> MeshFS.read(app, "a") == {:ok, "a"} end)
    Process.exit(pid, :kill)
    assert_receive {:DOWN, ^monitor, _, _, _}
  end

  test "versions, read by their names; what was replaced is gone", %{app: app} do
    {:ok, %{version: first}} = MeshFS.write(app, "a", "first", return: :info)
    assert {:ok, "first"} = MeshFS.read(app, "a", version: first)
    assert {:ok, "rs"} = MeshFS.read(app, "a", version: first, range: {2, 2})
    {:ok, %{version: second}} = MeshFS.write(app, "a", "second", return: :info)
    assert second > first
    assert {:error, :not_found} = MeshFS.read(app, "a", version: first)
    assert {:ok, "second"} = MeshFS.read(app, "a", version: second)
    assert {:ok, stat} = MeshFS.stat(app, "a")
    assert {:ok, [told]} = MeshFS.versions(app, "a", timeout: 60_000)
    assert Map.delete(told, :state) == Map.take(stat, [:version, :written_ms, :size, :id])

    # a deletion is a version of its own
    {:ok, %{version: deletion}} = MeshFS.delete(app, "a", return: :info)
    assert {:ok, [%{version: ^deletion, size: nil, id: nil}]} = MeshFS.versions(app, "a")
    for v <- [deletion, second, {1, 1}], do: assert(gone?(MeshFS.read(app, "a", version: v)))
    for v <- [deletion, second], do: assert(gone?(MeshFS.resolve(app, "a", v)))
  end

  test "resolve writes the chosen one anew", %{app: app} do
    large = :crypto.strong_rand_bytes(2_500_000)
    {:ok, %{version: version}} = MeshFS.write(app, "a", large, return: :info)
    {:ok, %{id: id}} = MeshFS.stat(app, "a")
    assert {:ok, %{version: new, replicas: 0}} = MeshFS.resolve(app, "a", version, return: :info)
    assert new > version
    assert {:ok, ^large} = MeshFS.read(app, "a")
    assert {:ok, [%{version: ^new, id: ^id}]} = MeshFS.versions(app, "a")
    assert {:error, :not_found} = MeshFS.resolve(app, "a", version)
    assert {:error, :not_found} = MeshFS.resolve(app, "none", version)
    assert [] = staged(app)
  end

  test "copies, and other names", %{app: app} do
    large = :crypto.strong_rand_bytes(2_500_000)

    for {name, content} <- [{"small", "small"}, {"large", large}, {"empty", ""}] do
      :ok = MeshFS.write(app, name, content)

      assert {:ok, %{version: v1, replicas: 0}} =
               MeshFS.copy(app, name, "d/" <> name, return: :info)

      assert v1 == version(app, "d/" <> name)
      assert {:ok, ^content} = MeshFS.read(app, "d/" <> name)
      assert {:ok, ^content} = MeshFS.read(app, name)

      assert {:ok, %{version: v2}} =
               MeshFS.rename(app, "d/" <> name, to_charlist("e/" <> name), return: :info)

      assert v2 == version(app, "e/" <> name)
      assert File.read!(path(app, "e/" <> name)) == content
      refute File.exists?(path(app, "d"))
      assert {:ok, %{id: id}} = MeshFS.stat(app, name)
      assert {:ok, %{id: ^id, conflicts: 0}} = MeshFS.stat(app, "e/" <> name)
    end

    # over what is there, and over itself
    assert :ok = MeshFS.copy(app, "large", "small")
    assert :ok = MeshFS.rename(app, "large", "empty")
    assert :ok = MeshFS.copy(app, "small", "small")
    assert {:error, %Error{kind: :invalid}} = MeshFS.rename(app, "small", "small")
    for name <- ["small", "empty"], do: assert({:ok, ^large} = MeshFS.read(app, name))
    assert {:ok, ["e/empty", "e/large", "e/small", "empty", "small"]} = MeshFS.list(app)

    for verb <- [:copy, :rename] do
      assert {:error, :not_found} = apply(MeshFS, verb, [app, "large", "b"])
      # a directory is in the way
      assert {:error, %Error{}} = apply(MeshFS, verb, [app, "small", "e"])
      assert {:ok, ^large} = MeshFS.read(app, "small")
    end

    assert [] = staged(app)
  end

  test "misuse of versions", %{app: app} do
    :ok = MeshFS.write(app, "a", "a")

    for bad <- [:last, 1, {1}, {1, "1"}, {1, 1, 1}, "1"] do
      assert_raise ArgumentError, fn -> MeshFS.resolve(app, "a", bad) end
      assert_raise ArgumentError, fn -> MeshFS.read(app, "a", version: bad) end
    end

    for bad <- [{-1, 1}, {1, -1}, {Bitwise.bsl(1, 64), 1}],
        do: assert_raise(ArgumentError, fn -> MeshFS.resolve(app, "a", bad) end)
  end

  test "list: sorted by bytes, by prefix, after, limit", %{app: app} do
    listed = Enum.sort(["a.txt", "a/b", "a/c/d", "ab/x", "ä", "z"])
    for name <- Enum.shuffle(listed), do: :ok = MeshFS.write(app, name, name)
    # neither what is gone nor what is no file of the mesh
    :ok = MeshFS.write(app, "gone", "")
    :ok = MeshFS.delete(app, "gone")
    :ok = MaculaStorage.file_write(app, "here/only", "")
    assert {:ok, ^listed} = MeshFS.list(app)
    assert {:ok, ["a/b", "a/c/d"]} = MeshFS.list(app, prefix: "a")
    assert {:ok, ["a/b", "a/c/d"]} = MeshFS.list(app, prefix: "a/")
    assert {:ok, ["a/c/d"]} = MeshFS.list(app, prefix: "a/c")
    assert {:ok, []} = MeshFS.list(app, prefix: "none")
    assert {:ok, [first, second]} = MeshFS.list(app, limit: 2)
    assert [first, second] == Enum.take(listed, 2)
    assert {:ok, rest} = MeshFS.list(app, after: second)
    assert [first, second | rest] == listed
    assert {:ok, ["ab/x"]} = MeshFS.list(app, after: "a/c/d", limit: 1)
    assert {:ok, ["a/c/d"]} = MeshFS.list(app, after: "a/b", prefix: "a")
    assert {:ok, ["a/b"]} = MeshFS.list(app, after: "Z", prefix: "a", limit: 1, timeout: 60_000)
    assert {:ok, []} = MeshFS.list(app, after: "b", prefix: "a")
    # apps whose names begin alike never mix
    assert {:ok, []} = MeshFS.list(app <> "0")
    assert {:ok, []} = MeshFS.list(String.slice(app, 0..-2//1))

    for bad <- [[limit: 0], [depth: 1], [prefix: ""], [after: :a], [prefix: ~c"a"]],
        do: assert_raise(ArgumentError, fn -> MeshFS.list(app, bad) end)
  end

  test "a list of more than one page", %{app: app} do
    names = for(n <- 1..1_050, do: "p/#{n}") |> Enum.sort()

    names
    |> Task.async_stream(&MeshFS.write(app, &1, &1), max_concurrency: 50, timeout: 60_000)
    |> Enum.each(&assert &1 == {:ok, :ok})

    assert {:ok, ^names} = MeshFS.list(app)
    assert {:ok, ^names} = MeshFS.list(app, prefix: "p")
    assert {:ok, some} = MeshFS.list(app, limit: 1_001)
    assert some == Enum.take(names, 1_001)
    assert {:ok, some} = MeshFS.list(app, limit: 1_000, after: hd(names))
    assert some == Enum.slice(names, 1, 1_000)
  end

  test "streams both ways, chunk by chunk", %{app: app} do
    stream = MeshFS.stream!(app, "s/1", chunk_bytes: 1_000, ack: :all)
    chunks = for n <- 1..100, do: :binary.copy(<<n>>, 777)
    assert ^stream = Enum.into(chunks, stream)
    whole = IO.iodata_to_binary(chunks)
    assert {:ok, ^whole} = MeshFS.read(app, "s/1")
    read = Enum.to_list(stream)
    assert Enum.map(read, &byte_size/1) == List.duplicate(1_000, 77) ++ [700]
    assert IO.iodata_to_binary(read) == whole
    assert [first | _] = Enum.take(stream, 1)
    assert byte_size(first) == 1_000

    # iodata, an empty one, one larger than a mebibyte, and from one file to the other
    large = :binary.copy("x", 3_000_001)
    ["" | [["a", ?b], large]] |> Enum.into(MeshFS.stream!(app, "s/2"))
    MeshFS.stream!(app, "s/2") |> Enum.into(MeshFS.stream!(app, ~c"s/3"))
    assert :ok = MeshFS.write(app, "s/4", MeshFS.stream!(app, "s/2", chunk_bytes: 9_000_000))
    for name <- ["s/3", "s/4"], do: assert({:ok, "ab" <> ^large} = MeshFS.read(app, name))
    assert [] = Enum.into([], MeshFS.stream!(app, "s/5")) |> Enum.to_list()
    assert Enum.count(stream) == 78
    assert Enum.member?(stream, first)
    assert [] = staged(app)
  end

  test "a stream of a missing file, and collections that fail", %{app: app} do
    error = assert_raise Error, fn -> Enum.to_list(MeshFS.stream!(app, "none")) end
    assert error.kind == :not_found
    :ok = MeshFS.write(app, "a", "old")

    chunks =
      &Stream.map(1..100, fn n -> if n == 50, do: &1.(), else: String.duplicate("x", 9_999) end)

    assert_raise RuntimeError, fn ->
      Enum.into(chunks.(fn -> raise "broken" end), MeshFS.stream!(app, "a"))
    end

    assert_raise ArgumentError, fn ->
      Enum.into(chunks.(fn -> :not_iodata end), MeshFS.stream!(app, "b"))
    end

    # who collects by hand gives up, or is told no more
    {:ok, into} = Collectable.into(MeshFS.stream!(app, "a"))
    assert :ok = into.(:ok, {:cont, String.duplicate("half", 99_999)})
    assert [_] = staged(app)
    assert :ok = into.(:ok, :halt)

    Wait.until("no trace", fn -> staged(app) == [] end)
    assert {:ok, "old"} = MeshFS.read(app, "a")
    assert {:ok, ["a"]} = MeshFS.list(app)
    assert File.ls!(path(app, ".")) == ["a"]

    for bad <- [[chunk: 1], [chunk_bytes: 0], [cache: 1], [timeout: 1]],
        do: assert_raise(ArgumentError, fn -> MeshFS.stream!(app, "a", bad) end)
  end

  test "a reader keeps the version that it began with", %{app: app} do
    :ok = MeshFS.write(app, "a", String.duplicate("1", 1_000_000))

    read =
      app
      |> MeshFS.stream!("a", chunk_bytes: 100_000)
      |> Stream.with_index()
      |> Enum.map(fn {chunk, n} ->
        if n == 0, do: :ok = MeshFS.write(app, "a", "2")
        chunk
      end)

    assert IO.iodata_to_binary(read) == String.duplicate("1", 1_000_000)
  end

  test "readers see the old file or the new one, never a part and never none", %{app: app} do
    contents = for n <- 0..9, do: :binary.copy(<<?0 + n>>, 100_000 + n)
    :ok = MeshFS.write(app, "a", hd(contents))

    writer =
      Task.async(fn ->
        for _ <- 1..5, content <- contents, do: :ok = MeshFS.write(app, "a", content)
      end)

    seen = reads_until(app, writer.pid, %{})
    Task.await(writer, 60_000)
    assert Enum.sort(Map.keys(seen) -- contents) == []
  end

  # How often each answer came.
  defp reads_until(app, pid, seen) do
    answer = with {:ok, bytes} <- MeshFS.read(app, "a"), do: bytes
    seen = Map.update(seen, answer, 1, &(&1 + 1))
    if Process.alive?(pid), do: reads_until(app, pid, seen), else: seen
  end

  test "writers of one name at once: one of them wins wholly", %{app: app} do
    contents = for n <- 1..20, do: :binary.copy(<<n>>, 50_000)

    versions =
      contents
      |> Task.async_stream(&MeshFS.write(app, "d/a", &1, return: :info), max_concurrency: 20)
      |> Enum.map(fn {:ok, {:ok, %{version: version}}} -> version end)

    assert length(Enum.uniq(versions)) == 20
    assert {:ok, content} = MeshFS.read(app, "d/a")
    assert content in contents
    assert File.read!(path(app, "d/a")) == content
    assert {:ok, %{conflicts: 0, version: version}} = MeshFS.stat(app, "d/a")
    assert version == Enum.max(versions)
    assert File.ls!(path(app, "d")) == ["a"]
    assert [] = staged(app)
  end

  test "it is there after the app was closed", %{app: app} do
    large = :crypto.strong_rand_bytes(600_000)
    for {name, content} <- [{"a", "a"}, {"b", large}], do: :ok = MeshFS.write(app, name, content)
    stream = MeshFS.stream!(app, "b")

    for _ <- 1..3 do
      assert :ok = MaculaStorage.close_app(app)
      assert {:ok, ^large} = MeshFS.read(app, "b")
      assert :ok = MaculaStorage.close_app(app)
      assert {:ok, %{here: true}} = MeshFS.stat(app, "a")
      assert :ok = MeshFS.write(app, "a", "again")
      assert :ok = MaculaStorage.close_app(app)
      assert IO.iodata_to_binary(Enum.to_list(stream)) == large
      assert {:ok, "again"} = MaculaStorage.file_read(app, "a")
    end

    # in the middle of a collection nothing is lost but that
    {_, into} = Collectable.into(MeshFS.stream!(app, "c"))
    assert :ok = into.(:ok, {:cont, large})
    assert :ok = MaculaStorage.close_app(app)
    assert_raise Error, fn -> into.(into.(:ok, {:cont, large}), :done) end
    assert {:ok, "again"} = MeshFS.read(app, "a")
    assert [_] = staged(app)
    assert :ok = into.(:ok, :halt)
    assert {:ok, ["a", "b"]} = MeshFS.list(app)
    # it is removed by a thread of ours
    Wait.until("no trace", fn -> staged(app) == [] end)
  end

  test "its bytes are the app's", %{app: app} do
    :ok = MeshFS.write(app, "a", "")
    before = MaculaStorage.app_quota(app)
    :ok = MeshFS.write(app, "b", :binary.copy("b", 123_456))

    assert {:ok, %{total: total, parts: %{files: files}}} =
             MaculaStorage.app_usage(app, fresh: true)

    assert files >= 123_456
    assert total >= before + 123_456
    assert MaculaStorage.app_quota(app) == total
    :ok = MeshFS.delete(app, "b")
    assert {:ok, %{total: left}} = MaculaStorage.app_usage(app, fresh: true)
    assert left <= total - 123_456
  end

  test "the front door's word for it", %{app: app} do
    mesh = [replicate: true]
    assert :ok = MaculaStorage.file_write(app, "a", "a", mesh)

    assert {:ok, %{replicas: 0}} =
             MaculaStorage.file_write(app, "a", "b", [return: :info] ++ mesh)

    assert :ok = MaculaStorage.file_write(app, "own", "own", replicate: false)
    assert {:ok, "b"} = MaculaStorage.file_read(app, "a", mesh)
    assert {:ok, "b"} = MaculaStorage.file_read(app, "a")
    assert {:error, :not_found} = MaculaStorage.file_read(app, "own", mesh)
    assert {:ok, ["a"]} = MaculaStorage.file_list(app, mesh)
    assert {:ok, ["a", "own"]} = MaculaStorage.file_list(app)
    Enum.into(["s"], MaculaStorage.file_stream!(app, "s", mesh))
    assert ["s"] = Enum.to_list(MaculaStorage.file_stream!(app, "s", mesh))
    assert {:ok, %{here: true}} = MeshFS.stat(app, "s")
    assert :ok = MaculaStorage.file_delete(app, "a", mesh)
    assert {:error, :not_found} = MaculaStorage.file_delete(app, "own", mesh)
    assert {:ok, ["own", "s"]} = MaculaStorage.file_list(app)

    for bad <- [:yes, nil, 1], call <- [:file_read, :file_delete, :file_stream!] do
      assert_raise ArgumentError, ~r/:replicate/, fn ->
        apply(MaculaStorage, call, [app, "a", [replicate: bad]])
      end
    end

    assert_raise ArgumentError, fn -> MaculaStorage.file_write(app, "a", "a", ack: :all) end
    assert_raise ArgumentError, fn -> MaculaStorage.file_list(app, :replicate) end
  end

  test "misuse is told before anything is done", %{app: app} do
    for call <- [
          fn options -> MeshFS.write(app, "a", "a", options) end,
          fn options -> MeshFS.read(app, "a", options) end,
          fn options -> MeshFS.delete(app, "a", options) end,
          fn options -> MeshFS.stat(app, "a", options) end,
          fn options -> MeshFS.versions(app, "a", options) end,
          fn options -> MeshFS.resolve(app, "a", {1, 1}, options) end,
          fn options -> MeshFS.copy(app, "a", "b", options) end,
          fn options -> MeshFS.rename(app, "a", "b", options) end,
          fn options -> MeshFS.scan(app, options) end,
          fn options -> MeshFS.scrub(options) end,
          fn options -> MeshFS.list(app, options) end,
          fn options -> MeshFS.stream!(app, "a", options) end
        ],
        options <- [[mode: 1], :all, [:all], [timeout: 0], [timeout: "1"], %{timeout: 1}],
        do: assert_raise(ArgumentError, fn -> call.(options) end)

    for bad <- [[copies: -1], [copies: 256], [copies: "1"], [copies: :all], [class: :slow]] do
      assert_raise ArgumentError, fn -> MeshFS.write(app, "a", "a", bad) end
      assert_raise ArgumentError, fn -> MeshFS.write(app, "a", ["a"] |> Stream.map(& &1), bad) end
      assert_raise ArgumentError, fn -> MeshFS.stream!(app, "a", bad) end
      assert_raise ArgumentError, fn -> MeshFS.delete(app, "a", copies: 1) end
    end

    for bad <- [:map, true, {:info}],
        do: assert_raise(ArgumentError, fn -> MeshFS.write(app, "a", "a", return: bad) end)

    for bad <- [:atom, nil, 1, {"a"}] do
      for call <- [
            fn -> MeshFS.write(app, bad, "a") end,
            fn -> MeshFS.write(app, bad, Stream.take(["a"], 1)) end,
            fn -> MeshFS.read(app, bad) end,
            fn -> MeshFS.delete(app, bad) end,
            fn -> MeshFS.stat(app, bad) end,
            fn -> MeshFS.versions(app, bad) end,
            fn -> MeshFS.resolve(app, bad, {1, 1}) end,
            fn -> MeshFS.copy(app, bad, "b") end,
            fn -> MeshFS.copy(app, "a", bad) end,
            fn -> MeshFS.rename(app, bad, "b") end,
            fn -> MeshFS.rename(app, "a", bad) end,
            fn -> MeshFS.stream!(app, bad) end
          ],
          do: assert_raise(ArgumentError, call)
    end

    for bad <- ["No App", "", nil, 1, "../x"] do
      assert_raise ArgumentError, fn -> MeshFS.write(bad, "a", "a") end
      assert_raise ArgumentError, fn -> MeshFS.read(bad, "a") end
      assert_raise ArgumentError, fn -> MeshFS.list(bad) end
      assert_raise ArgumentError, fn -> MeshFS.scan(bad) end
      assert_raise ArgumentError, fn -> MeshFS.stream!(bad, "a") end
    end

    assert {:ok, []} = MeshFS.list(app)
  end
end
