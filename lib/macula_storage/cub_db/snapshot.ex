defmodule MaculaStorage.CubDB.Snapshot do
  @moduledoc """
  One instant of a store, for reading while writers go on. Taken by `MaculaStorage.CubDB.snapshot/2`
  or `with_snapshot/2`; once it ended `back_up/2` answers `{:error, :closed}`, and every other function
  raises a `MaculaStorage.Error` of that kind.

      iex> MaculaStorage.CubDB.put(:snapshot_doc, :a, 1)
      :ok
      iex> MaculaStorage.CubDB.with_snapshot(:snapshot_doc, fn snapshot ->
      ...>   :ok = MaculaStorage.CubDB.put(:snapshot_doc, :a, 2)
      ...>   MaculaStorage.CubDB.Snapshot.get(snapshot, :a)
      ...> end)
      1
  """

  alias MaculaStorage.CubDB.{Pages, Store}
  alias MaculaStorage.{Error, Native}

  @enforce_keys [:handle, :app]
  defstruct @enforce_keys

  @opaque t :: %__MODULE__{handle: reference, app: String.t()}

  @doc "The value of a key, or `default`. Cost: one dirty-I/O call."
  @spec get(t, term, term) :: term
  def get(snapshot, key, default \\ nil) do
    case fetch(snapshot, key) do
      {:ok, value} -> value
      :error -> default
    end
  end

  @doc "`{:ok, value}` of a key, or `:error`. Cost: one dirty-I/O call."
  @spec fetch(t, term) :: {:ok, term} | :error
  def fetch(snapshot, key), do: answer!(Pages.fetch(snapshot.handle, key), snapshot)

  @doc "Whether a key is there. Cost: one dirty-I/O call."
  @spec has_key?(t, term) :: boolean
  def has_key?(snapshot, key) do
    {:ok, there?} = answer!(Pages.has_key?(snapshot.handle, key), snapshot)
    there?
  end

  @doc "As `MaculaStorage.CubDB.ttl/2`: an entry that expires is gone from snapshots too. Cost: one dirty-I/O call."
  @spec ttl(t, term) :: {:ok, pos_integer | :infinity} | :error
  def ttl(snapshot, key), do: answer!(Pages.ttl(snapshot.handle, key), snapshot)

  @doc "A map of those of `keys` that are there. Cost: one dirty-I/O call."
  @spec get_multi(t, [term]) :: map
  def get_multi(snapshot, keys) do
    {:ok, found} = answer!(Pages.get_multi(snapshot.handle, keys), snapshot)
    found
  end

  @doc "How many entries there are. Cost: as `MaculaStorage.CubDB.size/1`."
  @spec size(t) :: non_neg_integer
  def size(snapshot) do
    {:ok, size} = answer!(Pages.size(snapshot.handle), snapshot)
    size
  end

  @doc "As `MaculaStorage.CubDB.count/2`, of this instant."
  @spec count(t, [MaculaStorage.CubDB.select_option()]) :: non_neg_integer
  def count(snapshot, options \\ []) do
    {:ok, count} = answer!(Pages.count(snapshot.handle, Pages.bounds!(options)), snapshot)
    count
  end

  @doc "As `MaculaStorage.CubDB.select/2`, of this instant."
  @spec select(t, [MaculaStorage.CubDB.select_option()]) :: Enumerable.t()
  def select(snapshot, options \\ []),
    do: Pages.stream_of(snapshot.handle, Pages.bounds!(options))

  @doc "The revision that it shows, for `MaculaStorage.CubDB.subscribe/2`. Cost: one dirty-I/O call."
  @spec revision(t) :: non_neg_integer
  def revision(snapshot) do
    {:ok, revision} = answer!(Native.kv_revision(snapshot.handle), snapshot)
    revision
  end

  @doc """
  As `MaculaStorage.CubDB.back_up/2`, of this instant. A snapshot whose time ends meanwhile is kept until
  the copy is made.
  """
  @spec back_up(t, Path.t() | charlist) :: :ok | {:error, :eexist | atom | Error.t()}
  def back_up(snapshot, path), do: Store.back_up(snapshot.handle, path, snapshot.app)

  defp answer!({:error, _} = error, snapshot) do
    {:error, reason} = Error.wrap(error, :snapshot, snapshot.app)
    Error.raise!(reason, :snapshot, snapshot.app)
  end

  defp answer!(answer, _snapshot), do: answer
end
