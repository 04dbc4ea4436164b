defmodule MaculaStorage.SQLiteChild do
  @moduledoc """
  What the children of the SQLite kill test do: 64 writers of one app's database, by every way there is to
  write, who say what was acknowledged until they are killed; and in the next life, what is there.

  Invariant: a line `ack WRITER N` is printed after the commit was acknowledged and never before; each
  transaction writes one row into each of two tables, so that a half of it is seen.
  """
  alias MaculaStorage.SQLite
  alias MaculaStorage.SQLite.Sqlite3

  @app "crash"
  @writers 1..64
  @readers 2
  @tables ["a", "b", "sums"]

  # by `both` a single statement writes both rows
  @schema """
  CREATE TABLE IF NOT EXISTS a (round, w, n, v, PRIMARY KEY (round, w, n));
  CREATE TABLE IF NOT EXISTS b (round, w, n, v, PRIMARY KEY (round, w, n)) WITHOUT ROWID;
  CREATE TABLE IF NOT EXISTS sums (round, w, n, PRIMARY KEY (round, w));
  CREATE VIEW IF NOT EXISTS both AS SELECT a.* FROM a JOIN b USING (round, w, n);
  CREATE TRIGGER IF NOT EXISTS into_both INSTEAD OF INSERT ON both BEGIN
    INSERT INTO a VALUES (new.round, new.w, new.n, new.v);
    INSERT INTO b VALUES (new.round, new.w, new.n, new.v);
  END;
  """

  @doc "Report what round `last` left, then write as round `round` until killed."
  def write(round, last) do
    {:ok, _} = Application.ensure_all_started(:macula_storage)
    :ok = SQLite.execute(@app, @schema)
    report(last)
    IO.puts("reported")
    {:ok, _} = SQLite.batch(@app, for(t <- @tables, do: "DELETE FROM #{t} WHERE round < #{last}"))
    for _ <- 1..@readers, do: spawn_link(fn -> look() end)
    for w <- @writers, do: spawn_link(fn -> write_on(round, w, connection(), 1) end)
    receive do: (:never -> :ok)
  end

  defp connection do
    {:ok, conn} = Sqlite3.open(SQLite.db_path(@app))
    {:ok, insert_a} = Sqlite3.prepare(conn, "INSERT INTO a VALUES (?, ?, ?, ?)")
    {:ok, insert_b} = Sqlite3.prepare(conn, "INSERT INTO b VALUES (?, ?, ?, ?)")
    {conn, insert_a, insert_b}
  end

  defp write_on(round, w, low, n) do
    write_by(rem(w + n, 5), [round, w, n, content(w, n)], low)
    IO.puts("ack #{w} #{n}")
    write_on(round, w, low, n + 1)
  end

  defp write_by(0, row, _low),
    do: :ok = SQLite.execute(@app, "INSERT INTO both VALUES (?, ?, ?, ?)", row)

  defp write_by(1, row, _low) do
    {:ok, [_, _]} =
      SQLite.batch(@app, for(t <- ["a", "b"], do: {"INSERT INTO #{t} VALUES (?, ?, ?, ?)", row}))
  end

  # reads what it writes anew
  defp write_by(2, [round, w | _] = row, _low) do
    {:ok, :done} =
      SQLite.transaction(@app, fn tx ->
        sum = "SELECT coalesce(max(n), 0) FROM sums WHERE round = ? AND w = ?"
        {:ok, %{rows: [[sum]]}} = SQLite.query(tx, sum, [round, w])
        :ok = SQLite.execute(tx, "INSERT INTO a VALUES (?, ?, ?, ?)", row)

        :ok =
          SQLite.execute(tx, "INSERT OR REPLACE INTO sums VALUES (?, ?, ?)", [round, w, sum + 1])

        :ok = SQLite.execute(tx, "INSERT INTO b VALUES (?, ?, ?, ?)", row)
        :done
      end)
  end

  # what a view's trigger changes is no change of the statement's
  defp write_by(3, row, _low),
    do: {:ok, 0} = SQLite.execute_many(@app, "INSERT INTO both VALUES (?, ?, ?, ?)", [row])

  defp write_by(4, row, {conn, insert_a, insert_b}) do
    :ok = Sqlite3.execute(conn, "BEGIN IMMEDIATE")

    for insert <- [insert_a, insert_b] do
      :ok = Sqlite3.bind(insert, row)
      :done = Sqlite3.step(conn, insert)
    end

    :ok = Sqlite3.execute(conn, "COMMIT")
  end

  defp content(w, n), do: String.duplicate("#{w}-#{n};", 5 + rem(n * 37, 60))

  # Nobody ever sees a half, on a connection of the app or on a low-level one.
  defp look do
    {conn, _, _} = connection()
    sql = "SELECT (SELECT count(*) FROM a), (SELECT count(*) FROM b)"
    {:ok, stmt} = Sqlite3.prepare(conn, sql)
    look_on(sql, conn, stmt)
  end

  defp look_on(sql, conn, stmt) do
    {:ok, %{rows: [[same, same]]}} = SQLite.query(@app, sql)
    {:row, [same, same]} = Sqlite3.step(conn, stmt)
    :done = Sqlite3.step(conn, stmt)
    # it is the writers' machine
    receive do: (:never -> :ok), after: (20 -> look_on(sql, conn, stmt))
  end

  # `have WRITER N`: exactly 1..N are there, each whole; anything else ends the child.
  defp report(round) do
    {:ok, %{rows: [["ok"]]}} = SQLite.query(@app, "PRAGMA integrity_check", [], timeout: 60_000)

    for w <- @writers do
      rows = there("a", round, w)
      ^rows = there("b", round, w)
      have = length(rows)
      true = rows == for(n <- 1..have//1, do: [n, content(w, n)])
      counted = Enum.count(1..have//1, &(rem(w + &1, 5) == 2))

      {:ok, %{rows: [[^counted]]}} =
        SQLite.query(@app, "SELECT coalesce(sum(n), 0) FROM sums WHERE round = ? AND w = ?", [
          round,
          w
        ])

      IO.puts("have #{w} #{have}")
    end
  end

  defp there(table, round, w) do
    sql = "SELECT n, v FROM #{table} WHERE round = ? AND w = ? ORDER BY n"
    {:ok, %{rows: rows}} = SQLite.query(@app, sql, [round, w])
    rows
  end
end
