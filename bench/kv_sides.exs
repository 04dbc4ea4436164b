# The sides of the key-value benches: our store and its rivals behind one behaviour.
#
# Invariant: `put/3` and `put_multi/2` return when what they wrote is synced, by the means that the rival's own
# documents give for it. Each is used as its documents say is fast: where a handle belongs to a process it stays
# there, tables that many read are made for that, and CubDB's compaction is off while others have their turn.
defmodule MaculaStorage.Bench.Kv.Side do
  @moduledoc false

  @type store :: term
  @type entry :: {key :: term, value :: binary}

  @doc "Its name in reports."
  @callback name() :: String.t()

  @doc "What a reader of its figures must know; may be empty."
  @callback note() :: String.t()

  @doc "Why it cannot be measured with so many entries, or `nil`; `asked?` when the caller named it."
  @callback missing(keys :: pos_integer, asked? :: boolean) :: String.t() | nil

  @doc "Modules, one of each application that runs it, so that they can be loaded before the clock runs."
  @callback modules() :: [module]

  @doc "Opens or makes its store in a directory; `:ordered` when ranges will be asked for."
  @callback open(dir :: String.t(), :hash | :ordered, keys :: pos_integer) :: store

  @doc "What a process of its own calls the other functions with."
  @callback client(store) :: store

  @doc "Adds entries as fast as it can."
  @callback fill(store, [entry]) :: :ok

  @doc "Makes durable what was added; the store as it is to be used from then on."
  @callback filled(store) :: store

  @callback put(store, term, binary) :: :ok
  @callback put_multi(store, [entry]) :: :ok
  @callback get(store, term) :: binary | nil
  @callback get_multi(store, [term]) :: [binary] | %{term => binary}

  @doc "The entries of one group `{group, _}`: there are `count` of them, from `{group, 0}` on."
  @callback select(store, group :: integer, count :: pos_integer) :: [tuple]

  @doc "All entries as they are when the first is asked for, as a lazy stream."
  @callback stream(store) :: Enumerable.t()

  @callback close(store) :: :ok

  @optional_callbacks select: 3, stream: 1, put: 3, put_multi: 2

  defmacro __using__(_) do
    quote do
      @behaviour unquote(__MODULE__)
      # Rivals are not there when this is compiled.
      @compile {:no_warn_undefined, [:bitcask, :mnesia, CubDB]}

      def note, do: ""
      def missing(_keys, _asked?), do: nil
      def client(store), do: store
      def filled(store), do: store
      def get_multi(store, keys), do: Enum.map(keys, &get(store, &1))
      defoverridable note: 0, missing: 2, client: 1, filled: 1, get_multi: 2
    end
  end
end

defmodule MaculaStorage.Bench.Kv.Ours do
  @moduledoc false
  use MaculaStorage.Bench.Kv.Side

  alias MaculaStorage.CubDB

  def name, do: "MaculaStorage.CubDB"

  def note do
    cache = MaculaStorage.Operator.Text.bytes(MaculaStorage.Config.get().kv_cache_bytes)
    "Cache #{cache}."
  end

  def modules, do: [CubDB]

  # Its place is the base directory of the application, so `dir` only gives it a name.
  def open(dir, _shape, _keys) do
    app = Path.basename(dir)
    # opens it, and reads nothing: a size would look at each key that is not in the file yet
    CubDB.revision(app)
    app
  end

  @doc "What the store tells of itself, if it does."
  def stats(app) do
    if function_exported?(CubDB, :stats, 1), do: apply(CubDB, :stats, [app])
  end

  def fill(app, entries), do: :ok = CubDB.put_multi(app, entries)
  def put(app, key, value), do: :ok = CubDB.put(app, key, value)
  def put_multi(app, entries), do: :ok = CubDB.put_multi(app, entries)
  def get(app, key), do: CubDB.get(app, key)
  def get_multi(app, keys), do: CubDB.get_multi(app, keys)

  def select(app, group, count),
    do: app |> CubDB.select(min_key: {group, 0}, max_key: {group, count}) |> Enum.to_list()

  def stream(app), do: CubDB.select(app)
  def close(app), do: :ok = MaculaStorage.close_app(app)
end

defmodule MaculaStorage.Bench.Kv.Ets do
  @moduledoc false
  use MaculaStorage.Bench.Kv.Side

  def name, do: "ETS"
  def note, do: "In memory only."
  def modules, do: [:ets]

  def open(_dir, shape, _keys) do
    type = if shape == :ordered, do: :ordered_set, else: :set
    :ets.new(:bench, [type, :public, read_concurrency: true])
  end

  def fill(table, entries) do
    :ets.insert(table, entries)
    :ok
  end

  def get(table, key) do
    [{_, value}] = :ets.lookup(table, key)
    value
  end

  # The part of the key that is given makes it a range of the tree.
  def select(table, group, _count), do: :ets.select(table, [{{{group, :_}, :_}, [], [:"$_"]}])

  def close(table) do
    :ets.delete(table)
    :ok
  end
end

defmodule MaculaStorage.Bench.Kv.Dets do
  @moduledoc false
  use MaculaStorage.Bench.Kv.Side

  # What an entry takes in the file, with the holes between sizes that are powers of two.
  @entry_bytes 300
  @file_bytes_max 2_147_483_648

  def name, do: "DETS"
  def note, do: "put, then sync."
  def modules, do: [:dets]

  def missing(keys, _asked?) do
    if keys * @entry_bytes > @file_bytes_max,
      do: "#{keys} entries do not fit: its files end at 2 GiB"
  end

  def open(dir, _shape, keys) do
    {:ok, table} =
      :dets.open_file({:bench, dir}, file: ~c"#{dir}/dets", estimated_no_objects: keys)

    table
  end

  def fill(table, entries), do: :ok = :dets.insert(table, entries)

  def filled(table) do
    :ok = :dets.sync(table)
    table
  end

  def put(table, key, value), do: put_multi(table, [{key, value}])

  def put_multi(table, entries) do
    :ok = :dets.insert(table, entries)
    :ok = :dets.sync(table)
  end

  def get(table, key) do
    case :dets.lookup(table, key) do
      [{_, value}] -> value
      [] -> nil
    end
  end

  def close(table), do: :ok = :dets.close(table)
end

defmodule MaculaStorage.Bench.Kv.Mnesia do
  @moduledoc false
  use MaculaStorage.Bench.Kv.Side

  @wait_ms 600_000

  def name, do: "Mnesia"
  def note, do: "disc_copies; sync_dirty, then sync_log; put_multi in a transaction."
  def modules, do: [:mnesia]

  def missing(_keys, _asked?),
    do: unless(Code.ensure_loaded?(:mnesia), do: "not on this machine")

  def open(dir, shape, _keys) do
    Application.put_env(:mnesia, :dir, to_charlist(dir))
    new? = File.ls!(dir) == []
    if new?, do: :ok = :mnesia.create_schema([node()])
    :ok = :mnesia.start()
    type = if shape == :ordered, do: :ordered_set, else: :set

    if new?,
      do: {:atomic, :ok} = :mnesia.create_table(:bench, type: type, ram_copies: [node()])

    :ok = :mnesia.wait_for_tables([:bench], @wait_ms)
    :bench
  end

  # In memory first, and to the disk as a whole when all are there.
  def fill(table, entries) do
    :mnesia.activity(:ets, fn ->
      for {key, value} <- entries, do: :mnesia.write({table, key, value})
    end)

    :ok
  end

  def filled(table) do
    {:atomic, :ok} = :mnesia.change_table_copy_type(table, node(), :disc_copies)
    table
  end

  def put(table, key, value) do
    :ok = :mnesia.sync_dirty(fn -> :mnesia.write({table, key, value}) end)
    :ok = :mnesia.sync_log()
  end

  def put_multi(table, entries) do
    {:atomic, :ok} =
      :mnesia.transaction(fn ->
        Enum.each(entries, fn {key, value} -> :mnesia.write({table, key, value}) end)
      end)

    :ok = :mnesia.sync_log()
  end

  def get(table, key) do
    case :mnesia.dirty_read(table, key) do
      [{_, _, value}] -> value
      [] -> nil
    end
  end

  def select(table, group, _count),
    do: :mnesia.dirty_select(table, [{{table, {group, :_}, :_}, [], [:"$_"]}])

  def close(_table) do
    :stopped = :mnesia.stop()
    :ok
  end
end

defmodule MaculaStorage.Bench.Kv.Bitcask do
  @moduledoc false
  use MaculaStorage.Bench.Kv.Side

  def name, do: "bitcask"

  def note,
    do: "put, then sync, in the process that owns the handle; put_multi is not all or none."

  def modules, do: [:bitcask]

  def missing(_keys, _asked?) do
    unless Code.ensure_loaded?(:bitcask),
      do: "not on this machine (Debian's package erlang-bitcask)"
  end

  # A handle belongs to the process that opened it.
  def open(dir, _shape, _keys) do
    {:ok, _} = Application.ensure_all_started(:bitcask)
    dir = to_charlist(dir)
    parent = self()

    owner =
      spawn_link(fn ->
        handle = :bitcask.open(dir, [:read_write, open_timeout: 60])
        true = is_reference(handle)
        send(parent, {self(), :opened})
        owner(handle)
      end)

    receive do
      {^owner, :opened} -> {dir, owner, nil}
    end
  end

  defp owner(handle) do
    receive do
      {from, tag, {:put, entries, sync?}} ->
        for {key, value} <- entries, do: :ok = :bitcask.put(handle, key, value)
        if sync?, do: :ok = :bitcask.sync(handle)
        send(from, {tag, :ok})
        owner(handle)

      {from, tag, {:get, key}} ->
        send(from, {tag, got(handle, key)})
        owner(handle)

      {from, tag, :close} ->
        :bitcask.close(handle)
        send(from, {tag, :ok})
    end
  end

  defp ask(owner, request) do
    tag = make_ref()
    send(owner, {self(), tag, request})

    receive do
      {^tag, answer} -> answer
    end
  end

  # Each reads with a handle of its own; what is known of the keys is shared.
  def client({dir, owner, nil}) do
    handle = :bitcask.open(dir)
    true = is_reference(handle)
    {dir, owner, handle}
  end

  def fill({_, owner, _}, entries), do: ask(owner, {:put, entries, false})

  def filled({_, owner, _} = store) do
    :ok = ask(owner, {:put, [], true})
    store
  end

  def put({_, owner, _}, key, value), do: :ok = ask(owner, {:put, [{key, value}], true})
  def put_multi({_, owner, _}, entries), do: :ok = ask(owner, {:put, entries, true})

  def get({_, owner, nil}, key), do: ask(owner, {:get, key})
  def get({_, _, handle}, key), do: got(handle, key)

  defp got(handle, key) do
    case :bitcask.get(handle, key) do
      {:ok, value} -> value
      :not_found -> nil
    end
  end

  def close({_, owner, _}), do: :ok = ask(owner, :close)
end

defmodule MaculaStorage.Bench.Kv.CubDB do
  @moduledoc false
  use MaculaStorage.Bench.Kv.Side

  # It adds a few thousand entries a second.
  @keys_max 200_000

  def name, do: "CubDB"
  def note, do: "Syncs each write; compacted only in the bench of growth."
  def modules, do: [CubDB, CubDB.Store]

  def missing(keys, asked?) do
    cond do
      not Code.ensure_loaded?(CubDB) ->
        "MACULA_BENCH_PEERS names no directory that has it"

      keys > @keys_max and not asked? ->
        "filling it takes too long (--only with its name does it)"

      true ->
        nil
    end
  end

  def open(dir, _shape, _keys) do
    {:ok, db} = CubDB.start_link(data_dir: dir, auto_compact: false, auto_file_sync: true)
    db
  end

  def fill(db, entries), do: :ok = CubDB.put_multi(db, entries)

  def put(db, key, value), do: :ok = CubDB.put(db, key, value)
  def put_multi(db, entries), do: :ok = CubDB.put_multi(db, entries)
  def get(db, key), do: CubDB.get(db, key)
  def get_multi(db, keys), do: CubDB.get_multi(db, keys)

  def select(db, group, count),
    do: db |> CubDB.select(min_key: {group, 0}, max_key: {group, count}) |> Enum.to_list()

  def stream(db), do: CubDB.select(db)
  def close(db), do: CubDB.stop(db)
end
