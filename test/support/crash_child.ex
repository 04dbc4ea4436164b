defmodule MaculaStorage.CrashChild do
  @moduledoc """
  What the children of the crash tests do: write and say what was acknowledged, until they are
  killed; and in the next life, say what is there.

  Invariant: a line `ack TIER WRITER N` is printed after `:ok` and never before.
  """

  alias MaculaStorage.{CubDB, SQLite}
  alias MaculaStorage.CubDB.Tx

  @app "crash"
  @writers 1..3

  @doc "Report what round `round - 1` left, then write as round `round` until killed."
  def write(round) do
    {:ok, _} = Application.ensure_all_started(:macula_storage)

    :ok =
      SQLite.execute(
        @app,
        "CREATE TABLE IF NOT EXISTS t (round, w, n, PRIMARY KEY (round, w, n))"
      )

    report(round - 1)
    IO.puts("reported")

    for w <- @writers, tier <- [:kv, :sql, :file] do
      spawn_link(fn -> write_on(tier, round, w, 1) end)
    end

    forever()
  end

  defp write_on(tier, round, w, n) do
    :ok = write_one(tier, round, w, n)
    IO.puts("ack #{tier} #{w} #{n}")
    write_on(tier, round, w, n + 1)
  end

  defp write_one(:kv, round, w, n), do: MaculaStorage.data_put(@app, {round, w, n}, content(w, n))

  defp write_one(:sql, round, w, n),
    do: SQLite.execute(@app, "INSERT INTO t VALUES (?, ?, ?)", [round, w, n])

  defp write_one(:file, round, w, n),
    do: MaculaStorage.file_write(@app, "#{round}/#{w}/#{n}", content(w, n))

  defp content(w, n), do: String.duplicate("#{w}-#{n};", 50 + rem(n * 37, 400))

  # `have TIER WRITER N`: exactly 1..N are there, each whole; anything else ends the child.
  defp report(round) do
    {:ok, %{rows: [["ok"]]}} = SQLite.query(@app, "SELECT * FROM pragma_integrity_check")

    for w <- @writers, tier <- [:kv, :sql, :file] do
      have = there(tier, round, w)
      true = have == Enum.to_list(1..length(have)//1)
      IO.puts("have #{tier} #{w} #{length(have)}")
    end
  end

  defp there(:kv, round, w) do
    range = [min_key: {round, w, 0}, max_key: {round, w + 1, 0}, max_key_inclusive: false]

    for {{_, _, n}, value} <- MaculaStorage.data_select(@app, range) do
      true = value == content(w, n)
      n
    end
  end

  defp there(:sql, round, w) do
    {:ok, %{rows: rows}} =
      SQLite.query(@app, "SELECT n FROM t WHERE round = ? AND w = ? ORDER BY n", [round, w])

    List.flatten(rows)
  end

  defp there(:file, round, w) do
    {:ok, names} = MaculaStorage.file_list(@app, prefix: "#{round}/#{w}")
    numbers = for name <- names, do: name |> Path.basename() |> String.to_integer()

    for n <- Enum.sort(numbers) do
      {:ok, bytes} = MaculaStorage.file_read(@app, "#{round}/#{w}/#{n}")
      true = bytes == content(w, n)
      n
    end
  end

  @many 1..64

  @doc """
  As `write/1`, 64 writers of one key-value store: single puts, puts of two keys, transactions that
  count beside them.
  """
  def write_together(round) do
    {:ok, _} = Application.ensure_all_started(:macula_storage)
    for w <- @many, do: IO.puts("have kv #{w} #{whole(round - 1, w)}")
    IO.puts("reported")
    for w <- @many, do: spawn_link(fn -> write_mixed(round, w, 1) end)
    forever()
  end

  defp write_mixed(round, w, n) do
    :ok = write_mixed(rem(n, 3), round, w, n)
    IO.puts("ack kv #{w} #{n}")
    write_mixed(round, w, n + 1)
  end

  defp write_mixed(0, round, w, n), do: CubDB.put(@app, {round, w, n}, content(w, n))

  defp write_mixed(1, round, w, n),
    do: CubDB.put_multi(@app, [{{round, w, n}, content(w, n)}, {{round, w, n, :twin}, n}])

  defp write_mixed(2, round, w, n) do
    CubDB.transaction(@app, fn tx ->
      count = Tx.get(tx, {round, w}, 0)
      tx = Tx.put(tx, {round, w, n}, content(w, n))
      tx = Tx.put(tx, {round, w, n, :twin}, n)
      {:commit, Tx.put(tx, {round, w}, count + 1), :ok}
    end)
  end

  # How many of a writer's are there: the first so many, each whole, each batch with all that it wrote.
  defp whole(round, w) do
    have = there(:kv, round, w)
    true = have == Enum.to_list(1..length(have)//1)
    range = [min_key: {round, w, 0, nil}, max_key: {round, w + 1, 0, nil}]
    twins = for {{_, _, n, :twin}, n} <- CubDB.select(@app, range), do: n
    true = twins == Enum.reject(have, &(rem(&1, 3) == 0))
    true = CubDB.get(@app, {round, w}, 0) == Enum.count(have, &(rem(&1, 3) == 2))
    length(have)
  end

  @entries 60

  @doc "Fill the app with one tag everywhere and back it up; prints `backup PATH`."
  def back_up(tag) do
    {:ok, _} = Application.ensure_all_started(:macula_storage)
    :ok = CubDB.clear(@app)
    :ok = SQLite.execute(@app, "DROP TABLE IF EXISTS t; CREATE TABLE t (n, tag)")
    {:ok, old} = MaculaStorage.file_list(@app)
    Enum.each(old, &(:ok = MaculaStorage.file_delete(@app, &1)))

    for n <- 1..@entries do
      :ok = MaculaStorage.data_put(@app, n, tag)
      :ok = SQLite.execute(@app, "INSERT INTO t VALUES (?, ?)", [n, tag])
      :ok = MaculaStorage.file_write(@app, "#{tag}/#{n}", String.duplicate(tag, 20_000))
    end

    {:ok, tarball} = MaculaBackup.backup_app(@app)
    IO.puts("backup #{tarball}")
  end

  @doc "Say which tag the app holds, wholly; then restore the other one again and again."
  def restore(tarballs) do
    {:ok, _} = Application.ensure_all_started(:macula_storage)
    tag = held()
    IO.puts("held #{tag}")
    restore_on(tarballs, tag)
  end

  defp restore_on(tarballs, tag) do
    {other, tarball} = Enum.find(tarballs, fn {other, _} -> other != tag end)
    IO.puts("restoring #{other}")
    :ok = MaculaBackup.restore_app(@app, tarball)
    IO.puts("restored #{other}")
    restore_on(tarballs, other)
  end

  defp held do
    tag = MaculaStorage.data_get(@app, 1)
    kv = for {n, ^tag} <- MaculaStorage.data_select(@app), do: n
    true = kv == Enum.to_list(1..@entries)
    {:ok, %{rows: [[rows]]}} = SQLite.query(@app, "SELECT count(*) FROM t WHERE tag = ?", [tag])
    {:ok, %{rows: [[^rows]]}} = SQLite.query(@app, "SELECT count(*) FROM t")
    true = rows == @entries
    {:ok, names} = MaculaStorage.file_list(@app)
    true = Enum.sort(names) == Enum.sort(for n <- 1..@entries, do: "#{tag}/#{n}")

    for name <- names do
      {:ok, bytes} = MaculaStorage.file_read(@app, name)
      true = bytes == String.duplicate(tag, 20_000)
    end

    tag
  end

  defp forever do
    receive do
      :never -> :ok
    end
  end
end
