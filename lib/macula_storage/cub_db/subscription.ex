defmodule MaculaStorage.CubDB.Subscription do
  @moduledoc """
  What a process is sent after `MaculaStorage.CubDB.subscribe/2`, with the `ref` that it answered:

  | message | meaning |
  |---|---|
  | `{MaculaStorage.CubDB, ref, revision, changes}` | one write: a batch or transaction, never a part of one |
  | `{MaculaStorage.CubDB, ref, :closed}` | the store was closed (or its app restored); the last message |
  | `{MaculaStorage.CubDB, ref, {:error, :history_gone}}` | too slow for what is kept, so some changes are missing; the last message |
  | `{MaculaStorage.CubDB, ref, {:error, reason}}` | the changes could not be read, the reason is a `MaculaStorage.Error`; the last message |

  `changes` is a list, never empty, in the order in which they were made:

    * `{:put, key, value}`, with the value as it was written, of whatever size, also when it was the same before
    * `{:delete, key}`, also when the key was not there
    * `{:expired, key}`, when the store freed an entry whose time to live was over: nobody read it any more
      from that time on, but what lies in memory only is freed after it was brought into the file, which may take
      half a minute
    * `:clear`, of all keys

  Only what is in the subscription's range is in the list; `:clear` is in every range. Other kinds may
  come with later versions: leave a last clause for them.

  Messages come in the order of revisions, which grow and have gaps. A write is told once it is seen by
  readers, after its sync (a write that asked for less, see `:durability`, is seen before). A failed
  write is never told.

  A subscription ends with `MaculaStorage.CubDB.unsubscribe/1`, with its process, or with its last message.
  It does not end when `ref` is forgotten.

  **Going on.** Whoever keeps the last `revision` that it was sent passes it as `:from` and misses nothing:
  after a crash of its own, or when the store was closed and opened. At least `:kv_history_bytes` of changes
  (see `MaculaStorage.Config`) are kept for that, while a store is open, and much of that when it is opened
  again; beyond is `{:error, :history_gone}`: then read the range anew. That is the answer too when power
  loss took back a revision that was seen but not synced, or a restore did. To read a range and follow it from that
  instant, take a snapshot first:

      iex> alias MaculaStorage.CubDB
      iex> CubDB.put(:follow_doc, :a, 1)
      :ok
      iex> {known, revision} =
      ...>   CubDB.with_snapshot(:follow_doc, fn snapshot ->
      ...>     {snapshot |> CubDB.Snapshot.select() |> Map.new(), CubDB.Snapshot.revision(snapshot)}
      ...>   end)
      iex> CubDB.put(:follow_doc, :b, 2)
      :ok
      iex> {:ok, ref, ^revision} = CubDB.subscribe(:follow_doc, from: revision)
      iex> receive do
      ...>   {CubDB, ^ref, _revision, [{:put, key, value}]} -> Map.put(known, key, value)
      ...> end
      %{a: 1, b: 2}

  What was sent waits in the process's mailbox, like any message: one that cannot keep up with the writes
  should subscribe to less.
  """

  alias MaculaStorage.CubDB.{Pages, Store, Terms}
  alias MaculaStorage.{Call, CubDB, Native, Options}

  @typedoc "Names the subscription in its messages."
  @type ref :: reference
  @type option ::
          {:key, CubDB.key()} | {:from, non_neg_integer} | CubDB.select_option()

  @revision_max 0xFFFF_FFFF_FFFF_FFFF

  @doc false
  def begin(store, options) do
    {min, max} = range!(options)
    from = from!(Keyword.get(options, :from))

    with {:ok, store} <- store,
         {:ok, {ref, revision}} <- begin(store, min, max, from),
         do: {:ok, ref, revision}
  end

  defp begin(store, min, max, from) do
    Store.with_handle(store, fn handle ->
      subscribe = &Native.kv_subscribe(handle, &1, min, max, from)
      Call.run(subscribe, op: :subscribe, app: Store.name(store))
    end)
  end

  @doc false
  def stop(ref) when is_reference(ref) do
    :ok = Native.kv_unsubscribe(ref)
    flush(ref)
  end

  defp flush(ref) do
    receive do
      {CubDB, ^ref, _revision, _changes} -> flush(ref)
      {CubDB, ^ref, _last} -> flush(ref)
    after
      0 -> :ok
    end
  end

  defp range!(options) do
    known = [key: {:none, :any}, from: {nil, :any}] ++ Pages.range_options()
    Options.validate!(options, known)

    case Keyword.pop(Keyword.delete(options, :from), :key, {:none}) do
      {{:none}, range} ->
        {min, max, _reverse} = Pages.bounds!(range)
        {min, max}

      {key, []} ->
        exact = [{:exact, Terms.key(key)}]
        {exact, exact}

      {_key, others} ->
        raise ArgumentError,
              "expected option :key to stand alone, got also: #{inspect(Keyword.keys(others))}"
    end
  end

  defp from!(from) when from == nil or from in 0..@revision_max//1, do: from

  defp from!(other) do
    raise ArgumentError,
          "expected option :from to be a revision, got: #{inspect(other, limit: 5)}"
  end
end
