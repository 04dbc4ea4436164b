defmodule MaculaBackupTest do
  @moduledoc "Backups round trip, list exactly, do not collide, and restore under an app that runs."
  use MaculaStorage.Case, async: true

  import ExUnit.CaptureLog

  alias MaculaStorage.{CubDB, Error, Sample, SQLite}

  doctest MaculaBackup

  setup do
    app = unique_app()

    on_exit(fn ->
      for %{path: path} <- MaculaBackup.list_backups(app, details: true), do: File.rm!(path)
    end)

    %{app: app}
  end

  defp app_dir(app), do: Path.dirname(MaculaStorage.app_data_path(app))

  for format <- [:zst, :gz] do
    test "#{format}: everything comes back, and nothing that came later stays", %{app: app} do
      Sample.fill(app, :first)
      before = Sample.seen(app)
      assert {:ok, tarball} = MaculaBackup.backup_app(app, format: unquote(format))
      assert String.ends_with?(tarball, ".tar.#{unquote(format)}")
      assert Path.dirname(tarball) == Path.join(base_path(), "backups")

      Sample.fill(app, :second)
      :ok = MaculaStorage.file_write(app, "later", "later")
      :ok = CubDB.put(app, :later, 1)
      assert Sample.seen(app) != before
      assert :ok = MaculaBackup.restore_app(app, tarball)
      assert [] = Sample.differences(before, Sample.seen(app))
      # and once more, by its listed name, under an app that was closed
      :ok = MaculaStorage.close_app(app)
      assert :ok = MaculaBackup.restore_app(app, Path.basename(tarball))
      assert [] = Sample.differences(before, Sample.seen(app))
    end
  end

  test "after total loss, of a closed app and under a running one", %{app: app} do
    Sample.fill(app, :first)
    before = Sample.seen(app)
    {:ok, tarball} = MaculaBackup.backup_app(app)
    :ok = MaculaStorage.close_app(app)
    File.rm_rf!(app_dir(app))
    assert :ok = MaculaBackup.restore_app(app, tarball)
    assert [] = Sample.differences(before, Sample.seen(app))

    File.rm_rf!(app_dir(app))
    assert :ok = MaculaBackup.restore_app(app, tarball)
    assert [] = Sample.differences(before, Sample.seen(app))
  end

  test "another process of the machine restores what this one backed up", %{app: app} do
    Sample.fill(app, :first)
    {:ok, tarball} = MaculaBackup.backup_app(app)
    other = unique_dir()

    child =
      ChildVM.start(
        """
        {:ok, _} = Application.ensure_all_started(:macula_storage)
        :ok = MaculaBackup.restore_app(#{inspect(app)}, #{inspect(tarball)})
        IO.puts(:erlang.phash2(MaculaStorage.Sample.seen(#{inspect(app)})))
        """,
        base: other
      )

    assert {[hash], 0} = ChildVM.rest(child)
    assert hash == to_string(:erlang.phash2(Sample.seen(app)))
  end

  test "cache/ is left out unless asked for", %{app: app} do
    Sample.fill(app, :first)
    cached = Path.join(MaculaStorage.app_cache_path(app), "cached")
    {:ok, without} = MaculaBackup.backup_app(app)
    {:ok, with_cache} = MaculaBackup.backup_app(app, cache: true)
    File.write!(cached, "changed")
    :ok = MaculaBackup.restore_app(app, with_cache)
    assert File.read!(cached) == ":first"
    :ok = MaculaBackup.restore_app(app, without)
    assert File.dir?(Path.dirname(cached))
    refute File.exists?(cached)
  end

  test "another SQLite database under data/, opened by nobody", %{app: app} do
    Sample.fill(app, :first)
    other = Path.join(MaculaStorage.app_data_path(app), "sub/other.db")
    File.mkdir_p!(Path.dirname(other))
    :ok = SQLite.backup(app, other)
    {:ok, tarball} = MaculaBackup.backup_app(app)
    File.rm!(other)
    :ok = MaculaBackup.restore_app(app, tarball)

    reader = unique_app()
    :ok = MaculaStorage.ensure_app_dirs(reader)
    File.cp!(other, SQLite.db_path(reader))
    assert SQLite.query(reader, "SELECT * FROM t") == SQLite.query(app, "SELECT * FROM t")
    assert {:ok, %{rows: [["ok"]]}} = SQLite.query(reader, "PRAGMA integrity_check")
  end

  test "a backup is one instant of everything while writers go on", %{app: app} do
    :ok = SQLite.execute(app, "CREATE TABLE t (n)")
    :ok = CubDB.put(app, :n, 0)
    :ok = MaculaStorage.file_write(app, "n", "0")

    # the same number everywhere, in this order: at one instant they differ by one at most
    writer =
      spawn_link(fn ->
        for n <- Stream.iterate(1, &(&1 + 1)) do
          :ok = CubDB.put(app, :n, n)
          :ok = SQLite.execute(app, "INSERT INTO t VALUES (?)", [n])
          :ok = MaculaStorage.file_write(app, "n", "#{n}")
        end
      end)

    tarballs = for _ <- 1..4, do: elem({:ok, _} = MaculaBackup.backup_app(app), 1)
    Process.unlink(writer)
    ref = Process.monitor(writer)
    Process.exit(writer, :kill)
    assert_receive {:DOWN, ^ref, _, _, _}, 60_000

    for tarball <- tarballs do
      :ok = MaculaBackup.restore_app(app, tarball)
      kv = CubDB.get(app, :n)

      {:ok, %{rows: [[sql, count]]}} =
        SQLite.query(app, "SELECT coalesce(max(n), 0), count(*) FROM t")

      {:ok, file} = MaculaStorage.file_read(app, "n")
      assert sql == count

      assert [kv, sql, String.to_integer(file)] in [
               [kv, kv, kv],
               [kv, kv, kv - 1],
               [kv, kv - 1, kv - 1]
             ]
    end
  end

  test "on a running app: what was open is closed, what comes next sees the restored", %{app: app} do
    Sample.fill(app, :first)
    {:ok, tarball} = MaculaBackup.backup_app(app)
    Sample.fill(app, :second)
    {:ok, conn} = SQLite.open(app)
    snapshot = CubDB.snapshot(app, :infinity)
    {:ok, pid} = CubDB.start_link(app)
    test = self()

    in_tx =
      spawn_link(fn ->
        answer =
          CubDB.transaction(app, fn tx ->
            send(test, :in)
            receive do: (:go_on -> :ok)
            error = assert_raise Error, fn -> CubDB.Tx.put(tx, :lost, 1) end
            {:cancel, error.kind}
          end)

        send(test, {:kv, answer})
      end)

    in_sql =
      spawn_link(fn ->
        answer =
          SQLite.transaction(app, fn tx ->
            send(test, :in)
            receive do: (:go_on -> :ok)
            SQLite.execute(tx, "DELETE FROM t")
          end)

        send(test, {:sql, answer})
      end)

    assert_receive :in, 60_000
    assert_receive :in, 60_000
    assert :ok = MaculaBackup.restore_app(app, tarball)
    send(in_tx, :go_on)
    send(in_sql, :go_on)
    assert_receive {:kv, :closed}, 60_000
    assert_receive {:sql, answer}, 60_000
    assert answer in [{:error, :closed}, {:ok, {:error, :closed}}]

    assert {:error, :closed} = SQLite.query(conn, "SELECT 1")
    error = assert_raise Error, fn -> CubDB.Snapshot.size(snapshot) end
    assert error.kind == :closed
    assert {:first, 1, _} = CubDB.get(pid, {:key, 1, 1.0})
    assert {:ok, %{rows: [[":first"]]}} = SQLite.query(app, "SELECT DISTINCT mark FROM t")
    assert :ok = CubDB.put(app, :new, 1)
    assert :ok = SQLite.execute(app, "DELETE FROM t")
    assert :ok = MaculaStorage.file_write(app, "new", "new")
  end

  test "list_backups: of exactly this app, newest first, with details" do
    name = "my#{System.unique_integer([:positive])}"
    apps = [name, name <> "_app", name <> "_20260112t101530"]
    for app <- apps, do: :ok = MaculaStorage.data_put(app, :a, 1)

    on_exit(fn ->
      for app <- apps do
        for %{path: path} <- MaculaBackup.list_backups(app, details: true), do: File.rm!(path)
        MaculaStorage.close_app(app)
        File.rm_rf!(app_dir(app))
      end
    end)

    made =
      for format <- [:zst, :gz, :zst], app <- apps do
        {:ok, tarball} = MaculaBackup.backup_app(app, format: format)
        {app, Path.basename(tarball)}
      end

    backups = Path.join(base_path(), "backups")

    strange =
      for suffix <- [
            "",
            "_x.tar.zst",
            "_20260112T101530.123456Z.zip",
            "_20269912T101530.123456Z.tar.gz"
          ] do
        path = Path.join(backups, name <> suffix)
        File.write!(path, "")
        path
      end

    on_exit(fn -> Enum.each(strange, &File.rm!/1) end)

    for app <- apps do
      expected = for({^app, file} <- made, do: file) |> Enum.reverse()
      assert MaculaBackup.list_backups(app) == expected
      assert [%{at: newest} | _] = details = MaculaBackup.list_backups(app, details: true)
      assert Enum.map(details, & &1.name) == expected
      assert abs(DateTime.diff(newest, DateTime.utc_now())) < 600
      times = Enum.map(details, & &1.at)
      assert times == Enum.sort(times, {:desc, DateTime})

      for detail <- details do
        assert Enum.sort(Map.keys(detail)) == [:at, :bytes, :name, :path, :verified]
        assert detail.path == Path.join(backups, detail.name)
        assert detail.bytes == File.stat!(detail.path).size
        assert detail.verified in [true, nil]
      end
    end
  end

  test "backups at once do not collide", %{app: app} do
    Sample.fill(app, :first)

    tarballs =
      1..4
      |> Task.async_stream(fn _ -> MaculaBackup.backup_app(app) end,
        timeout: 120_000,
        max_concurrency: 4
      )
      |> Enum.map(fn {:ok, {:ok, tarball}} -> tarball end)

    assert length(Enum.uniq(tarballs)) == 4

    assert Enum.sort(MaculaBackup.list_backups(app)) ==
             tarballs |> Enum.map(&Path.basename/1) |> Enum.sort()

    before = Sample.seen(app)

    for tarball <- tarballs do
      :ok = MaculaBackup.restore_app(app, tarball)
      assert [] = Sample.differences(before, Sample.seen(app))
    end
  end

  test "progress is told", %{app: app} do
    Sample.fill(app, :first)
    test = self()
    tell = &send(test, {:progress, &1})
    {:ok, tarball} = MaculaBackup.backup_app(app, progress: tell)
    assert %{bytes_done: done, entries_done: entries} = last_progress(nil)
    assert done > 0 and entries > 0
    :ok = MaculaBackup.restore_app(app, tarball, progress: tell)
    assert %{bytes_done: done, entries_done: entries} = last_progress(nil)
    assert done > 0 and entries > 0
  end

  # All of it was told before the call returned.
  defp last_progress(last) do
    receive do
      {:progress, progress} ->
        # reading back, when it comes, begins again
        assert %{entries_done: _, bytes_done: done, bytes_total: total} = progress
        assert total == nil or is_integer(total)
        assert is_integer(done)
        last_progress(progress)
    after
      0 -> last
    end
  end

  test "an empty app, and none", %{app: app} do
    # asking for a backup must not make an app of a mistyped name
    assert {:error, :not_found} = MaculaBackup.backup_app(app)
    :ok = MaculaStorage.ensure_app_dirs(app)
    {:ok, tarball} = MaculaBackup.backup_app(app)
    :ok = MaculaStorage.data_put(app, :a, 1)
    assert :ok = MaculaBackup.restore_app(app, tarball)
    assert MaculaStorage.data_get(app, :a) == nil
  end

  # It answered {:ok, path} and said nothing: who looked at the answer alone took it for complete.
  test "what a backup leaves out is told in the log", %{app: app} do
    Sample.fill(app, :first)
    uploads = MaculaStorage.app_uploads_path(app)
    log = capture_log(fn -> {:ok, _} = MaculaBackup.backup_app(app) end)
    refute log =~ "left_out="

    for n <- 1..7, do: File.ln_s!("/etc/passwd", Path.join(uploads, "absolute#{n}"))
    log = capture_log(fn -> {:ok, _} = MaculaBackup.backup_app(app) end)
    assert log =~ "the backup does not hold everything: left_out=7 app=#{app}"
    assert log =~ "uploads/absolute1: a link that leads outside the app"
    assert log =~ "absolute5" and log =~ ", ..."
    refute log =~ "absolute6"

    for n <- 8..1_010, do: File.ln_s!("/etc/passwd", Path.join(uploads, "absolute#{n}"))
    log = capture_log(fn -> {:ok, _} = MaculaBackup.backup_app(app) end)
    assert log =~ "left_out=1010 app=#{app}"
  end

  # A flipped bit was backed up as verified, and sealed in as good by the restore.
  test "damage is an error that names the file, and no backup", %{app: app} do
    Sample.fill(app, :first)
    path = Path.join(MaculaStorage.app_data_path(app), "files/a.txt")
    time = Path.join(unique_dir(), "time")
    {_, 0} = System.cmd("touch", ["-r", path, time])
    {:ok, device} = :file.open(path, [:read, :write, :raw, :binary])
    {:ok, <<first>>} = :file.pread(device, 0, 1)
    :ok = :file.pwrite(device, 0, <<Bitwise.bxor(first, 1)>>)
    :ok = :file.close(device)
    {_, 0} = System.cmd("touch", ["-r", time, path])
    assert {:error, %Error{kind: :corrupt} = error} = MaculaBackup.backup_app(app)
    assert Exception.message(error) =~ "data/files/a.txt"
    assert error.hint =~ "write it anew"
    assert MaculaBackup.list_backups(app) == []
    :ok = MaculaStorage.file_write(app, "a.txt", "anew")
    assert {:ok, _} = MaculaBackup.backup_app(app)
  end

  test "options that cannot be", %{app: app} do
    for bad <- [[format: :zip], [level: 0], [cache: 1], [verify: :no], [timeout: 0]] do
      assert_raise ArgumentError, fn -> MaculaBackup.backup_app(app, bad) end
    end

    for bad <- [[foreign: 1], [bytes_max: -1], [cache: true]] do
      assert_raise ArgumentError, fn -> MaculaBackup.restore_app(app, "x.tar.zst", bad) end
    end

    assert_raise ArgumentError, fn -> MaculaBackup.list_backups(app, details: 1) end
  end
end
