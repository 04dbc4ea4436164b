defmodule MaculaStorage.SQLite.Pool do
  @moduledoc """
  Runs an Ecto Repo of ecto_sqlite3 on this library's copy of SQLite, by one line of its configuration.

      config :my_app, MyApp.Repo,
        database: MaculaStorage.SQLite.db_path(:my_app),
        pool: MaculaStorage.SQLite.Pool,
        pool_size: 5,
        journal_mode: :wal

  The Repo's adapter stays `Ecto.Adapters.SQLite3`, which makes the SQL and reads the answers. It is
  DBConnection's usual pool, of `MaculaStorage.SQLite.Connection` in place of `Exqlite.Connection`. What that
  gives, and the other way (exqlite's copy with the bridge): `docs/guides/ecto.md`.

  Invariant: whatever connection module it is asked for, no other than ours opens the database.

  Needs `:db_connection` and `:exqlite` when it is used, as ecto_sqlite3 does; not to be compiled, so that it
  is there in whatever order Mix builds.
  """

  alias DBConnection.ConnectionPool
  alias MaculaStorage.SQLite.Connection

  @compile {:no_warn_undefined, ConnectionPool}

  @theirs [Exqlite.Connection, Connection]

  @doc """
  What a supervisor starts: DBConnection's pool of our connections. Raises `ArgumentError` when it is asked
  for another database's connections.

  Cost: starts `:macula_storage` where that was not done (a Mix task); the connections open later, by
  themselves.
  """
  @spec child_spec({module, keyword}) :: Supervisor.child_spec()
  def child_spec({module, options}) when module in @theirs do
    # an error is told by the connections, with its words
    _ = Application.ensure_all_started(:macula_storage)
    let_go_of_exqlites()
    ConnectionPool.child_spec({Connection, options})
  end

  def child_spec({module, _options}) do
    raise ArgumentError,
          "#{inspect(__MODULE__)} is a pool for Ecto.Adapters.SQLite3, asked for: #{inspect(module)}"
  end

  # `mix ecto.setup` creates the file with exqlite, in the process that starts the Repo then; exqlite has it
  # open until the statements that it left there are garbage.
  defp let_go_of_exqlites do
    for pid <- [self() | Process.get(:"$ancestors", [])], is_pid(pid) and node(pid) == node() do
      :erlang.garbage_collect(pid)
    end
  end

  @doc "Starts the pool of `child_spec/1`, as DBConnection's."
  @spec start_link({module, keyword}) :: GenServer.on_start()
  def start_link(arg) do
    %{start: {module, function, args}} = child_spec(arg)
    apply(module, function, args)
  end

  @doc "As DBConnection's pool. Cost: memory when a connection is free; else waits in the pool's queue."
  @spec checkout(GenServer.server(), [pid], keyword) ::
          {:ok, term, module, integer | nil, term} | {:error, Exception.t()}
  defdelegate checkout(pool, callers, options), to: ConnectionPool

  @doc """
  As DBConnection's pool. Durability: nothing is written or lost, a transaction under way ends first. Cost:
  one message; each connection opens anew within the interval.
  """
  @spec disconnect_all(GenServer.server(), term, keyword) :: :ok
  defdelegate disconnect_all(pool, interval, options), to: ConnectionPool

  @doc "As DBConnection's pool. Cost: one message."
  @spec get_connection_metrics(GenServer.server()) :: [map]
  defdelegate get_connection_metrics(pool), to: ConnectionPool
end
