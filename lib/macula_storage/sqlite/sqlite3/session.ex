defmodule MaculaStorage.SQLite.Sqlite3.Session do
  @moduledoc """
  What a connection changes, as bytes that can be kept, undone and applied to another database: SQLite's
  session extension.

      iex> alias MaculaStorage.SQLite.Sqlite3
      iex> [{:ok, one}, {:ok, two}] = for _ <- 1..2, do: Sqlite3.open(":memory:")
      iex> for conn <- [one, two], do: Sqlite3.execute(conn, "CREATE TABLE t (id INTEGER PRIMARY KEY, x)")
      iex> {:ok, session} = Sqlite3.Session.create(one)
      iex> :ok = Sqlite3.Session.attach(session, :all)
      iex> :ok = Sqlite3.execute(one, "INSERT INTO t VALUES (1, 'a'), (2, 'b')")
      iex> {:ok, changes} = Sqlite3.Session.changeset(session)
      iex> Sqlite3.Session.info(changes)
      {:ok, [{"t", :insert, nil, [1, "a"]}, {"t", :insert, nil, [2, "b"]}]}
      iex> :ok = Sqlite3.Session.apply(two, changes)
      iex> {:ok, undo} = Sqlite3.Session.invert(changes)
      iex> Sqlite3.Session.apply(two, undo)
      :ok

  Only tables with a primary key are recorded, and no row whose key has a `NULL`. Changes to one row are one
  change. What a session recorded is in memory: delete it when it is of no use any more.

  A connection has sessions or listeners to `:preupdate` (`MaculaStorage.SQLite.Sqlite3.listen/3`), not both:
  SQLite has one hook for them, and whoever comes second gets an error.

  Errors: `{:error, message}` with SQLite's words, `{:error, :connection_closed}`, `{:error, :invalid_statement}`
  of a deleted session.
  """
  alias MaculaStorage.{Native, Options}
  alias MaculaStorage.SQLite.Sqlite3

  @type t :: reference
  @type changeset :: binary
  @type image :: [term | :unchanged] | nil
  @type change :: {table :: String.t(), :insert | :update | :delete, old :: image, new :: image}
  @type resolve :: :omit | :replace | :abort

  @kinds [:data, :not_found, :conflict, :constraint, :foreign_key]

  @doc """
  Begins to record what a connection changes in the tables that are attached.

  Options: `:database` (default `"main"`).

  Cost: from now on each change of an attached table costs a look at the row and its memory.
  """
  @spec create(Sqlite3.db(), keyword) :: {:ok, t} | {:error, Sqlite3.reason()}
  def create(conn, opts \\ []) do
    opts = Options.validate!(opts, database: {"main", :any})
    Sqlite3.own_thread(&Native.sqlite3_session_create(conn, &1, opts.database))
  end

  @doc """
  Records a table, or `:all` of them, also those that are yet to come.

  Durability: none, it is memory. Cost: a thread of ours.
  """
  @spec attach(t, String.t() | :all) :: :ok | {:error, Sqlite3.reason()}
  def attach(session, :all),
    do: Sqlite3.own_thread(&Native.sqlite3_session_attach(session, &1, nil))

  def attach(session, table) when is_binary(table),
    do: Sqlite3.own_thread(&Native.sqlite3_session_attach(session, &1, table))

  @doc "What was changed since the session was created, with the values before and after. Cost: reads those rows."
  @spec changeset(t) :: {:ok, changeset} | {:error, Sqlite3.reason()}
  def changeset(session),
    do: Sqlite3.own_thread(&Native.sqlite3_session_changes(session, &1, false))

  @doc """
  As `changeset/1` without the values before, but of primary keys: smaller, it cannot be inverted, and it
  notices fewer conflicts.
  """
  @spec patchset(t) :: {:ok, changeset} | {:error, Sqlite3.reason()}
  def patchset(session),
    do: Sqlite3.own_thread(&Native.sqlite3_session_changes(session, &1, true))

  @doc """
  Ends a session; one that nobody refers to any more ends by itself.

  Durability: none, it is memory. Cost: a thread of ours.
  """
  @spec delete(t) :: :ok | {:error, Sqlite3.reason()}
  def delete(session), do: Sqlite3.own_thread(&Native.sqlite3_session_delete(session, &1))

  @doc "The changeset that undoes one. Cost: reads it, on a dirty scheduler."
  @spec invert(changeset) :: {:ok, changeset} | {:error, Sqlite3.reason()}
  def invert(changeset) when is_binary(changeset),
    do: Sqlite3.plain(Native.sqlite3_changeset_invert(changeset))

  @doc "One that does what two do, one after the other: two changesets, or two patchsets. Cost: as `invert/1`."
  @spec concat(changeset, changeset) :: {:ok, changeset} | {:error, Sqlite3.reason()}
  def concat(first, then) when is_binary(first) and is_binary(then),
    do: Sqlite3.plain(Native.sqlite3_changeset_concat(first, then))

  @doc """
  What is in a changeset or patchset: `{table, op, old, new}` of each row, `nil` for an image that is not,
  `:unchanged` for a value that it does not hold. Cost: as `invert/1`.
  """
  @spec info(changeset) :: {:ok, [change]} | {:error, Sqlite3.reason()}
  def info(changeset) when is_binary(changeset),
    do: Sqlite3.plain(Native.sqlite3_changeset_info(changeset))

  @doc """
  Applies a changeset or patchset, all of it or nothing.

  Options: `:on_conflict`, what to do with a change that does not fit: `:abort` (the default), `:omit`, `:replace`,
  or a map from kinds of conflict to these:

  | kind | the change does not fit because | `:replace` |
  |---|---|---|
  | `:data` | the row has other values than it had before the change | makes it all the same |
  | `:not_found` | the row is not there | not allowed |
  | `:conflict` | a row with that primary key is there | replaces that row |
  | `:constraint` | another constraint refuses it | not allowed |
  | `:foreign_key` | in the end foreign keys are broken (`:omit` commits it so) | not allowed |

  `:replace` by itself replaces where it is allowed, omits what is not found, and aborts otherwise. A kind that
  a map does not have aborts.

  Durability: as a statement's changes: committed, unless a transaction is open. Cost: finds each row.
  """
  @spec apply(Sqlite3.db(), changeset, keyword) :: :ok | {:error, Sqlite3.reason()}
  def apply(conn, changeset, opts \\ []) when is_binary(changeset) do
    opts = Options.validate!(opts, on_conflict: {:abort, :any})
    policy = policy!(opts.on_conflict)
    Sqlite3.own_thread(&Native.sqlite3_changeset_apply(conn, &1, changeset, policy))
  end

  defp policy!(:replace),
    do: policy!(%{data: :replace, conflict: :replace, not_found: :omit})

  defp policy!(resolve) when resolve in [:omit, :abort],
    do: policy!(Map.new(@kinds, &{&1, resolve}))

  defp policy!(%{} = policy) do
    for {kind, resolve} <- policy, not resolves?(kind, resolve) do
      raise ArgumentError,
            "expected kinds of conflict out of #{inspect(@kinds)} with :omit, :abort or, for :data and :conflict, " <>
              ":replace, got: #{inspect({kind, resolve})}"
    end

    @kinds |> Enum.map(&Map.get(policy, &1, :abort)) |> List.to_tuple()
  end

  defp policy!(other) do
    raise ArgumentError,
          "expected :on_conflict to be :omit, :replace, :abort or a map, got: #{inspect(other)}"
  end

  defp resolves?(kind, :replace), do: kind in [:data, :conflict]
  defp resolves?(kind, resolve), do: kind in @kinds and resolve in [:omit, :abort]
end
