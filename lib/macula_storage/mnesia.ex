defmodule MaculaStorage.Mnesia do
  @moduledoc """
  OTP's own mnesia as a store of small, shared state: in memory on each node, on the disk of each node.

      iex> alias MaculaStorage.Mnesia
      iex> Mnesia.setup([node()])
      :ok
      iex> Mnesia.create_app_table(:mnesia_doc)
      :ok
      iex> Mnesia.put(:mnesia_doc, {:session, 1}, %{user: "Ada"})
      :ok
      iex> Mnesia.get(:mnesia_doc, {:session, 1})
      {:ok, %{user: "Ada"}}
      iex> Mnesia.get(:mnesia_doc, {:session, 2})
      {:error, :not_found}

  An app has one table, `<app>_data` for mnesia, whose records are `{table, key, value, updated_at}`: mnesia's
  own functions, `:observer` and `:mnesia.transaction/1` work on it as on any other. Mnesia lies in
  `<base>/state/mnesia` and is started by `setup/1`, which an application calls each time it starts; a
  release has it along, and it stays off where nobody calls.

  **Durability.** Mnesia's transactions are atomic on all nodes, and are on no disk when they return: neither
  `transaction` nor `sync_transaction` syncs. `put/4` and `delete/3` therefore wait until the log of each
  running node with a copy on disk is synced; writers that come together share that sync. `durability: :async`
  is mnesia's transaction and nothing more: killed within about two seconds the last writes may be missing.

  **Two halves.** When the nodes lose sight of each other, mnesia goes on writing on both sides and merges
  nothing: afterwards the halves hold different data and do not talk. That is logged, told to those who
  `subscribe/0`, and seen in `status/0`; `resolve/2` is the way out. A table with `majority: true` does not let
  it come to that: the smaller side (with two nodes, each alone) refuses to write. What must not part at all
  belongs into a store with a quorum.

  Errors: `{:error, :not_found}`, `{:error, {:aborted, reason}}` with mnesia's reason (`{:no_exists, table}`,
  `{:node_not_running, node}`, `{:no_majority, table}`), `{:error, :unknown_result}` (committed, and a disk
  did not say that it has it), `{:error, :poisoned}` (a sync failed earlier: nothing was written, nor is until
  mnesia is started anew), `{:error, :closed}` (the application does not run),
  `{:error, :exists}`, or a `MaculaStorage.Error`.
  """

  alias MaculaStorage.{Error, Options}
  alias MaculaStorage.Mnesia.{Backup, BackupFile, Cluster, Local, Syncer, Table, Watch}

  @type app :: atom | String.t()
  @type failure :: {:error, atom | {:aborted, term} | Error.t()}

  @doc """
  Makes the nodes one mnesia, starts it on those that can be reached, and waits for this node's tables.

  To be called when the application starts, on one of the nodes or on each, at the same time too; `nodes` has
  this one. Where there is no schema one is made, on all of them; a node that is new among nodes with data
  joins them, as does a member that lost its disk. Data of different clusters is refused, and nothing
  changed. A mnesia that runs, or is configured, in another directory is an error and stays as it is.
  A member that is away is no error: it comes by itself, when it calls.

  Options: `:timeout` (default 60,000 ms), for nodes that are not there yet, where they are needed, and for the
  tables, which may have to wait for the node that was the last to go down: a `MaculaStorage.Error` of kind
  `:timeout` names it.

  Durability: `:ok` means that the schema is synced on all of them. Cost: starts mnesia; loads the tables into
  memory. Other errors are of kind `:unreachable`, `:conflict`, `:corrupt`, `:permission`.
  """
  @spec setup([node], keyword) :: :ok | failure
  def setup(nodes, options \\ []) do
    Table.nodes!(nodes, "the nodes")
    %{timeout: timeout} = Options.validate!(options, timeout: {60_000, :positive})

    unless node() in nodes,
      do: raise(ArgumentError, "expected this node among the nodes, got: #{inspect(nodes)}")

    with :ok <- there(), do: Cluster.setup(nodes, timeout)
  end

  defp there, do: if(Local.there?(), do: :ok, else: {:error, :closed})

  @doc """
  Creates an app's table; one that is there already gets the copies that are missing.

  Options: `:replicas` (default: all nodes that were set up), `:storage` (`:disc_copies`, the default: in memory and
  on disk; `:disc_only_copies`; `:ram_copies`), `:type` (`:set` or `:ordered_set`), `:majority` (default `false`; `true`:
  only who sees more than half of the replicas may write), `:attributes` (default `[:key, :value, :updated_at]`:
  `put/4` fills the first two and `:updated_at`, others with `nil`), `:timeout` (default 30,000 ms).
  Each table makes one atom, of the app's name.

  Durability: `:ok` means that the table's definition is synced on the replicas that run. Cost: a schema
  transaction on all nodes. An existing table with other attributes, type or majority is an error of kind
  `:conflict`.

      iex> MaculaStorage.Mnesia.setup([node()])
      iex> MaculaStorage.Mnesia.create_app_table("mnesia_sorted", type: :ordered_set)
      :ok
  """
  @spec create_app_table(app, keyword) :: :ok | failure
  def create_app_table(app, options \\ []) do
    options = Table.options!(options)
    name = Options.app!(app)

    case Local.running() do
      :yes -> create(name, Table.create!(app), options)
      _no -> {:error, {:aborted, {:node_not_running, node()}}}
    end
  end

  defp create(app, table, options) do
    nodes = options.replicas || :mnesia.system_info(:db_nodes)

    case :mnesia.create_table(table, Table.definition(options, nodes)) do
      {:atomic, :ok} -> created(table, options.timeout)
      {:aborted, {:already_exists, ^table}} -> existing(app, table, nodes, options)
      {:aborted, reason} -> {:error, {:aborted, reason}}
    end
  end

  defp existing(app, table, nodes, options) do
    case Table.differs(table, options) do
      [] ->
        # those away get theirs when it is called again
        missing = (nodes -- Local.copies(table)) -- away()

        with :ok <- add_copies(missing, table, options.storage),
             do: created(table, options.timeout)

      differences ->
        told =
          for {item, there, wanted} <- differences,
              do: "#{item}=#{inspect(there)} wanted=#{inspect(wanted)}"

        message = "the table is there with another definition #{Enum.join(told, " ")}"
        {:error, %Error{kind: :conflict, op: :create_app_table, app: app, message: message}}
    end
  end

  defp away, do: :mnesia.system_info(:db_nodes) -- :mnesia.system_info(:running_db_nodes)

  defp add_copies(nodes, table, storage) do
    Enum.reduce_while(nodes, :ok, fn node, :ok ->
      case :mnesia.add_table_copy(table, node, storage) do
        {:atomic, :ok} -> {:cont, :ok}
        {:aborted, {:already_exists, ^table, _node}} -> {:cont, :ok}
        {:aborted, reason} -> {:halt, {:error, {:aborted, reason}}}
      end
    end)
  end

  defp created(table, timeout) do
    case :mnesia.wait_for_tables([table], timeout) do
      :ok -> sync_files(table)
      {:timeout, _} -> {:error, :timeout}
      {:error, reason} -> {:error, {:aborted, reason}}
    end
  end

  # the files that a change of the schema made
  defp sync_files(table) do
    copies = Local.copies(table)
    running = :mnesia.system_info(:running_db_nodes)

    away = copies -- running

    Enum.reduce_while(copies -- away, :ok, fn node, :ok ->
      case Cluster.on(node, Local, :sync, []) do
        :ok -> {:cont, :ok}
        error -> {:halt, error}
      end
    end)
  end

  @doc """
  Writes an entry, in a transaction on all nodes that have the table.

  Options: `:durability`, `:sync` (default) or `:async`. Inside a `:mnesia.transaction/1` it is a part of that one,
  whose end decides, and does not sync.

  Durability: `:ok` means that each running node with a copy on disk has synced its log; with
  `durability: :async`, that the transaction is committed in memory. A `:ram_copies` table is on no disk.
  Cost: a transaction; one sync on each of these nodes, shared with writers that come together.

      iex> alias MaculaStorage.Mnesia
      iex> Mnesia.setup([node()])
      iex> Mnesia.create_app_table(:mnesia_put_doc)
      iex> Mnesia.put(:mnesia_put_doc, :counter, 1, durability: :async)
      :ok
      iex> {:error, {:aborted, {:no_exists, _}}} = Mnesia.put(:mnesia_no_table, :counter, 1)
      iex> Mnesia.get(:mnesia_put_doc, :counter)
      {:ok, 1}
  """
  @spec put(app, term, term, keyword) :: :ok | failure
  def put(app, key, value, options \\ []) do
    durability = durability!(options)

    with {:ok, table} <- Table.find(app) do
      write(table, durability, fn ->
        :mnesia.write(table, Table.record(table, key, value), :write)
      end)
    end
  end

  @doc """
  Deletes an entry; one that is not there is fine. Options as of `put/4`.

  Durability: as of `put/4`. Cost: as of `put/4`.
  """
  @spec delete(app, term, keyword) :: :ok | failure
  def delete(app, key, options \\ []) do
    durability = durability!(options)

    with {:ok, table} <- Table.find(app),
         do: write(table, durability, fn -> :mnesia.delete(table, key, :write) end)
  end

  defp durability!([]), do: :sync

  defp durability!(options),
    do: Options.validate!(options, durability: {:sync, {:one_of, [:sync, :async]}}).durability

  defp write(table, durability, fun) do
    # the sync of a part of someone's transaction would promise what is not committed yet
    if durability == :async or :mnesia.is_transaction() do
      with {:ok, :ok} <- answer(:mnesia.transaction(fun)), do: :ok
    else
      with :ok <- Syncer.ready(),
           {:ok, :ok} <- answer(:mnesia.sync_transaction(fun)),
           do: sync(table)
    end
  end

  defp answer({:atomic, value}), do: {:ok, value}
  defp answer({:aborted, reason}), do: {:error, {:aborted, reason}}

  defp sync(table) do
    disks =
      :mnesia.table_info(table, :disc_copies) ++ :mnesia.table_info(table, :disc_only_copies)

    case for node <- :mnesia.table_info(table, :where_to_write), node in disks, do: node do
      # the last disk went away after the commit
      [] when disks != [] -> {:error, :unknown_result}
      running -> Syncer.sync(running)
    end
  catch
    :exit, {:aborted, _stopped_meanwhile} -> {:error, :unknown_result}
  end

  @doc """
  The value of a key.

  Options: `:consistency`, `:transaction` (default: waits for who is writing it) or `:local` (a look into this node's
  copy, or another node's where this has none; about as fast as ETS, and while a transaction commits it may
  see a part of it).

  Cost: a transaction, with a lock of the key on one node of the table; `:local`: memory.
  """
  @spec get(app, term, keyword) :: {:ok, term} | failure
  def get(app, key, options \\ []) do
    how =
      Options.validate!(options, consistency: {:transaction, {:one_of, [:transaction, :local]}})

    with {:ok, table} <- Table.find(app),
         {:ok, records} <- read(how.consistency, table, key) do
      case records do
        [] -> {:error, :not_found}
        [record | _] -> {:ok, elem(record, 2)}
      end
    end
  end

  defp read(:transaction, table, key),
    do: answer(:mnesia.transaction(fn -> :mnesia.read(table, key, :read) end))

  defp read(:local, table, key) do
    {:ok, :mnesia.dirty_read(table, key)}
  catch
    :exit, {:aborted, reason} -> {:error, {:aborted, reason}}
  end

  @doc """
  All keys of an app's table, in an order only when its type is `:ordered_set`.

  Cost: a transaction that locks the whole table against writers; all keys in memory.

      iex> alias MaculaStorage.Mnesia
      iex> Mnesia.setup([node()])
      iex> Mnesia.create_app_table(:mnesia_keys_doc)
      iex> Mnesia.put(:mnesia_keys_doc, :a, 1)
      iex> Mnesia.list_keys(:mnesia_keys_doc)
      {:ok, [:a]}
  """
  @spec list_keys(app) :: {:ok, [term]} | failure
  def list_keys(app) do
    with {:ok, table} <- Table.find(app),
         do: answer(:mnesia.transaction(fn -> :mnesia.all_keys(table) end))
  end

  @doc """
  Writes the app's table, as it is at one instant, into a file. Writers go on meanwhile.

  Options: `:overwrite` (default `false`: an existing file is `{:error, :exists}`). `restore/2` reads it, and so does
  `:mnesia.restore(path, module: MaculaStorage.Mnesia.BackupFile)`.

  Durability: `:ok` means that the file was synced, read back and given its name. Cost: reads the table and the
  file once, in the caller.
  """
  @spec backup(app, Path.t(), keyword) :: :ok | failure
  def backup(app, path, options \\ []) do
    %{overwrite: overwrite} = Options.validate!(options, overwrite: {false, :boolean})
    path = path!(path)

    with {:ok, table} <- Table.find(app),
         do: Backup.write([table], path, overwrite, :backup, Options.app!(app))
  end

  @doc """
  Makes the app's table hold what a backup of it holds, and nothing else, on all nodes, at once.

  The whole file is read and checked before; one that is damaged, cut, of a newer version or of another app is a
  `MaculaStorage.Error` and changes nothing, as does a failure on the way. The table must be there
  (`create_app_table/2`). Also of a file that `resolve/2` set aside.

  Durability: `:ok` means that it is synced on each running node with a copy on disk. Cost: reads the file
  twice; one transaction that locks the table and holds all of it in memory.
  """
  @spec restore(app, Path.t()) :: :ok | failure
  def restore(app, path) do
    path = path!(path)

    with {:ok, table} <- Table.find(app),
         :ok <- Backup.restore(table, path, Options.app!(app)),
         :ok <- sync(table),
         do: sync_files(table)
  end

  @doc """
  Goes through the entries of an app in a backup, without restoring it: `fun.({key, value}, acc)`.

  For looking at what `resolve/2` set aside, and putting back what is wanted. Cost: reads the file once, in the
  caller, in memory of a piece of it. Raises what `fun` raises.

      {:ok, nil} =
        Mnesia.backup_fold(:my_app, path, nil, fn {key, value}, nil ->
          if Mnesia.get(:my_app, key) == {:error, :not_found}, do: :ok = Mnesia.put(:my_app, key, value)
          nil
        end)
  """
  @spec backup_fold(app, Path.t(), acc, ({term, term}, acc -> acc)) :: {:ok, acc} | failure
        when acc: any
  def backup_fold(app, path, acc, fun) when is_function(fun, 2) do
    path = path!(path)
    with_key = fn record, acc -> fun.({elem(record, 1), elem(record, 2)}, acc) end

    with {:ok, table} <- Table.find(app) do
      case Backup.fold(table, path, acc, with_key) do
        {:ok, {acc, _known}} -> {:ok, acc}
        {:error, reason} -> BackupFile.error(reason, path, :backup_fold, Options.app!(app))
      end
    end
  end

  defp path!(path) when is_binary(path) and path != "", do: path

  defp path!(path),
    do: raise(ArgumentError, "expected a path as a string, got: #{inspect(path)}")

  @doc """
  How mnesia is here: `%{running: boolean, directory: path, nodes: all, running_nodes: those in step with this one,
  inconsistent: [node], poisoned: boolean}`.

  `inconsistent` are nodes that run and can be reached and hold other data than this one, because both wrote
  while they did not see each other: they stay apart until `resolve/2`. `poisoned`: a sync failed.

  Cost: asks the nodes that are connected and not in step.
  """
  @spec status() :: %{
          running: boolean,
          directory: String.t(),
          nodes: [node],
          running_nodes: [node],
          inconsistent: [node],
          poisoned: boolean
        }
  def status do
    running = Local.running() == :yes
    nodes = fn item -> if running, do: Enum.sort(:mnesia.system_info(item)), else: [] end

    %{
      running: running,
      directory: if(running, do: Local.directory(), else: MaculaStorage.Config.mnesia_dir()),
      nodes: nodes.(:db_nodes),
      running_nodes: nodes.(:running_db_nodes),
      inconsistent: Enum.sort(Local.split_from()),
      poisoned: Syncer.poisoned?()
    }
  end

  @doc """
  The way out of a split: the nodes that hold other data than `master_node` take its data.

  Each of them, while mnesia is off there, first sets its own data aside, twice: `tables.backup` for `backup_fold/4` and
  `restore/2`, and `mnesia/`, the directory as it was when it stopped. Then it loads everything from the
  master's side. Answers `{:ok, %{node => directory on that node}}`, empty when nothing is split. Callable on any of
  the nodes. When a node cannot set aside, nothing is taken over. Nodes that cannot be reached are left
  alone: resolve again when they are back. Programs on these nodes meet `{:node_not_running, node}` meanwhile.

  Options: `:timeout` (default 60,000 ms), for the loading of tables.

  Durability: what is set aside and what was taken over is synced. Cost: copies mnesia's directory and its tables.
  """
  @spec resolve(node, keyword) :: {:ok, %{node => Path.t()}} | failure
  def resolve(master_node, options \\ []) do
    Table.nodes!([master_node], "the node that is right")
    %{timeout: timeout} = Options.validate!(options, timeout: {60_000, :positive})
    with :ok <- there(), do: Cluster.resolve(master_node, timeout)
  end

  @doc """
  The caller is sent `{MaculaStorage.Mnesia, ref, event}` from now on, until `unsubscribe/1` or its end.

  | event | |
  |---|---|
  | `{:inconsistent_database, node, context}` | this node and that one hold different data, see `resolve/2` |
  | `{:consistent, node}` | they do no longer |
  | `{:node_down, node}`, `{:node_up, node}` | mnesia on another node |
  | `{:overload, details}` | the log grows faster than it is emptied |
  | `{:fatal, text}`, `:stopped` | mnesia on this node ends |

  Cost: a message to a process of ours.

      iex> {:ok, ref} = MaculaStorage.Mnesia.subscribe()
      iex> MaculaStorage.Mnesia.unsubscribe(ref)
      :ok
  """
  @spec subscribe() :: {:ok, reference} | failure
  def subscribe, do: with(:ok <- there(), do: Watch.subscribe())

  @doc """
  Ends a subscription. Again is fine; messages that were sent stay in the mailbox.

  Durability: nothing is stored. Cost: a message to a process of ours.
  """
  @spec unsubscribe(reference) :: :ok
  def unsubscribe(ref) when is_reference(ref), do: Watch.unsubscribe(ref)
end
