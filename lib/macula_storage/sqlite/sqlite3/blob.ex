defmodule MaculaStorage.SQLite.Sqlite3.Blob do
  @moduledoc """
  A value of one row, read and written in pieces: a gigabyte passes in constant memory.

      iex> alias MaculaStorage.SQLite.Sqlite3
      iex> {:ok, conn} = Sqlite3.open(":memory:")
      iex> :ok = Sqlite3.execute(conn, "CREATE TABLE f (data); INSERT INTO f VALUES (zeroblob(11))")
      iex> Enum.into(["hello", " ", "world"], Sqlite3.Blob.stream!(conn, "f", "data", 1))
      iex> {:ok, blob} = Sqlite3.Blob.open(conn, "f", "data", 1)
      iex> Sqlite3.Blob.read(blob, 6, 5)
      {:ok, "world"}
      iex> Sqlite3.Blob.close(blob)
      :ok

  A blob keeps its length: make room with `zeroblob(n)`, in an insert or update, and fill it. The table has
  row ids; the column is in no index and no foreign key if it is opened for writing.

  An open blob is an open transaction, a read or, with `write: true`, a write: others' writes wait, on an app's
  file for the app's turn, which is taken back after five seconds without a call (what was written until then
  is committed, and the next call is told). One that nobody refers to any more closes by itself.

  Errors: `{:error, message}` with SQLite's words, `{:error, :connection_closed}`, `{:error, :invalid_statement}`
  of a closed blob. `MaculaStorage.SQLite.Sqlite3.last_error/1` has the details of its connection.
  """
  alias MaculaStorage.{Native, Options}
  alias MaculaStorage.SQLite.Sqlite3
  alias MaculaStorage.SQLite.Sqlite3.Blob

  @type t :: reference

  @chunk_bytes 1_048_576

  @doc """
  Opens the value of a row.

  Options: `:write` (default `false`), `:database` (default `"main"`; `"temp"` or an attached one's name).

  Cost: a thread of ours finds the row.
  """
  @spec open(Sqlite3.db(), String.t(), String.t(), integer, keyword) ::
          {:ok, t} | {:error, Sqlite3.reason()}
  def open(conn, table, column, rowid, opts \\ []) when is_integer(rowid) do
    opts = Options.validate!(opts, write: {false, :boolean}, database: {"main", :any})
    place = {opts.database, table, column}
    Sqlite3.own_thread(&Native.sqlite3_blob_open(conn, &1, place, rowid, opts.write))
  end

  @doc "Bytes of a blob. Cost: memory."
  @spec size(t) :: {:ok, non_neg_integer} | {:error, Sqlite3.reason()}
  def size(blob), do: Sqlite3.plain(Native.sqlite3_blob_size(blob))

  @doc "`len` bytes from `offset` on, both within the blob."
  @spec read(t, non_neg_integer, non_neg_integer) :: {:ok, binary} | {:error, Sqlite3.reason()}
  def read(blob, offset, len) when offset >= 0 and len >= 0,
    do: Sqlite3.own_thread(&Native.sqlite3_blob_read(blob, &1, offset, len))

  @doc """
  Puts bytes in the place of those from `offset` on, within the blob.

  Durability: with the transaction's commit; outside of one, that is `close/1`. Cost: the pages it touches.
  """
  @spec write(t, non_neg_integer, iodata) :: :ok | {:error, Sqlite3.reason()}
  def write(blob, offset, bytes) when offset >= 0 do
    bytes = IO.iodata_to_binary(bytes)
    Sqlite3.own_thread(&Native.sqlite3_blob_write(blob, &1, offset, bytes))
  end

  @doc """
  Goes to the same column of another row, which is cheaper than to open that. After an error the blob can
  only be closed.

  Durability: none of its own. Cost: finds the row.
  """
  @spec reopen(t, integer) :: :ok | {:error, Sqlite3.reason()}
  def reopen(blob, rowid) when is_integer(rowid),
    do: Sqlite3.own_thread(&Native.sqlite3_blob_reopen(blob, &1, rowid))

  @doc """
  Closes a blob.

  Durability: outside of a transaction, what was written is committed, as a statement's changes are. Cost: of
  one that was written to, a commit.
  """
  @spec close(t) :: :ok | {:error, Sqlite3.reason()}
  def close(blob), do: Sqlite3.own_thread(&Native.sqlite3_blob_close(blob, &1))

  @enforce_keys [:conn, :table, :column, :rowid, :database, :chunk_bytes]
  defstruct @enforce_keys

  @doc """
  A value as a stream: enumerated, it gives its bytes in chunks; collected into, it takes bytes from its
  beginning on, at most as many as it has.

  Options: `:chunk_bytes` (default 1 MiB), `:database` (default `"main"`). It raises what the other functions
  return. A write that raises in the middle leaves what came before it, unless it is in a transaction that is
  rolled back.

      iex> alias MaculaStorage.SQLite.Sqlite3
      iex> {:ok, conn} = Sqlite3.open(":memory:")
      iex> :ok = Sqlite3.execute(conn, "CREATE TABLE f (data); INSERT INTO f VALUES ('abcdefg')")
      iex> conn |> Sqlite3.Blob.stream!("f", "data", 1, chunk_bytes: 3) |> Enum.to_list()
      ["abc", "def", "g"]
  """
  @spec stream!(Sqlite3.db(), String.t(), String.t(), integer, keyword) :: Enumerable.t()
  def stream!(conn, table, column, rowid, opts \\ []) when is_integer(rowid) do
    opts =
      Options.validate!(opts, chunk_bytes: {@chunk_bytes, :positive}, database: {"main", :any})

    struct!(
      Blob,
      Map.merge(opts, %{conn: conn, table: table, column: column, rowid: rowid})
    )
  end

  @doc false
  @spec open!(struct, boolean) :: t
  def open!(%Blob{} = blob, write) do
    opts = [write: write, database: blob.database]
    ok!(open(blob.conn, blob.table, blob.column, blob.rowid, opts))
  end

  @doc false
  @spec ok!(:ok | {:ok, found} | {:error, Sqlite3.reason()}) :: :ok | found when found: any
  def ok!(:ok), do: :ok
  def ok!({:ok, found}), do: found

  def ok!({:error, reason}) when is_atom(reason),
    do: MaculaStorage.Error.raise!(reason, :blob, nil)

  def ok!({:error, message}),
    do: raise(%MaculaStorage.Error{kind: :sql, op: :blob, app: nil, message: message, hint: nil})

  defimpl Enumerable do
    def count(_blob), do: {:error, __MODULE__}
    def member?(_blob, _element), do: {:error, __MODULE__}
    def slice(_blob), do: {:error, __MODULE__}

    def reduce(blob, acc, fun) do
      open = fn ->
        handle = Blob.open!(blob, false)
        {handle, 0, Blob.ok!(Blob.size(handle))}
      end

      next = fn
        {_handle, size, size} = state ->
          {:halt, state}

        {handle, offset, size} ->
          len = min(blob.chunk_bytes, size - offset)
          {[Blob.ok!(Blob.read(handle, offset, len))], {handle, offset + len, size}}
      end

      close = fn {handle, _offset, _size} -> Blob.close(handle) end
      Stream.resource(open, next, close).(acc, fun)
    end
  end

  defimpl Collectable do
    def into(blob) do
      collect = fn
        {handle, offset}, {:cont, bytes} ->
          Blob.ok!(Blob.write(handle, offset, bytes))
          {handle, offset + IO.iodata_length(bytes)}

        {handle, _offset}, :done ->
          Blob.ok!(Blob.close(handle))
          blob

        {handle, _offset}, :halt ->
          Blob.close(handle)
      end

      {{Blob.open!(blob, true), 0}, collect}
    end
  end
end
