defmodule MaculaBackup.ArchiveTest do
  @moduledoc "Archives at a path of the caller's: what stock tools make of them, and hostile ones refused."
  use MaculaStorage.Case, async: true

  alias MaculaStorage.{Error, Sample}

  setup do
    app = unique_app()
    Sample.fill(app, :first)
    %{app: app, dir: unique_dir("it's an archive")}
  end

  test "archive and restore, by the name's end", %{app: app, dir: dir} do
    for name <- ["a.tar.zst", "b c.tar.gz", "d.tgz"] do
      dest = Path.join(dir, name)
      assert {:ok, info} = MaculaStorage.archive(app, dest)
      assert %{path: ^dest, bytes: bytes, bytes_in: bytes_in, entries: entries} = info
      assert bytes == File.stat!(dest).size
      assert bytes_in > bytes and entries > 20
      assert info.left_out == [] and info.changed == 0
      before = Sample.seen(app, cache: true)
      Sample.fill(app, :second)
      assert :ok = MaculaStorage.restore(app, dest)
      assert [] = Sample.differences(before, Sample.seen(app, cache: true))
    end

    assert length(File.ls!(dir)) == 3
  end

  test "what is there is not replaced unless asked to", %{app: app, dir: dir} do
    dest = Path.join(dir, "a.tar.zst")
    File.write!(dest, "precious")
    assert {:error, :exists} = MaculaStorage.archive(app, dest)
    assert File.read!(dest) == "precious"
    assert {:ok, _} = MaculaStorage.archive(app, dest, overwrite: true)
    assert :ok = MaculaStorage.restore(app, dest)
    assert {:error, _} = MaculaStorage.archive(app, Path.join(dir, "none/a.tar.zst"))
    assert File.ls!(dir) == ["a.tar.zst"]
  end

  test "tar -tzf and tar -xzf read it", %{app: app, dir: dir} do
    {:ok, %{path: path}} = MaculaStorage.archive(app, Path.join(dir, "a.tar.gz"))
    {text, 0} = System.cmd("tar", ["-tzf", path])
    for name <- ["data/files/a.txt", "data/app.db", "uploads/plain"], do: assert(text =~ name)
    out = unique_dir()
    {"", 0} = System.cmd("tar", ["-xzf", path, "-C", out], stderr_to_stdout: true)
    [file] = Path.wildcard(Path.join(out, "**/data/files/dir/b.bin"))
    assert {:ok, File.read!(file)} == MaculaStorage.file_read(app, "dir/b.bin")
  end

  if System.find_executable("zstd") do
    test "zstd -dc and tar -t read it", %{app: app, dir: dir} do
      {:ok, _} = MaculaStorage.archive(app, Path.join(dir, "a.tar.zst"))
      {text, 0} = System.cmd("sh", ["-c", "zstd -dc a.tar.zst | tar -tf -"], cd: dir)
      for name <- ["data/files/a.txt", "data/app.db", "uploads/plain"], do: assert(text =~ name)
    end
  end

  test "an archive that tar made, when it is asked for", %{app: app, dir: dir} do
    src = Path.join(dir, "src")
    File.mkdir_p!(Path.join(src, "data/files"))
    File.mkdir_p!(Path.join(src, "uploads"))
    File.write!(Path.join(src, "data/files/by-tar"), "by tar")
    tarball = Path.join(dir, "foreign.tar.gz")
    {_, 0} = System.cmd("tar", ["-czf", tarball, "-C", src, "data", "uploads"])
    before = Sample.seen(app)
    assert {:error, %Error{kind: :invalid}} = MaculaStorage.restore(app, tarball)
    assert [] = Sample.differences(before, Sample.seen(app))
    assert :ok = MaculaStorage.restore(app, tarball, foreign: true)
    assert {:ok, ["by-tar"]} = MaculaStorage.file_list(app)
  end

  test "another app's archive, when it is asked for", %{app: app, dir: dir} do
    {:ok, %{path: path}} = MaculaStorage.archive(app, Path.join(dir, "a.tar.zst"))
    other = unique_app()
    Sample.fill(other, :other)
    before = Sample.seen(other)
    assert {:error, %Error{kind: :invalid} = error} = MaculaStorage.restore(other, path)
    assert Exception.message(error) =~ app
    assert [] = Sample.differences(before, Sample.seen(other))
    assert :ok = MaculaStorage.restore(other, path, from_other_app: true)
    assert [] = Sample.differences(Sample.seen(app), Sample.seen(other))
  end

  test "missing ones, and ones too large", %{app: app, dir: dir} do
    assert {:error, :not_found} = MaculaStorage.restore(app, Path.join(dir, "none.tar.zst"))
    assert {:error, :not_found} = MaculaBackup.restore_app(app, "none.tar.zst")
    assert {:error, _} = MaculaStorage.restore(app, dir)
    {:ok, %{path: path}} = MaculaStorage.archive(app, Path.join(dir, "a.tar.zst"))
    before = Sample.seen(app)
    assert {:error, reason} = MaculaStorage.restore(app, path, bytes_max: 10_000)
    assert reason == :too_large or match?(%Error{}, reason)
    assert [] = Sample.differences(before, Sample.seen(app))
  end

  test "truncated, flipped, extended and invented ones leave the app as it was", %{
    app: app,
    dir: dir
  } do
    {:ok, %{path: path}} = MaculaStorage.archive(app, Path.join(dir, "good.tar.zst"))
    {:ok, %{path: gz}} = MaculaStorage.archive(app, Path.join(dir, "good.tar.gz"))
    Sample.fill(app, :second)
    before = Sample.seen(app)
    bytes = File.read!(path)
    :rand.seed(:exsss, {ExUnit.configuration()[:seed], 3, 3})
    half = div(byte_size(bytes), 2)
    gz_bytes = File.read!(gz)

    flips = for source <- [bytes, gz_bytes], _ <- 1..8, do: flip(source)

    bad =
      [
        "",
        "garbage",
        :crypto.strong_rand_bytes(100_000),
        binary_part(bytes, 0, half),
        binary_part(bytes, 0, byte_size(bytes) - 1),
        binary_part(gz_bytes, 0, byte_size(gz_bytes) - 1),
        binary_part(bytes, 0, half) <> binary_part(bytes, half, 1) <> bytes,
        :zlib.gzip(:binary.copy(<<0>>, 1_024)),
        :zlib.gzip(:crypto.strong_rand_bytes(10_000))
      ] ++ flips

    for {content, n} <- Enum.with_index(bad) do
      file = Path.join(dir, "bad#{n}.tar.zst")
      File.write!(file, content)
      assert {:error, reason} = MaculaStorage.restore(app, file), "no. #{n} was taken"
      assert match?(%Error{}, reason) or reason == :too_large, "no. #{n}: #{inspect(reason)}"
    end

    assert [] = Sample.differences(before, Sample.seen(app))
    assert :ok = MaculaStorage.restore(app, path)
  end

  defp flip(bytes) do
    at = :rand.uniform(byte_size(bytes)) - 1
    <<head::binary-size(at), byte, tail::binary>> = bytes
    IO.iodata_to_binary([head, Bitwise.bxor(byte, Bitwise.bsl(1, :rand.uniform(8) - 1)), tail])
  end

  test "names and links that lead out are refused, and nothing is out there", %{
    app: app,
    dir: dir
  } do
    before = Sample.seen(app)

    make = fn name, script ->
      src = Path.join(dir, name)
      File.mkdir_p!(Path.join(src, "data"))
      File.write!(Path.join(src, "data/a"), "a")
      File.write!(Path.join(src, "evil"), "evil")
      {out, status} = System.cmd("sh", ["-ec", script], cd: src, stderr_to_stdout: true)
      assert status == 0, out
      Path.join(src, "x.tar.gz")
    end

    hostile = [
      parent: "tar -czPf x.tar.gz --transform 's,^evil,../../evil,' data evil",
      absolute: "tar -czPf x.tar.gz --transform \"s,^evil,$PWD/out,\" data evil",
      link_out: "ln -s ../../../../evil data/l; tar -czf x.tar.gz data",
      link_absolute: "ln -s /etc/passwd data/l; tar -czf x.tar.gz data",
      through_link: """
      ln -s /tmp data/l; mkdir d2; cp evil d2/evil
      tar -cf x.tar data; tar -rPf x.tar --transform 's,^d2,data/l,' d2/evil; gzip x.tar
      """,
      hard_link:
        "ln evil evil2; tar -czPf x.tar.gz --transform 's,^evil$,/etc/passwd,;s,^evil2,data/p,' data evil evil2",
      fifo: "mkfifo data/fifo; tar -czf x.tar.gz data",
      twice: "tar -cf x.tar data/a; tar -rf x.tar data/a; gzip x.tar",
      file_and_dir:
        "tar -cf x.tar data/a; rm data/a; mkdir data/a; cp evil data/a/b; tar -rf x.tar data/a/b; gzip x.tar"
    ]

    for {name, script} <- hostile do
      tarball = make.(to_string(name), script)

      for options <- [[], [foreign: true], [foreign: true, from_other_app: true]] do
        assert {:error, %Error{} = error} = MaculaStorage.restore(app, tarball, options),
               "#{name}"

        assert error.kind in [:invalid, :corrupt], "#{name}: #{inspect(error)}"
      end
    end

    assert [] = Sample.differences(before, Sample.seen(app))
    apps = Path.join(base_path(), "apps")
    refute File.exists?(Path.join(dir, "absolute/out"))
    for path <- [base_path(), apps], do: refute(File.exists?(Path.join(path, "evil")))
    assert for(name <- File.ls!(apps), String.contains?(name, "restore-#{app}"), do: name) == []
  end
end
