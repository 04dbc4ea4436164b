defmodule MaculaStorage.Mnesia.Syncer do
  @moduledoc false
  # Brings mnesia's log of this node to the disk for those who wait for it: all who came while one sync ran
  # share the next. Mnesia itself syncs at no commit, not at one of `sync_transaction` either.
  #
  # Invariant: a caller is answered by a sync that began after it asked. After a sync that failed, all are
  # told so until mnesia was started anew.

  use GenServer

  alias MaculaStorage.Config

  @doc false
  def start_link(_options), do: GenServer.start_link(__MODULE__, nil, name: __MODULE__)

  @doc "The log of each of these nodes is on its disk; `:unknown_result` when one did not say so."
  @spec sync([node]) :: :ok | {:error, :unknown_result | :poisoned}
  def sync([]), do: :ok

  def sync([only]) when only == node() do
    GenServer.call(__MODULE__, :sync, Config.get().timeout_ms)
  catch
    :exit, _ -> {:error, :unknown_result}
  end

  def sync(nodes) do
    {answers, silent} = GenServer.multi_call(nodes, __MODULE__, :sync, Config.get().timeout_ms)

    # A node that is down holds nothing that a reader could see: the others' disks decide.
    gone = silent -- :mnesia.system_info(:running_db_nodes)

    cond do
      silent -- gone != [] or answers == [] -> {:error, :unknown_result}
      Enum.all?(answers, &match?({_, :ok}, &1)) -> :ok
      true -> answers |> Enum.find(&(elem(&1, 1) != :ok)) |> elem(1)
    end
  end

  @doc "Whether a sync failed since mnesia was started."
  @spec poisoned?() :: boolean
  def poisoned?, do: GenServer.call(__MODULE__, :poisoned?)

  @impl true
  def init(nil), do: {:ok, nil}

  # `failed` is the mnesia whose log could not be synced
  @impl true
  def handle_call(:sync, from, failed) do
    waiting = [from | others()]
    mnesia = Process.whereis(:mnesia_sup)

    result =
      cond do
        mnesia == nil -> {:error, :unknown_result}
        mnesia == failed -> {:error, :poisoned}
        true -> sync_log()
      end

    Enum.each(waiting, &GenServer.reply(&1, result))
    {:noreply, if(result == {:error, :unknown_result}, do: mnesia, else: failed)}
  end

  def handle_call(:poisoned?, _from, failed),
    do: {:reply, failed != nil and failed == Process.whereis(:mnesia_sup), failed}

  @impl true
  def handle_info(_message, failed), do: {:noreply, failed}

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
