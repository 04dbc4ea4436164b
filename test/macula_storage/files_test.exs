defmodule MaculaStorage.FilesTest do
  @moduledoc "Files: whole, in chunks, listed, and never half there. Hostile names: hostile_files_test.exs."
  use MaculaStorage.Case, async: true

  alias MaculaStorage.{Error, Files, Wait}

  doctest MaculaStorage.Files

  setup do
    %{app: unique_app()}
  end

  defp path(app, name), do: Path.join([MaculaStorage.app_data_path(app), "files", name])

  test "write, read, replace, stat, delete", %{app: app} do
    assert {:error, :not_found} = MaculaStorage.file_read(app, "a/b.txt")
    assert {:error, :not_found} = MaculaStorage.file_stat(app, "a/b.txt")
    assert {:error, :not_found} = MaculaStorage.file_delete(app, "a/b.txt")
    assert :ok = MaculaStorage.file_write(app, "a/b.txt", ["io", ?-, ["data"]])
    assert {:ok, "io-data"} = MaculaStorage.file_read(app, "a/b.txt")
    assert File.read!(path(app, "a/b.txt")) == "io-data"
    assert :ok = MaculaStorage.file_write(app, "a/b.txt", "")
    assert {:ok, ""} = MaculaStorage.file_read(app, "a/b.txt")
    assert :ok = MaculaStorage.file_write(app, ~c"a/b.txt", "new")

    assert {:ok, %{size: 3, mtime_ms: mtime_ms, mode: mode, blake3: blake3}} =
             MaculaStorage.file_stat(app, "a/b.txt")

    assert_in_delta mtime_ms, System.os_time(:millisecond), 60_000
    assert Bitwise.band(mode, 0o600) == 0o600
    assert byte_size(blake3) == 32
    assert :ok = MaculaStorage.file_delete(app, "a/b.txt")
    assert {:error, :not_found} = MaculaStorage.file_read(app, "a/b.txt")
    # the directory that is empty now went with it
    refute File.exists?(path(app, "a"))
  end

  test "equal contents have equal checksums, other tools' files have none", %{app: app} do
    :ok = MaculaStorage.file_write(app, "a", "same")
    :ok = MaculaStorage.file_write(app, "b", "same")
    File.write!(path(app, "c"), "same")
    assert {:ok, %{blake3: hash}} = MaculaStorage.file_stat(app, "a")
    assert {:ok, %{blake3: ^hash}} = MaculaStorage.file_stat(app, "b")
    assert {:ok, %{blake3: nil, size: 4}} = MaculaStorage.file_stat(app, "c")
    assert {:ok, "same"} = MaculaStorage.file_read(app, "c")
  end

  test "a large file", %{app: app} do
    bytes = :crypto.strong_rand_bytes(20_000_000)
    :ok = MaculaStorage.file_write(app, "large", bytes)
    assert {:ok, ^bytes} = MaculaStorage.file_read(app, "large")
    assert {:error, :too_large} = MaculaStorage.file_read(app, "large", bytes_max: 19_999_999)
    assert {:ok, _} = MaculaStorage.file_read(app, "large", bytes_max: 20_000_000)
  end

  test "content that changed on the disk is named, also with its old time", %{app: app} do
    :ok = MaculaStorage.file_write(app, "a.bin", :binary.copy("good", 10_000))
    path = path(app, "a.bin")
    %File.Stat{mtime: mtime} = File.stat!(path, time: :posix)
    {_, 0} = System.cmd("touch", ["-r", path, path <> ".time"])
    <<head::binary-size(20_000), byte, tail::binary>> = File.read!(path)
    {:ok, device} = :file.open(path, [:read, :write, :raw])
    :ok = :file.pwrite(device, 20_000, <<Bitwise.bxor(byte, 1)>>)
    :ok = :file.close(device)
    {_, 0} = System.cmd("touch", ["-r", path <> ".time", path])
    assert %File.Stat{mtime: ^mtime} = File.stat!(path, time: :posix)

    assert {:error, %Error{kind: :corrupt}} = MaculaStorage.file_read(app, "a.bin")

    # mended, it is good again
    File.write!(path, [head, byte, tail])
    {_, 0} = System.cmd("touch", ["-r", path <> ".time", path])
    assert {:ok, _} = MaculaStorage.file_read(app, "a.bin")
  end

  test "a file that another tool rewrote is that tool's", %{app: app} do
    :ok = MaculaStorage.file_write(app, "a.txt", "ours")
    File.write!(path(app, "a.txt"), "theirs, later")
    assert {:ok, "theirs, later"} = MaculaStorage.file_read(app, "a.txt")
    assert {:ok, %{blake3: nil}} = MaculaStorage.file_stat(app, "a.txt")
  end

  test "readers see the old file or the new one, never a part", %{app: app} do
    contents = for n <- 0..9, do: :binary.copy(<<?0 + n>>, 100_000 + n)
    :ok = MaculaStorage.file_write(app, "a", hd(contents))

    writer =
      Task.async(fn ->
        for _ <- 1..5, content <- contents, do: :ok = MaculaStorage.file_write(app, "a", content)
      end)

    reads = reads_until(app, writer.pid, 0, contents)
    Task.await(writer, 60_000)
    assert reads > 0
  end

  defp reads_until(app, pid, count, contents) do
    {:ok, ours} = MaculaStorage.file_read(app, "a")
    assert ours in contents
    assert File.read!(path(app, "a")) in contents
    if Process.alive?(pid), do: reads_until(app, pid, count + 1, contents), else: count
  end

  test "writers of one name at once: one of them wins wholly", %{app: app} do
    contents = for n <- 1..20, do: :binary.copy(<<n>>, 50_000)

    contents
    |> Task.async_stream(&MaculaStorage.file_write(app, "d/a", &1), max_concurrency: 20)
    |> Enum.each(&assert &1 == {:ok, :ok})

    assert {:ok, content} = MaculaStorage.file_read(app, "d/a")
    assert content in contents
    assert File.ls!(path(app, "d")) == ["a"]
  end

  test "list: sorted by bytes, by prefix, after, limit", %{app: app} do
    assert {:ok, []} = MaculaStorage.file_list(app)
    names = ["a", "a.txt", "a/b", "a/c/d", "ab/x", "ä", "z"]
    # "a" cannot be a file and a directory
    for name <- names -- ["a"], do: :ok = MaculaStorage.file_write(app, name, "")
    listed = Enum.sort(names -- ["a"])
    assert {:ok, ^listed} = MaculaStorage.file_list(app)
    assert {:ok, ["a/b", "a/c/d"]} = MaculaStorage.file_list(app, prefix: "a")
    assert {:ok, ["a/c/d"]} = MaculaStorage.file_list(app, prefix: "a/c")
    assert {:ok, []} = MaculaStorage.file_list(app, prefix: "none")
    assert {:ok, [first, second]} = MaculaStorage.file_list(app, limit: 2)
    assert [first, second] == Enum.take(listed, 2)
    assert {:ok, rest} = MaculaStorage.file_list(app, after: second)
    assert [first, second | rest] == listed
    assert {:ok, ["ab/x"]} = MaculaStorage.file_list(app, after: "a/c/d", limit: 1)
    assert_raise ArgumentError, fn -> MaculaStorage.file_list(app, limit: 0) end
    assert_raise ArgumentError, fn -> MaculaStorage.file_list(app, depth: 1) end
  end

  test "a list of more than one page", %{app: app} do
    :ok = MaculaStorage.file_write(app, "p/0", "")
    for n <- 1..2_100, do: File.write!(path(app, "p/#{n}"), "")
    names = for(n <- 0..2_100, do: "p/#{n}") |> Enum.sort()
    assert {:ok, ^names} = MaculaStorage.file_list(app)
    assert {:ok, some} = MaculaStorage.file_list(app, limit: 1_001)
    assert some == Enum.take(names, 1_001)
  end

  test "streams both ways, chunk by chunk", %{app: app} do
    stream = MaculaStorage.file_stream!(app, "s/1", chunk_bytes: 1_000)
    chunks = for n <- 1..100, do: :binary.copy(<<n>>, 777)
    assert ^stream = Enum.into(chunks, stream)
    whole = IO.iodata_to_binary(chunks)
    assert {:ok, ^whole} = MaculaStorage.file_read(app, "s/1")
    read = Enum.to_list(stream)
    assert Enum.map(read, &byte_size/1) == List.duplicate(1_000, 77) ++ [700]
    assert IO.iodata_to_binary(read) == whole
    assert [first | _] = Enum.take(stream, 1)
    assert byte_size(first) == 1_000

    # iodata, an empty one, one larger than a mebibyte, and from one file to the other
    large = :binary.copy("x", 3_000_001)
    ["" | [["a", ?b], large]] |> Enum.into(MaculaStorage.file_stream!(app, "s/2"))
    MaculaStorage.file_stream!(app, "s/2") |> Enum.into(MaculaStorage.file_stream!(app, "s/3"))
    assert {:ok, "ab" <> ^large} = MaculaStorage.file_read(app, "s/3")
    assert {:ok, %{blake3: hash}} = MaculaStorage.file_stat(app, "s/2")
    assert {:ok, %{blake3: ^hash}} = MaculaStorage.file_stat(app, "s/3")
    assert [] = Enum.into([], MaculaStorage.file_stream!(app, "s/4")) |> Enum.to_list()
  end

  test "a stream of a missing file, and a collection that fails", %{app: app} do
    error = assert_raise Error, fn -> Enum.to_list(MaculaStorage.file_stream!(app, "none")) end
    assert error.kind == :not_found
    :ok = MaculaStorage.file_write(app, "a", "old")

    assert_raise RuntimeError, fn ->
      1..100
      |> Stream.map(fn n -> if n == 50, do: raise("broken"), else: :binary.copy("x", 10_000) end)
      |> Enum.into(MaculaStorage.file_stream!(app, "a"))
    end

    assert {:ok, "old"} = MaculaStorage.file_read(app, "a")
    data = MaculaStorage.app_data_path(app)

    Wait.until("no trace", fn ->
      [data, "**"]
      |> Path.join()
      |> Path.wildcard(match_dot: true)
      |> Enum.filter(&File.regular?/1) ==
        [path(app, "a")]
    end)

    assert_raise ArgumentError, fn -> MaculaStorage.file_stream!(app, "a", chunk: 1) end
  end

  test "a reader keeps the file that it opened", %{app: app} do
    :ok = MaculaStorage.file_write(app, "a", :binary.copy("1", 1_000_000))

    read =
      app
      |> MaculaStorage.file_stream!("a", chunk_bytes: 100_000)
      |> Stream.with_index()
      |> Enum.map(fn {chunk, n} ->
        if n == 0, do: :ok = MaculaStorage.file_write(app, "a", "2")
        if n == 5, do: :ok = MaculaStorage.file_delete(app, "a")
        chunk
      end)

    assert IO.iodata_to_binary(read) == :binary.copy("1", 1_000_000)
  end

  test "memory stays while a stream of 64 MB goes both ways", %{app: app} do
    chunk = :crypto.strong_rand_bytes(262_144)
    Enum.into(Stream.repeatedly(fn -> chunk end) |> Stream.take(256), Files.stream!(app, "big"))

    peak =
      Enum.reduce(Files.stream!(app, "big"), 0, fn bytes, peak ->
        ^chunk = bytes
        max(peak, binary_bytes())
      end)

    assert peak < 48_000_000
  end

  # of this process: other tests of this VM have binaries too
  defp binary_bytes do
    {:binary, binaries} = Process.info(self(), :binary)
    binaries |> Enum.uniq_by(&elem(&1, 0)) |> Enum.map(&elem(&1, 1)) |> Enum.sum()
  end

  test "names that are lists, and misuse", %{app: app} do
    assert_raise ArgumentError, fn -> MaculaStorage.file_read(app, :atom) end
    assert_raise ArgumentError, fn -> MaculaStorage.file_write(app, "a", "a", mode: 1) end
    assert_raise ArgumentError, fn -> MaculaStorage.file_write("No App", "a", "a") end
    assert_raise ArgumentError, fn -> MaculaStorage.file_write(app, "a", :not_iodata) end
  end
end
