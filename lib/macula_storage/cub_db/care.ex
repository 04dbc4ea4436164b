defmodule MaculaStorage.CubDB.Care do
  @moduledoc """
  What a store is asked for beside its entries: syncs, compaction, figures. `MaculaStorage.CubDB` has all
  of these functions too; there they are called.
  """

  alias MaculaStorage.CubDB.{Server, Store}
  alias MaculaStorage.{CubDB, Native, Options}

  @doc """
  Returns when everything written before is synced, also what was written with `durability: :async` or
  `:none`.

  Durability: `:ok` means synced. Errors as those of writes. Cost: waits for what was queued before; one
  sync, shared with writers that come together.
  """
  @spec file_sync(CubDB.db()) :: :ok | CubDB.failure()
  def file_sync(db) do
    with {:ok, store} <- Server.store(db), do: Store.call(store, :file_sync, &Native.kv_sync/2)
  end

  @doc """
  Whether each write that does not say is synced before it is answered (`true`, the default), or never
  by itself (`false`: as `durability: :none`; see `file_sync/1`). It holds until the store is closed.

  Durability: nothing is written. Cost: no access to the disk.
  """
  @spec set_auto_file_sync(CubDB.db(), boolean) :: :ok
  def set_auto_file_sync(db, setting) when is_boolean(setting) do
    durability = if setting, do: :sync, else: :none
    with_source(db, :set_auto_file_sync, &Native.kv_set_durability(&1, durability))
  end

  @doc """
  Begins to rewrite the store's file as small as it can be, and returns; reads and writes go on.

  A store does that by itself, see `set_auto_compact/2`. `wait: true` returns when it is done, with
  `{:ok, %{bytes_before: n, bytes_after: n}}`.

  Errors: `{:error, :pending_compaction}` when one is running; with `wait: true` also `:cancelled`
  (`halt_compaction/1`), `:disk_full`, `:closed`, `:busy` when more is written meanwhile than it can
  catch up with: the store is as before.

  Durability: the new file is durable before it takes the old one's place. Cost: reads and writes all that
  is live, on a thread of ours. Snapshots that are held keep the old file's room until they end.

      iex> MaculaStorage.CubDB.put(:compact_doc, :a, 1)
      :ok
      iex> {:ok, %{bytes_after: _}} = MaculaStorage.CubDB.compact(:compact_doc, wait: true)
      iex> MaculaStorage.CubDB.get(:compact_doc, :a)
      1
  """
  @spec compact(CubDB.db(), wait: boolean) ::
          :ok | {:ok, map} | {:error, :pending_compaction} | CubDB.failure()
  def compact(db, options \\ []) do
    %{wait: wait?} = Options.validate!(options, wait: {false, :boolean})

    begun =
      if wait? do
        with {:ok, store} <- Server.store(db),
             do: Store.call(store, :compact, &Native.kv_compact/2, :infinity)
      else
        with {:ok, store} <- Server.store(db),
             do: Store.with_handle(store, &Native.kv_compact_later/1)
      end

    with {:error, :conflict} <- begun, do: {:error, :pending_compaction}
  end

  @doc """
  When the store compacts by itself: `true` (the default: after 1,000 changes and an eighth of its
  entries, when 40 % of the file would come back, and more than such writes take again), `false`
  (never) or `{changes, dirt_factor}`.

  Durability: nothing is written. Cost: no access to the disk. It holds until the store is closed.
  """
  @spec set_auto_compact(CubDB.db(), boolean | {non_neg_integer, number}) :: :ok
  def set_auto_compact(db, setting) do
    Server.auto_compact!(setting)
    with_source(db, :set_auto_compact, &Native.kv_set_auto_compact(&1, Server.auto(setting)))
  end

  @doc "Ends a compaction: `:ok`, or `{:error, :no_compaction_running}`. The store is as before. Cost: none."
  @spec halt_compaction(CubDB.db()) :: :ok | {:error, :no_compaction_running}
  def halt_compaction(db) do
    if ok!(with_source(db, :halt_compaction, &Native.kv_halt_compaction/1)),
      do: :ok,
      else: {:error, :no_compaction_running}
  end

  @doc "Whether a compaction runs. Cost: no access to the disk."
  @spec compacting?(CubDB.db()) :: boolean
  def compacting?(db), do: ok!(with_source(db, :compacting?, &Native.kv_is_compacting/1))

  @doc "The share of the file that `compact/2` could give back, 0.0 to 1.0. Cost: no access to the disk."
  @spec dirt_factor(CubDB.db()) :: float
  def dirt_factor(db), do: stats(db).dirt_factor

  @doc """
  Figures about the store, a map: `:revision` (of the newest write), `:live_bytes` (keys and values in
  the file), `:file_bytes`, `:log_bytes`, `:memory_bytes` (written and not yet in the file),
  `:cache_bytes`, `:dirt_factor`, `:writes_since_compaction`; since it was opened `:groups` (of writes that
  shared a sync), `:batches` (in them), `:syncs`, `:synced_ns`, `:synced_ns_max`, `:drains` (commits into
  the file), `:drained_ns_max`, `:cache_hits`, `:cache_misses` (gets that memory could or could not
  answer), `:blocks_read`.

  Durability: nothing is written. Cost: no access to the disk.

      iex> MaculaStorage.CubDB.put(:stats_doc, :a, 1)
      :ok
      iex> MaculaStorage.CubDB.stats(:stats_doc).batches
      1
  """
  @spec stats(CubDB.db()) :: %{atom => number}
  def stats(db), do: ok!(with_source(db, :stats, &Native.kv_stats/1))

  defp with_source(db, op, fun), do: Store.read!(Server.store!(db), op, fun)

  defp ok!({:ok, value}), do: value
end
