defmodule MaculaStorage.UsageTest do
  @moduledoc "An app's bytes: what `du -sb` says, by whatever they came and went."
  use MaculaStorage.Case, async: true

  alias MaculaStorage.{CubDB, SQLite, Wait}

  # Since coreutils 9.2 `du -b` leaves directories out; ours counts them, as the older ones did.
  defp du(app) do
    dir = Path.dirname(MaculaStorage.app_data_path(app))
    {text, 0} = System.cmd("du", ["-sb", dir])
    bytes = text |> String.split() |> hd() |> String.to_integer()
    if du_counts_dirs?(), do: bytes, else: bytes + dirs(dir)
  end

  defp du_counts_dirs? do
    {text, 0} = System.cmd("du", ["--version"])
    [_, major, minor] = Regex.run(~r/(\d+)\.(\d+)/, text)
    {String.to_integer(major), String.to_integer(minor)} < {9, 2}
  end

  defp dirs(dir) do
    below = [dir, "**"] |> Path.join() |> Path.wildcard(match_dot: true)

    for path <- [dir | below],
        %{type: :directory, size: size} <- [File.lstat!(path)],
        reduce: 0 do
      sum -> sum + size
    end
  end

  # A checkpoint or a closer thread may be at work between our figure and du's.
  defp equal!(app) do
    Wait.until("figures that agree", fn ->
      {:ok, usage} = MaculaStorage.app_usage(app, fresh: true)
      assert usage.total == Enum.sum(Map.values(usage.parts))
      assert is_integer(usage.age_ms)
      usage.total == du(app) and usage
    end)
  end

  test "after each step of a mixed run, after a restore, and after opening again" do
    app = unique_app()
    :ok = MaculaStorage.ensure_app_dirs(app)
    equal!(app)

    :ok = CubDB.put_multi(app, for(n <- 1..2_000, do: {n, :binary.copy("v", 500)}))
    %{parts: %{kv: kv}} = equal!(app)
    assert kv > 1_000_000

    :ok = SQLite.execute(app, "CREATE TABLE t (id INTEGER PRIMARY KEY, v)")

    for n <- 1..20,
        do: :ok = SQLite.execute(app, "INSERT INTO t VALUES (?, zeroblob(100000))", [n])

    %{parts: %{sqlite: sqlite}} = equal!(app)
    assert sqlite > 2_000_000

    for n <- 1..30,
        do:
          :ok = MaculaStorage.file_write(app, "d#{rem(n, 3)}/#{n}", :binary.copy("f", n * 1_000))

    %{parts: %{files: files}} = equal!(app)
    assert files >= 465_000

    uploads = MaculaStorage.app_uploads_path(app)
    File.mkdir_p!(Path.join(uploads, "deep/dir"))
    File.write!(Path.join(uploads, "deep/dir/u"), :binary.copy("u", 77_777))
    File.ln!(Path.join(uploads, "deep/dir/u"), Path.join(uploads, "hard link"))
    File.ln_s!("deep/dir/u", Path.join(uploads, "symlink"))
    File.write!(Path.join(MaculaStorage.app_cache_path(app), "c"), :binary.copy("c", 5_000))
    File.write!(Path.join(MaculaStorage.app_data_path(app), "other"), "other")
    %{parts: %{uploads: up, cache: cache, other: other}} = equal!(app)
    assert up >= 77_777 and up < 2 * 77_777
    assert cache >= 5_000
    assert other >= 5

    for n <- 1..15, do: :ok = MaculaStorage.file_delete(app, "d#{rem(n, 3)}/#{n}")
    :ok = CubDB.delete_multi(app, Enum.to_list(1..1_000))
    :ok = SQLite.execute(app, "DELETE FROM t WHERE id < 10")
    File.rm!(Path.join(uploads, "deep/dir/u"))
    before = equal!(app)

    {:ok, tarball} = MaculaBackup.backup_app(app)
    on_exit(fn -> File.rm!(tarball) end)
    :ok = MaculaStorage.file_write(app, "later", :binary.copy("l", 500_000))
    equal!(app)
    :ok = MaculaBackup.restore_app(app, tarball)
    restored = equal!(app)
    assert restored.parts.files == before.parts.files

    :ok = MaculaStorage.close_app(app)
    assert MaculaStorage.app_quota(app) == du(app)
    equal!(app)
  end

  test "what our own writers do is counted at once, without a walk" do
    app = unique_app()
    :ok = MaculaStorage.file_write(app, "a", "")
    {:ok, %{parts: %{files: before}}} = MaculaStorage.app_usage(app)
    :ok = MaculaStorage.file_write(app, "b", :binary.copy("b", 10_000))
    assert {:ok, %{parts: %{files: after_write}}} = MaculaStorage.app_usage(app)
    assert after_write == before + 10_000
    :ok = MaculaStorage.file_write(app, "b", "b")
    assert {:ok, %{parts: %{files: after_replace}}} = MaculaStorage.app_usage(app)
    assert after_replace == before + 1
    :ok = MaculaStorage.file_delete(app, "b")
    assert {:ok, %{parts: %{files: ^before}}} = MaculaStorage.app_usage(app)
    Enum.into(["c", "cc"], MaculaStorage.file_stream!(app, "c"))
    assert {:ok, %{parts: %{files: streamed}}} = MaculaStorage.app_usage(app)
    assert streamed == before + 3
  end

  test "app_quota is the total" do
    app = unique_app()
    :ok = MaculaStorage.file_write(app, "a", :binary.copy("a", 12_345))
    {:ok, usage} = MaculaStorage.app_usage(app, fresh: true)
    assert MaculaStorage.app_quota(app) == usage.total
    assert MaculaStorage.app_quota(app) > 12_345
  end
end
