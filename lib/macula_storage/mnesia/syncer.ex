defmodule MaculaStorage.Mnesia.Syncer do
  @moduledoc false
  # Brings mnesia's log of this node to the disk for those who wait for it: all who came while one sync ran
  # share the next. Mnesia itself syncs at no commit, not at one of `sync_transaction` either.
  #
  # Invariant: a caller is answered by a sync that began after it asked. After a sync that failed, nothing
  # is written until mnesia was started anew.

  use GenServer

  alias MaculaStorage.Config

  @doc false
  def start_link(_options), do: GenServer.start_link(__MODULE__, nil, name: __MODULE__)

  @doc "Whether a write may begin: nothing is committed that cannot become durable."
  @spec ready() :: :ok | {:error, :poisoned | :closed}
  def ready do
    cond do
      poisoned?() -> {:error, :poisoned}
      Process.whereis(__MODULE__) == nil -> {:error, :closed}
      true -> :ok
    end
  end

  @doc "Whether a sync failed since mnesia was started."
  @spec poisoned?() :: boolean
  def poisoned? do
    failed = :persistent_term.get(__MODULE__, nil)
    failed != nil and failed == Process.whereis(:mnesia_sup)
  end

  @doc "The log of each of these nodes is on its disk; `:unknown_result` when one did not say so."
  @spec sync([node]) :: :ok | {:error, :unknown_result}
  def sync([]), do: :ok

  def sync([only]) when only == node() do
    GenServer.call(__MODULE__, :sync, Config.get().timeout_ms)
  catch
    :exit, _ -> {:error, :unknown_result}
  end

  def sync(nodes) do
    {answers, silent} = GenServer.multi_call(nodes, __MODULE__, :sync, Config.get().timeout_ms)

    # A node that is down holds nothing that a reader could see: the others' disks decide.
    still_there = for node <- silent, node in :mnesia.system_info(:running_db_nodes), do: node

    if still_there == [] and answers != [] and Enum.all?(answers, &match?({_, :ok}, &1)),
      do: :ok,
      else: {:error, :unknown_result}
  end

  @impl true
  def init(nil), do: {:ok, nil}

  @impl true
  def handle_call(:sync, from, nil) do
    waiting = [from | others()]
    mnesia = Process.whereis(:mnesia_sup)
    result = if poisoned?(), do: {:error, :unknown_result}, else: sync_log()

    # That mnesia's log is not to be trusted any more. Kept where a crash of this process does not lose it.
    if result != :ok and mnesia != nil, do: :persistent_term.put(__MODULE__, mnesia)
    Enum.each(waiting, &GenServer.reply(&1, result))
    {:noreply, nil}
  end

  @impl true
  def handle_info(_message, nil), do: {:noreply, nil}

  defp others do
    receive do
      {:"$gen_call", from, :sync} -> [from | others()]
    after
      0 -> []
    end
  end

  # While mnesia empties its log into the tables, the part that is emptied has another name and is not synced
  # by sync_log. When it is gone, the tables' files were synced before.
  defp sync_log do
    with :ok <- :mnesia.sync_log(), :ok <- sync_previous() do
      :ok
    else
      _failed -> {:error, :unknown_result}
    end
  catch
    :exit, _ -> {:error, :unknown_result}
  end

  defp sync_previous do
    path = Path.join(:mnesia.system_info(:directory), "PREVIOUS.LOG")

    case :file.open(path, [:read, :raw]) do
      {:ok, file} ->
        result = :file.datasync(file)
        :file.close(file)
        result

      {:error, :enoent} ->
        :ok

      {:error, _} = error ->
        error
    end
  end
end
