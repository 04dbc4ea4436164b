defmodule MaculaStorage.SQLite.Sqlite3BlobTest do
  @moduledoc "Values in pieces."
  use MaculaStorage.Case, async: true

  alias MaculaStorage.{Error, SQLite}
  alias MaculaStorage.SQLite.Sqlite3
  alias MaculaStorage.SQLite.Sqlite3.Blob

  doctest MaculaStorage.SQLite.Sqlite3.Blob

  defp with_table do
    {:ok, conn} = Sqlite3.open(Path.join(unique_dir(), "b.db"))
    :ok = Sqlite3.execute(conn, "CREATE TABLE t(b); INSERT INTO t VALUES (zeroblob(10)), ('two')")
    conn
  end

  test "read, written, reopened, closed" do
    conn = with_table()
    {:ok, blob} = Blob.open(conn, "t", "b", 1, write: true)
    assert {:ok, 10} = Blob.size(blob)
    assert :ok = Blob.write(blob, 2, ["a", ?b])
    assert {:ok, <<0, "ab", 0>>} = Blob.read(blob, 1, 4)
    assert {:ok, ""} = Blob.read(blob, 10, 0)
    assert {:error, "outside of the blob" <> _} = Blob.read(blob, 7, 4)
    assert {:error, "outside of the blob" <> _} = Blob.read(blob, 0, 1_000_000_000_000)
    assert {:error, "outside of the blob" <> _} = Blob.write(blob, 9, "ab")
    assert {:ok, :idle} = Sqlite3.transaction_status(conn)
    assert :ok = Blob.reopen(blob, 2)
    assert {:ok, 3} = Blob.size(blob)
    assert {:ok, "two"} = Blob.read(blob, 0, 3)
    assert {:error, "no such rowid: 9"} = Blob.reopen(blob, 9)
    assert {:error, _} = Blob.read(blob, 0, 1)
    assert :ok = Blob.close(blob)
    assert {:error, :invalid_statement} = Blob.close(blob)
    assert {:error, :invalid_statement} = Blob.read(blob, 0, 1)
    assert {:error, "no such table: main.none"} = Blob.open(conn, "none", "b", 1)
    assert {:error, "no such table: temp.t"} = Blob.open(conn, "t", "b", 1, database: "temp")
    assert {:error, _} = Blob.open(conn, "t", "x\0y", 1)
    {:ok, reader} = Blob.open(conn, "t", "b", 2)
    assert {:error, "attempt to write a readonly database"} = Blob.write(reader, 0, "x")
    :ok = Sqlite3.execute(conn, "DELETE FROM t WHERE rowid = 2")
    assert {:error, "the row was changed" <> _} = Blob.read(reader, 0, 1)
    assert %{reason: :abort} = Sqlite3.last_error(conn)
    :ok = Sqlite3.close(conn)
    assert {:error, :connection_closed} = Blob.read(reader, 0, 1)
    assert {:error, :connection_closed} = Blob.close(reader)
  end

  test "a large value passes in chunks, both ways" do
    conn = with_table()
    bytes = 20_000_000
    :ok = Sqlite3.execute(conn, "UPDATE t SET b = zeroblob(#{bytes}) WHERE rowid = 1")
    stream = Blob.stream!(conn, "t", "b", 1)
    chunk = :crypto.strong_rand_bytes(1_000_000)
    Enum.into(for(_ <- 1..20, do: chunk), stream)
    sizes = Enum.map(stream, &byte_size/1)
    assert Enum.sum(sizes) == bytes and Enum.max(sizes) == 1_048_576
    hash = Enum.reduce(stream, :crypto.hash_init(:sha256), &:crypto.hash_update(&2, &1))
    expected = :crypto.hash(:sha256, :binary.copy(chunk, 20))
    assert :crypto.hash_final(hash) == expected
    # halted, it is closed, so that the table can go
    assert [<<_::binary>>] = Enum.take(stream, 1)
    assert_raise Error, fn -> Enum.into(["abcd"], Blob.stream!(conn, "t", "b", 2)) end
    assert_raise Error, fn -> Enum.to_list(Blob.stream!(conn, "t", "b", 3)) end
    assert :ok = Sqlite3.execute(conn, "DROP TABLE t")
  end

  test "a writer that is forgotten ends by itself" do
    app = unique_app()
    :ok = SQLite.execute(app, "CREATE TABLE t(b)")
    :ok = SQLite.execute(app, "INSERT INTO t VALUES (zeroblob(3))")
    {:ok, conn} = Sqlite3.open(SQLite.db_path(app))

    {pid, ref} =
      spawn_monitor(fn ->
        {:ok, blob} = Blob.open(conn, "t", "b", 1, write: true)
        :ok = Blob.write(blob, 0, "abc")
      end)

    assert_receive {:DOWN, ^ref, _, ^pid, :normal}, 10_000
    # it held the app's turn
    assert :ok = SQLite.execute(app, "INSERT INTO t VALUES (2)")
    assert {:ok, %{rows: [["abc"], [2]]}} = SQLite.query(app, "SELECT b FROM t")
  end
end
