defmodule MaculaStorage.CubDB do
  @moduledoc """
  The ordered key-value store of an app, or of a directory, with the functions of CubDB 2.

  Keys and values are any Erlang terms. Entries are sorted in Erlang's term order; `1` and `1.0` are
  different keys that stand side by side. Values of 1 KiB and more lie compressed in the file (zstd) where
  that saves an eighth.

  The first argument of each function is an app (atom or string), or the pid or name of a store
  started by `start_link/2`. An atom or string is looked up among the stores' names first, then it
  is an app; it is never looked up among registered processes.

      iex> alias MaculaStorage.CubDB
      iex> CubDB.put(:cubdb_doc, {:user, 1}, %{name: "Ada"})
      :ok
      iex> CubDB.get(:cubdb_doc, {:user, 1})
      %{name: "Ada"}
      iex> CubDB.select(:cubdb_doc, min_key: {:user, 0}, max_key: {:user, 9}) |> Enum.to_list()
      [{{:user, 1}, %{name: "Ada"}}]

  `Durability:` `:ok` of a write means that it is synced to the disk. Writers that come together
  share one sync.

  Errors of writes: `{:error, :busy}` (queue full), `:timeout` (may or may not have happened),
  `:disk_full`, `:too_large` (a key over 64 KiB, a value over 1 GiB), `:unknown_result` (the sync
  failed), `:poisoned` (an earlier sync failed: close and open the app, or stop and start the process of
  a directory), `:closed` (also while a name's process is away, between a crash and its restart),
  `:locked` (another process owns the app), or a `MaculaStorage.Error`. Reads raise a
  `MaculaStorage.Error` when they cannot answer, because `nil` would be an answer.
  """

  alias MaculaStorage.{Apps, Call, Error, Native, Options}

  alias MaculaStorage.CubDB.{
    Care,
    Pages,
    Server,
    Snapshot,
    Store,
    Subscription,
    Terms,
    Tx,
    Update
  }

  @type db :: atom | String.t() | pid
  @type place :: atom | String.t() | charlist | keyword
  @type key :: term
  @type value :: term
  @type entry :: {key, value}
  @type select_option ::
          {:min_key, key}
          | {:max_key, key}
          | {:min_key_inclusive, boolean}
          | {:max_key_inclusive, boolean}
          | {:prefix, binary | nonempty_list | tuple}
          | {:tuple_size, non_neg_integer}
          | {:reverse, boolean}
  @type put_option :: {:ttl, pos_integer | :infinity} | {:durability, :sync | :async | :none}
  @type failure :: {:error, atom | Error.t()}

  @transaction_ms 30_000

  @doc """
  Starts a process that stands for a store, so that it can be supervised and named.

  The first argument says where the store is:

    * an app, an atom or a string without a slash: the app's own store. It is opened when it is not, and
      attached to when it is; it stays open when the process ends.
    * a path, a string with a slash or a charlist, or a keyword list with `:data_dir`, as CubDB has it: a
      store in that directory, outside of any app. It is this process's, and is closed when it ends,
      however it ends. Opened once more, in this VM or another, it is
      `{:error, {:locked, os_pid}}` (nil when that process is not known).

  Options: `:name`, an atom or string under which the functions of this module find the store;
  `:timeout`, `:spawn_opt`, `:hibernate_after` and `:debug` as `GenServer.start_link/3` has them;
  `:auto_compact` and `:auto_file_sync`: see `set_auto_compact/2` and `set_auto_file_sync/2`.

  A directory inside of an app's, and one with files of CubDB itself (see `mix macula.import.cubdb`), are
  refused with a `MaculaStorage.Error`.

  Durability: nothing is written but the store's own files, when they are new.
  Cost: opens the store; after a crash it reads a few pages, never the data.

      iex> dir = Path.join(System.tmp_dir!(), "macula_cubdb_doc_\#{System.pid()}")
      iex> {:ok, db} = MaculaStorage.CubDB.start_link(data_dir: dir, name: :doc_db)
      iex> MaculaStorage.CubDB.put(db, :a, 1)
      :ok
      iex> MaculaStorage.CubDB.get(:doc_db, :a)
      1
      iex> MaculaStorage.CubDB.stop(db)
      :ok
      iex> File.rm_rf!(dir) |> is_list()
      true
  """
  @spec start_link(place, keyword) :: GenServer.on_start()
  def start_link(place, options \\ []), do: Server.start_link(place, options)

  @doc "As `start_link/2`, without a link."
  @spec start(place, keyword) :: GenServer.on_start()
  def start(place, options \\ []), do: Server.start(place, options)

  @doc """
  For supervisors: `{MaculaStorage.CubDB, place}` or `{MaculaStorage.CubDB, {place, name: :db}}`, with a
  place as `start_link/2` has it.
  """
  @spec child_spec(term) :: Supervisor.child_spec()
  def child_spec({place, options}) do
    %{
      id: {__MODULE__, if(is_list(place), do: place[:data_dir] || place, else: place)},
      start: {__MODULE__, :start_link, [place, options]},
      type: :worker,
      # what is written is synced by then; closing joins the store's thread
      shutdown: 70_000
    }
  end

  def child_spec(place), do: child_spec({place, []})

  @doc """
  Stops a process started by `start_link/2`, by pid or name. An app's store stays open for others; one in
  a directory of its own is closed.

  Durability: `:ok` means that the files are closed. Cost: waits for what is being written.
  """
  @spec stop(db, term, timeout) :: :ok
  def stop(db, reason \\ :normal, timeout \\ :infinity),
    do: GenServer.stop(Server.pid!(db), reason, timeout)

  @doc """
  The value of a key, or `default`.

  Cost: one dirty-I/O call, no sync. Durability: reads what is durable.
  """
  @spec get(db, key, value) :: value
  def get(db, key, default \\ nil) do
    case fetch(db, key) do
      {:ok, value} -> value
      :error -> default
    end
  end

  @doc """
  `{:ok, value}` of a key, or `:error`.

  Cost: one dirty-I/O call, no sync; a value over 1 MiB is read by a thread of ours. Durability:
  reads what is durable.
  """
  @spec fetch(db, key) :: {:ok, value} | :error
  def fetch(db, key), do: with_source(db, :get, &Pages.fetch(&1, key))

  @doc "Whether a key is there; its value is not read. Cost and durability as `fetch/2`."
  @spec has_key?(db, key) :: boolean
  def has_key?(db, key), do: ok!(with_source(db, :has_key?, &Pages.has_key?(&1, key)))

  @doc "How many milliseconds a key stays, or `:infinity`; `:error` when it is not there. Cost and durability as `fetch/2`."
  @spec ttl(db, key) :: {:ok, pos_integer | :infinity} | :error
  def ttl(db, key), do: with_source(db, :ttl, &Pages.ttl(&1, key))

  @doc "A map of those of `keys` that are there, in one crossing. Cost and durability as `fetch/2`."
  @spec get_multi(db, [key]) :: %{key => value}
  def get_multi(db, keys), do: ok!(with_source(db, :get_multi, &Pages.get_multi(&1, keys)))

  @doc "How many entries there are, with those that expired and are not freed yet. Cost: looks for each key that is not in the file yet, on a thread of ours."
  @spec size(db) :: non_neg_integer
  def size(db), do: ok!(with_source(db, :size, &Pages.size/1))

  @doc """
  A lazy, sorted stream of entries.

  Options: `:min_key`, `:max_key` (each is a bound when it is given, `nil` too),
  `:min_key_inclusive`, `:max_key_inclusive` (default `true`), `:reverse` (default `false`).

  The snapshot it reads is taken when the first entry is asked for, by whichever process asks, and
  ends with the stream. A bound takes in all keys that are `==` to it: `min_key: 1.0` includes `1`.

  With `:prefix` only keys that begin with it are selected: of a binary, those binaries; of a list,
  the lists that begin with its elements; of a tuple, the tuples **of `:tuple_size` elements** that begin
  with its own. The size must be told because Erlang orders tuples by size first: tuples of different
  sizes do not stand together, and are selected one size after the other. Elements are compared by `==`.
  Bounds that are given beside a prefix narrow it further, as in `prefix: "user:", min_key: last_seen,
  min_key_inclusive: false`.

  Cost: one dirty-I/O call per page of up to 512 entries or 256 KiB.

      iex> MaculaStorage.CubDB.put_multi(:select_doc, a: 1, b: 2, c: 3)
      :ok
      iex> MaculaStorage.CubDB.select(:select_doc, min_key: :b, reverse: true) |> Enum.to_list()
      [c: 3, b: 2]
      iex> MaculaStorage.CubDB.put_multi(:prefix_doc, %{{:user, 1, :name} => "Ada", {:user, 2, :name} => "Eva", "user:1" => 1})
      :ok
      iex> MaculaStorage.CubDB.select(:prefix_doc, prefix: {:user, 2}, tuple_size: 3) |> Enum.to_list()
      [{{:user, 2, :name}, "Eva"}]
      iex> MaculaStorage.CubDB.select(:prefix_doc, prefix: "user:") |> Enum.to_list()
      [{"user:1", 1}]
  """
  @spec select(db, [select_option]) :: Enumerable.t()
  def select(db, options \\ []) do
    bounds = Pages.bounds!(options)
    Pages.stream(fn -> snapshot_handle!(db) end, bounds)
  end

  @doc """
  How many entries a `select/2` with these options has now.

  Without options it is `size/1`. Durability: counts what is durable. Cost: reads the range on a thread
  of ours, keys only, in pages and at one instant; ends when the caller dies. Raises as reads do.

      iex> MaculaStorage.CubDB.put_multi(:count_doc, for(n <- 1..100, do: {{:row, n}, n}))
      :ok
      iex> MaculaStorage.CubDB.count(:count_doc, min_key: {:row, 11}, max_key: {:row, 20})
      10
      iex> MaculaStorage.CubDB.count(:count_doc, prefix: {:row}, tuple_size: 2)
      100
  """
  @spec count(db, [select_option]) :: non_neg_integer
  def count(db, options \\ []) do
    bounds = Pages.bounds!(options)
    ok!(with_source(db, :count, &Pages.count(&1, bounds)))
  end

  @doc """
  Writes an entry.

  Options: `:ttl`, its time to live in milliseconds, from this call on (default `:infinity`). When it is
  over nobody reads the entry any more, in no snapshot or transaction either, and the store frees its room
  by itself. It belongs to this value: whatever writes the key again without `:ttl`, such as a plain `put/3`
  or `update/4`, makes it stay. A wall clock that is set forward ends it early, one that is set back does not
  prolong it while the store is open.

  `:durability`: `:sync` (default: synced before anybody sees it), `:async` (seen at once, synced within a
  second) or `:none` (seen at once, synced by whichever write or `file_sync/1` comes next). What was not
  synced survives the death of the process; power loss takes the last of it, never one write and not those after.

  Durability: `:ok` means synced, if not told otherwise. Cost: one sync, shared with writers that come together.

      iex> MaculaStorage.CubDB.put(:put_doc, :session, "Ada", ttl: 60_000)
      :ok
      iex> {:ok, left} = MaculaStorage.CubDB.ttl(:put_doc, :session)
      iex> left in 1..60_000
      true
  """
  @spec put(db, key, value, [put_option]) :: :ok | failure
  def put(db, key, value, options \\ []) do
    {ttl, durability} = Options.write!(options)
    write(db, :put, [Terms.put(key, value, ttl)], [], durability)
  end

  @doc "As `put/4`, unless the key is there: `{:error, :exists}`."
  @spec put_new(db, key, value, [put_option]) :: :ok | failure
  def put_new(db, key, value, options \\ []) do
    {ttl, durability} = Options.write!(options)
    write(db, :put_new, [Terms.put(key, value, ttl)], [{:absent, Terms.key(key)}], durability)
  end

  @doc "Deletes a key; one that is not there is fine. Durability and cost as `put/3`."
  @spec delete(db, key) :: :ok | failure
  def delete(db, key), do: write(db, :delete, [Terms.delete(key)])

  @doc "Writes many entries (a map, keyword list or list of pairs) at once: all or none. Options, durability and cost as `put/4`."
  @spec put_multi(db, %{key => value} | [entry], [put_option]) :: :ok | failure
  def put_multi(db, entries, options \\ []) do
    {ttl, durability} = Options.write!(options)
    puts = Enum.map(entries || [], fn {key, value} -> Terms.put(key, value, ttl) end)
    write(db, :put_multi, puts, [], durability)
  end

  @doc "Deletes many keys at once: all or none. Durability and cost as `put/3`."
  @spec delete_multi(db, [key]) :: :ok | failure
  def delete_multi(db, keys), do: put_and_delete_multi(db, [], keys)

  @doc "Writes and deletes at once: all or none; a key in both is deleted. Durability and cost as `put/3`."
  @spec put_and_delete_multi(db, %{key => value} | [entry] | nil, [key] | nil) :: :ok | failure
  def put_and_delete_multi(db, entries, keys) do
    puts = Enum.map(entries || [], fn {key, value} -> Terms.put(key, value) end)
    write(db, :put_and_delete_multi, puts ++ Enum.map(keys || [], &Terms.delete/1))
  end

  @doc "Deletes all entries at once. Durability and cost as `put/3`."
  @spec clear(db) :: :ok | failure
  def clear(db), do: write(db, :clear, [:clear])

  @doc """
  Replaces the value of a key by what `fun` makes of it; `initial` when the key is not there (`fun`
  is not called then).

  It is optimistic: `fun` runs in the caller while others write, and what it answers is written if the
  value is still the one that it was given. **`fun` may therefore run again**, and does best without
  side effects; after three conflicts it runs with exclusive write access. Writing to the same store
  inside `fun` raises. An exception in `fun` changes nothing. What is written stays: see `put/4` on `:ttl`.

  Durability: `:ok` means synced. Cost: one read and one write, whose sync is shared with writers that
  come together; a value over 1 MiB, or one that others keep changing, takes a `transaction/3`.

      iex> MaculaStorage.CubDB.update(:update_doc, :visits, 1, &(&1 + 1))
      :ok
      iex> MaculaStorage.CubDB.update(:update_doc, :visits, 1, &(&1 + 1))
      :ok
      iex> MaculaStorage.CubDB.get(:update_doc, :visits)
      2
  """
  @spec update(db, key, value, (value -> value)) :: :ok | failure
  def update(db, key, initial, fun) when is_function(fun, 1) do
    updated(db, :update, [key], fn
      %{^key => value} -> {:ok, [{key, fun.(value)}], []}
      %{} -> {:ok, [{key, initial}], []}
    end)
  end

  @doc """
  Reads a key, and writes what `fun` answers: `{result, new_value}`, or `:pop` to delete it.

  Returns the result (for `:pop`, the old value). A value that stays the same is not written, and keeps
  its time to live.
  `fun` may run again, see `update/4`. Durability and cost as `update/4`.

      iex> MaculaStorage.CubDB.get_and_update(:get_and_update_doc, :next, fn n -> {n || 0, (n || 0) + 1} end)
      0
      iex> MaculaStorage.CubDB.get_and_update(:get_and_update_doc, :next, fn _ -> :pop end)
      1
  """
  @spec get_and_update(db, key, (value -> {any, value} | :pop)) :: any | failure
  def get_and_update(db, key, fun) when is_function(fun, 1) do
    updated(db, :get_and_update, [key], fn values ->
      old = Map.get(values, key)

      case fun.(old) do
        {result, new} when new === old -> {result, [], []}
        {result, new} -> {result, [{key, new}], []}
        :pop -> {old, [], if(values == %{}, do: [], else: [key])}
        other -> raise ArgumentError, not_an_update(other)
      end
    end)
  end

  defp not_an_update(other) do
    "expected the function to answer {result, new_value} or :pop, got: #{inspect(other, limit: 5)}"
  end

  @doc """
  As `get_and_update/3` for many keys: `fun` gets a map of those that are there and answers
  `{result, entries_to_put, keys_to_delete}`, of which any may be another key than those read.

  What `fun` answers is written if none of `keys` changed since they were read, all of them at one
  instant; otherwise `fun` runs again, see `update/4`. Durability and cost as `update/4`.
  """
  @spec get_and_update_multi(db, [key], (map -> {any, %{key => value} | nil, [key] | nil})) ::
          any | failure
  def get_and_update_multi(db, keys, fun) when is_list(keys) and is_function(fun, 1),
    do: updated(db, :get_and_update_multi, keys, fun)

  @doc """
  Writes `new` if the key holds what is `expected`, else `{:error, :conflict}`.

  `expected` is what `fetch/2` answers: `{:ok, value}`, or `:error` for a key that is not there. Values
  are the same as `===` has it: `1` is not `1.0`. It does not matter in which form the value is stored.

  Options: as `put/4`. Durability: `:ok` means synced. Cost: one sync, shared with writers that come
  together; a conflict is found out with one read.

      iex> alias MaculaStorage.CubDB
      iex> CubDB.compare_and_put(:compare_doc, :leader, :error, "node a")
      :ok
      iex> CubDB.compare_and_put(:compare_doc, :leader, :error, "node b")
      {:error, :conflict}
      iex> CubDB.compare_and_put(:compare_doc, :leader, {:ok, "node a"}, "node b")
      :ok
  """
  @spec compare_and_put(db, key, {:ok, value} | :error, value, [put_option]) ::
          :ok | {:error, :conflict} | failure
  def compare_and_put(db, key, expected, new, options \\ []) do
    ttl = Options.ttl!(options)

    with {:ok, store} <- Server.store(db),
         do: Update.compare(store, :compare_and_put, key, expected, [{key, new}], [], ttl)
  end

  @doc """
  Deletes a key if it holds `expected`, else `{:error, :conflict}`. As `compare_and_put/5`.

      iex> alias MaculaStorage.CubDB
      iex> CubDB.put(:compare_delete_doc, :lease, 7)
      :ok
      iex> CubDB.compare_and_delete(:compare_delete_doc, :lease, {:ok, 8})
      {:error, :conflict}
      iex> CubDB.compare_and_delete(:compare_delete_doc, :lease, {:ok, 7})
      :ok
  """
  @spec compare_and_delete(db, key, {:ok, value} | :error) ::
          :ok | {:error, :conflict} | failure
  def compare_and_delete(db, key, expected) do
    with {:ok, store} <- Server.store(db),
         do: Update.compare(store, :compare_and_delete, key, expected, [], [key])
  end

  defp updated(db, op, keys, fun) do
    with {:ok, store} <- Server.store(db), do: Update.run(store, op, keys, fun)
  end

  @doc """
  Runs `fun` with exclusive write access. It answers `{:commit, tx, result}` or `{:cancel, result}`.

  Options: `:timeout`, how long the transaction may last once it has its turn (default
  #{@transaction_ms} ms); after that it is rolled back: the next use of `tx` raises a
  `MaculaStorage.Error` of kind `:timeout`, and a commit returns `{:error, :timeout}`. An exception, throw or exit in `fun` cancels, and so does the death of the caller. Writing to the
  same store other than through `tx` inside `fun` raises.

  Durability: the result of a committed transaction means synced. Cost: waits for its turn; one sync.

      iex> MaculaStorage.CubDB.transaction(:tx_doc, fn tx ->
      ...>   count = MaculaStorage.CubDB.Tx.get(tx, :count, 0)
      ...>   {:commit, MaculaStorage.CubDB.Tx.put(tx, :count, count + 1), count + 1}
      ...> end)
      1
  """
  @spec transaction(db, (Tx.t() -> {:commit, Tx.t(), any} | {:cancel, any}), keyword) ::
          any | failure
  def transaction(db, fun, options \\ []) when is_function(fun, 1) do
    options = Options.validate!(options, timeout: {@transaction_ms, :positive})
    with {:ok, store} <- Server.store(db), do: Tx.run(store, :transaction, fun, options.timeout)
  end

  @doc """
  Pins the store's present state for reading; see `MaculaStorage.CubDB.Snapshot`.

  It ends at `release_snapshot/1`, with the process that took it, or after `timeout` milliseconds
  (default 5,000; `:infinity` for no limit), or when what reads from it then is done. Cost: one dirty-I/O call; its old pages are kept on
  the disk for as long.
  """
  @spec snapshot(db, timeout) :: Snapshot.t()
  def snapshot(db, timeout \\ 5_000) do
    handle = snapshot_handle!(db)
    if timeout != :infinity, do: Apps.release_after(handle, timeout)
    %Snapshot{handle: handle, app: Store.name(Server.store!(db))}
  end

  @doc "Ends a snapshot. Once is enough, more is fine."
  @spec release_snapshot(Snapshot.t()) :: :ok
  def release_snapshot(%Snapshot{handle: handle}), do: Native.kv_snapshot_release(handle)

  @doc "Runs `fun` with a snapshot that ends with it, and returns its result."
  @spec with_snapshot(db, (Snapshot.t() -> result)) :: result when result: any
  def with_snapshot(db, fun) when is_function(fun, 1) do
    snapshot = snapshot(db, :infinity)

    try do
      fun.(snapshot)
    after
      release_snapshot(snapshot)
    end
  end

  @doc """
  The directory that holds the store's files.

  Cost: no access to the disk.
  """
  @spec data_dir(db) :: String.t()
  def data_dir(db), do: Store.dir(Server.store!(db))

  @doc "The store's main file, in `data_dir/1`. It never changes."
  @spec current_db_file(db) :: String.t()
  def current_db_file(db), do: Path.join(data_dir(db), "kv.redb")

  @doc "See `MaculaStorage.CubDB.Care.file_sync/1`."
  @spec file_sync(db) :: :ok | failure
  defdelegate file_sync(db), to: Care

  @doc "See `MaculaStorage.CubDB.Care.set_auto_file_sync/2`."
  @spec set_auto_file_sync(db, boolean) :: :ok
  defdelegate set_auto_file_sync(db, setting), to: Care

  @doc "See `MaculaStorage.CubDB.Care.compact/2`."
  @spec compact(db, wait: boolean) :: :ok | {:ok, map} | {:error, :pending_compaction} | failure
  defdelegate compact(db, options \\ []), to: Care

  @doc "See `MaculaStorage.CubDB.Care.set_auto_compact/2`."
  @spec set_auto_compact(db, boolean | {non_neg_integer, number}) :: :ok
  defdelegate set_auto_compact(db, setting), to: Care

  @doc "See `MaculaStorage.CubDB.Care.halt_compaction/1`."
  @spec halt_compaction(db) :: :ok | {:error, :no_compaction_running}
  defdelegate halt_compaction(db), to: Care

  @doc "See `MaculaStorage.CubDB.Care.compacting?/1`."
  @spec compacting?(db) :: boolean
  defdelegate compacting?(db), to: Care

  @doc "See `MaculaStorage.CubDB.Care.dirt_factor/1`."
  @spec dirt_factor(db) :: float
  defdelegate dirt_factor(db), to: Care

  @doc "See `MaculaStorage.CubDB.Care.stats/1`."
  @spec stats(db) :: %{atom => number}
  defdelegate stats(db), to: Care

  @doc """
  Copies the store, as it is now, into the new directory `path`, which opens as a store by itself:
  `start_link(data_dir: path)`. Others write meanwhile.

  Errors: `{:error, :eexist}` when something is there, `:not_found` when the directory above is not,
  `:disk_full`, `:closed` (the store was closed meanwhile), or a `MaculaStorage.Error`. Then nothing is there.
  What a killed process was copying stays beside `path` as a hidden directory, `.macula-copy-*`.

  Durability: `:ok` means that the copy is synced. Cost: reads and writes everything that is live, on
  threads of ours; ends when the caller dies. An app is backed up whole by `MaculaBackup.backup_app/2`.

      iex> dir = Path.join(System.tmp_dir!(), "macula_back_up_doc_\#{System.pid()}")
      iex> MaculaStorage.CubDB.put(:back_up_doc, :a, 1)
      :ok
      iex> MaculaStorage.CubDB.back_up(:back_up_doc, dir)
      :ok
      iex> {:ok, copy} = MaculaStorage.CubDB.start_link(data_dir: dir)
      iex> MaculaStorage.CubDB.get(copy, :a)
      1
      iex> MaculaStorage.CubDB.stop(copy)
      :ok
      iex> File.rm_rf!(dir) |> is_list()
      true
  """
  @spec back_up(db, Path.t() | charlist) :: :ok | {:error, :eexist} | failure
  def back_up(db, path) do
    with {:ok, store} <- Server.store(db),
         do: Store.with_handle(store, &Store.back_up(&1, path, Store.name(store)))
  end

  @doc """
  Reads everything that is stored from the disk and compares it with its checksums, while others read
  and write.

  `{:ok, %{entries: n, blocks: n}}` says how many entries and blocks of 4,096 bytes were read and are
  good. What is damaged is `{:error, %MaculaStorage.Error{kind: :corrupt}}`, which names the place.

  Durability: nothing is written. Cost: reads the whole store on a thread of ours, and waits once for the
  writes before it; ends when the caller dies.

      iex> MaculaStorage.CubDB.put(:check_doc, :a, 1)
      :ok
      iex> {:ok, %{entries: 1}} = MaculaStorage.CubDB.check(:check_doc)
      iex> MaculaStorage.CubDB.size(:check_doc)
      1
  """
  @spec check(db) ::
          {:ok, %{entries: non_neg_integer, blocks: non_neg_integer}} | failure
  def check(db) do
    with {:ok, store} <- Server.store(db) do
      Store.with_handle(store, fn handle ->
        check = &Native.kv_check(handle, &1)
        Call.run(check, op: :check, app: Store.name(store), timeout: :infinity)
      end)
    end
  end

  @doc """
  Sends the calling process every change of a key, a prefix, a range or (without options) everything, as
  `{MaculaStorage.CubDB, ref, revision, changes}`: one message per write, in order. See
  `MaculaStorage.CubDB.Subscription` for the messages, and how to go on where another one ended.

  Options: `:key`, or those of `select/2` but `:reverse`; `:from`, a revision after which to begin (default:
  now). `{:error, :history_gone}` when the changes after it are not kept any more, see `:kv_history_bytes`
  in `MaculaStorage.Config`. The answer has the revision at which it begins.

  Durability: tells what others see. Cost: waits for a write that is being synced. Writers compare each key
  with each range (single keys are looked up), and leave a copy of up to 256 KiB; more is read from the log.

      iex> {:ok, ref, _revision} = MaculaStorage.CubDB.subscribe(:subscribe_doc, prefix: "user:")
      iex> MaculaStorage.CubDB.put_multi(:subscribe_doc, %{"user:1" => "Ada", "other" => 1})
      :ok
      iex> receive do {MaculaStorage.CubDB, ^ref, _revision, changes} -> changes end
      [{:put, "user:1", "Ada"}]
      iex> MaculaStorage.CubDB.unsubscribe(ref)
      :ok
  """
  @spec subscribe(db, [Subscription.option()]) ::
          {:ok, Subscription.ref(), non_neg_integer} | {:error, :history_gone} | failure
  def subscribe(db, options \\ []), do: Subscription.begin(Server.store(db), options)

  @doc "Ends a subscription; the caller's mailbox has no message of it afterwards. Again is fine. Cost: one dirty-I/O call."
  @spec unsubscribe(Subscription.ref()) :: :ok
  defdelegate unsubscribe(ref), to: Subscription, as: :stop

  @doc "The revision of the newest write, for `subscribe/2`. Cost: one dirty-I/O call."
  @spec revision(db) :: non_neg_integer
  def revision(db), do: ok!(with_source(db, :revision, &Native.kv_revision/1))

  defp write(db, op, ops, conditions \\ [], durability \\ nil) do
    with {:ok, store} <- Server.store(db), do: Store.write(store, op, ops, conditions, durability)
  end

  defp with_source(db, op, fun), do: Store.read!(Server.store!(db), op, fun)

  defp snapshot_handle!(db), do: ok!(with_source(db, :snapshot, &Native.kv_snapshot/1))

  defp ok!({:ok, value}), do: value
end
