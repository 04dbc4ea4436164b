defmodule MaculaStorage.Mnesia.Local do
  @moduledoc false
  # The steps of `MaculaStorage.Mnesia.Cluster` that a node does for itself; the cluster calls them over
  # Erlang distribution.
  #
  # Invariant: a mnesia that lies elsewhere than in our directory is never started, stopped or moved.

  alias MaculaStorage.{Config, Error}
  alias MaculaStorage.Mnesia.{Copy, Table, Watch}

  @type state :: %{running: boolean, schema: boolean, nodes: [node]}

  @doc "What this node has, and mnesia pointed to our directory if it does not run."
  @spec prepare() :: {:ok, state} | {:error, Error.t()}
  def prepare do
    with :ok <- application_runs(), :ok <- load(), :ok <- ours(running()), do: look()
  end

  @doc "Whether the application runs on this node."
  @spec there?() :: boolean
  def there?, do: Process.whereis(Watch) != nil

  defp application_runs do
    if there?(),
      do: :ok,
      else: error(:closed, "the application macula_storage does not run on this node")
  end

  defp load do
    case Application.load(:mnesia) do
      :ok -> :ok
      {:error, {:already_loaded, :mnesia}} -> :ok
      {:error, reason} -> error(:invalid, "mnesia is not installed reason=#{inspect(reason)}")
    end
  end

  defp ours(:no) do
    dir = Config.mnesia_dir()

    case Config.mnesia_dir_elsewhere() do
      nil -> point_to(dir)
      other -> elsewhere("mnesia is configured for another directory", other, dir)
    end
  end

  defp ours(:yes) do
    {there, dir} = {directory(), Config.mnesia_dir()}
    if there == dir, do: :ok, else: elsewhere("mnesia runs in another directory", there, dir)
  end

  defp ours(changing), do: error(:busy, "mnesia starts or stops just now state=#{changing}")

  defp elsewhere(what, there, dir) do
    error(
      :conflict,
      "#{what}, and is left alone directory=#{there} ours=#{dir}",
      "let only MaculaStorage.Mnesia.setup/1 start mnesia, or move that data by a backup of mnesia's own"
    )
  end

  defp point_to(dir) do
    case File.mkdir_p(dir) do
      :ok ->
        File.chmod(dir, 0o700)
        :application.set_env(:mnesia, :dir, to_charlist(dir))

      {:error, reason} ->
        error(:permission, "cannot make the directory path=#{dir} reason=#{reason}")
    end
  end

  defp look do
    schema = File.exists?(Path.join(Config.mnesia_dir(), "schema.DAT"))
    nodes = if schema, do: :mnesia.system_info(:db_nodes), else: []

    if schema and node() not in nodes,
      do: renamed(nodes),
      else: {:ok, %{running: running() == :yes, schema: schema, nodes: Enum.sort(nodes)}}
  catch
    :exit, reason -> error(:corrupt, "mnesia's schema cannot be read reason=#{inspect(reason)}")
  end

  # mnesia would start with nothing, and take it for its own
  defp renamed(nodes) do
    error(
      :conflict,
      "the data is of other nodes, this one is not among them nodes=#{inspect(nodes)}",
      "start the node under its old name, or set its state/mnesia directory aside"
    )
  end

  @doc false
  @spec running() :: :yes | :no | :starting | :stopping
  # without mnesia's own answer, which loads it
  def running,
    do: if(Process.whereis(:mnesia_sup), do: :mnesia.system_info(:is_running), else: :no)

  @doc false
  @spec directory() :: String.t()
  def directory, do: :directory |> :mnesia.system_info() |> to_string() |> Path.expand()

  @doc "Starts mnesia, as it lies in our directory, and listens."
  @spec start() :: :ok | {:error, Error.t()}
  def start do
    case :mnesia.start() do
      :ok -> Watch.watch()
      {:error, reason} -> error(:io, "mnesia does not start reason=#{inspect(reason)}")
    end
  end

  @doc "Waits until the tables of this node are there."
  @spec ready(timeout) :: :ok | {:error, Error.t() | {:aborted, term}}
  def ready(timeout_ms) do
    tables = :mnesia.system_info(:local_tables)

    case :mnesia.wait_for_tables(tables, timeout_ms) do
      :ok -> end_yielding()
      {:timeout, missing} -> not_loaded(missing, timeout_ms)
      {:error, reason} -> {:error, {:aborted, reason}}
    end
  catch
    :exit, {:aborted, reason} -> {:error, {:aborted, reason}}
  end

  # The masters were for this one load: later ones go by who was last, as ever.
  defp end_yielding do
    path = Config.mnesia_yielding_file()

    with true <- File.exists?(path),
         :ok <- :mnesia.set_master_nodes([]),
         :ok <- sync(),
         :ok <- File.rm(path) do
      :ok
    else
      false -> :ok
      {:error, %Error{}} = error -> error
      {:error, reason} -> error(:io, "mnesia keeps its masters reason=#{inspect(reason)}")
    end
  end

  defp not_loaded(missing, timeout_ms) do
    running = :mnesia.system_info(:running_db_nodes)

    away = for table <- missing, node <- copies(table), node not in running, uniq: true, do: node

    error(
      :timeout,
      "tables were not loaded tables=#{inspect(missing)} timeout_ms=#{timeout_ms} " <>
        "nodes_away=#{inspect(away)}",
      "another node may have newer data: start it and set up again; if it is lost for good, " <>
        "`:mnesia.force_load_table/1` goes on with what is here"
    )
  end

  @doc "All nodes with a copy of a table."
  @spec copies(atom) :: [node]
  def copies(table) do
    for storage <- Table.storages(),
        node <- :mnesia.table_info(table, storage),
        do: node
  end

  @doc "Nodes of the schema that run mnesia and are connected, and yet not in step with this one."
  @spec split_from() :: [node]
  def split_from do
    if running() == :yes do
      away = :mnesia.system_info(:db_nodes) -- :mnesia.system_info(:running_db_nodes)
      for node <- away, node in Node.list(), runs?(node), do: node
    else
      []
    end
  end

  defp runs?(node) do
    :erpc.call(node, :mnesia, :system_info, [:is_running], 5_000) == :yes
  catch
    _, _ -> false
  end

  @doc "Everything of mnesia's directory is on the disk, the names too."
  @spec sync() :: :ok | {:error, :disk_full | Error.t()}
  def sync, do: Copy.sync_tree(Config.mnesia_dir())

  @doc false
  @spec stop() :: :ok
  def stop do
    :stopped = :mnesia.stop()
    :ok
  end

  @doc false
  @spec error(atom, String.t(), String.t() | nil) :: {:error, Error.t()}
  def error(kind, message, hint \\ nil) do
    message = if node() == :nonode@nohost, do: message, else: "#{message} node=#{node()}"
    {:error, %Error{kind: kind, op: :mnesia, app: nil, message: message, hint: hint}}
  end
end
