defmodule MaculaStorage.SQLite.IntegrityTest do
  @moduledoc """
  `integrity_check` tells of damage only where there is some.

  Found by the test of full disks: a read that is answered on the caller's thread fails where memory has
  not what it needs, and is then answered elsewhere. But SQLite's check takes a page that it cannot read
  for a damaged one, says so in a row and goes on: `SELECT * FROM pragma_integrity_check` of a sound file
  of over 64 KiB told of hundreds of damaged pages from the third time on, at once on a low-level
  connection.
  """
  use MaculaStorage.Case, async: true

  alias MaculaStorage.SQLite
  alias MaculaStorage.SQLite.Sqlite3

  @checks for sql <- ["integrity_check", "quick_check"],
              form <- ["PRAGMA #{sql}", "SELECT * FROM pragma_#{sql}"],
              do: form

  setup do
    app = unique_app()
    :ok = SQLite.execute(app, "CREATE TABLE t (n INTEGER PRIMARY KEY, v)")
    rows = for n <- 1..400, do: [n]
    {:ok, 400} = SQLite.execute_many(app, "INSERT INTO t VALUES (?, zeroblob(3000))", rows)
    {:ok, app: app}
  end

  for sql <- @checks do
    test "#{sql}, again and again", %{app: app} do
      for n <- 1..6 do
        assert {:ok, %{rows: [["ok"]]}} = SQLite.query(app, unquote(sql)), "the time #{n}"
      end
    end

    test "#{sql} on a low-level connection", %{app: app} do
      {:ok, conn} = Sqlite3.open(SQLite.db_path(app))
      {:ok, stmt} = Sqlite3.prepare(conn, unquote(sql))

      for _ <- 1..3 do
        assert {:row, ["ok"]} = Sqlite3.step(conn, stmt)
        assert :done = Sqlite3.step(conn, stmt)
      end

      :ok = Sqlite3.close(conn)
    end
  end
end
