defmodule MaculaStorage.SQLite.Sqlite3.Functions do
  @moduledoc """
  SQL functions that a connection can have besides SQLite's own. All give `NULL` for `NULL`, are
  deterministic, so that indexes and generated columns may use them, and need no trust in the schema; a file
  with such an index can be written to only by connections that have them.

  | function | gives |
  |---|---|
  | `blake3(x)` | the BLAKE3 hash of text or a blob, 32 bytes |
  | `crc32(x)` | the CRC-32 of text or a blob, as gzip's |
  | `base64(x)` | text or a blob in base64, with padding |
  | `unbase64(text)` | the bytes of base64, `NULL` of what is none |
  | `levenshtein(a, b)` | how many characters have to be changed, put in or taken out to make `b` of `a`; at most 4,096 |
  """
  alias MaculaStorage.Native
  alias MaculaStorage.SQLite.Sqlite3

  @type name :: :blake3 | :crc32 | :base64 | :unbase64 | :levenshtein
  @names [:blake3, :crc32, :base64, :unbase64, :levenshtein]

  @doc """
  Adds functions to a connection, by their names or `:all`.

      iex> alias MaculaStorage.SQLite.Sqlite3
      iex> {:ok, conn} = Sqlite3.open(":memory:")
      iex> :ok = Sqlite3.add_functions(conn, [:levenshtein, :base64])
      iex> {:ok, stmt} = Sqlite3.prepare(conn, "SELECT levenshtein('kitten', 'sitting'), base64('hi')")
      iex> Sqlite3.step(conn, stmt)
      {:row, [3, "aGk="]}

  Durability: none, they are the connection's. Cost: from now on all its calls run on a thread of ours, also
  those that memory could answer: SQLite does not count what a function does.
  """
  @spec add(Sqlite3.db(), [name] | :all) :: :ok | {:error, Sqlite3.reason()}
  def add(conn, :all), do: Sqlite3.own_thread(&Native.sqlite3_add_functions(conn, &1, nil))

  def add(conn, names) when is_list(names) do
    for name <- names, name not in @names do
      raise ArgumentError, "expected functions out of #{inspect(@names)}, got: #{inspect(name)}"
    end

    names = Enum.map(names, &Atom.to_string/1)
    Sqlite3.own_thread(&Native.sqlite3_add_functions(conn, &1, names))
  end
end
