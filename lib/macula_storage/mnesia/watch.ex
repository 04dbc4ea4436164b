defmodule MaculaStorage.Mnesia.Watch do
  @moduledoc false
  # Listens to mnesia's own events and tells the subscribers of `MaculaStorage.Mnesia.subscribe/0`.
  #
  # Invariant: what is known of a split is what mnesia said or what the nodes show now, never a memory alone:
  # an event may have come before we listened, or never, when the split was found by a node that starts.

  use GenServer

  require Logger

  alias MaculaStorage.Mnesia.Local

  @subscribers __MODULE__.Subscribers

  @doc false
  @spec subscribers() :: atom
  def subscribers, do: @subscribers

  @doc false
  def start_link(_options), do: GenServer.start_link(__MODULE__, nil, name: __MODULE__)

  @doc "Begins to listen to a mnesia that was just started, again too."
  @spec watch() :: :ok
  def watch, do: GenServer.call(__MODULE__, :watch, :infinity)

  @doc "Subscribes the caller; the registry outlives this process."
  @spec subscribe() :: {:ok, reference}
  def subscribe do
    ref = make_ref()
    {:ok, _registry} = Registry.register(@subscribers, :events, ref)
    {:ok, ref}
  end

  @doc false
  @spec unsubscribe(reference) :: :ok
  def unsubscribe(ref), do: Registry.unregister_match(@subscribers, :events, ref)

  @impl true
  def init(nil) do
    # mnesia links itself to who listens
    Process.flag(:trap_exit, true)
    {:ok, %{inconsistent: [], mnesia: nil}, {:continue, :watch}}
  end

  # after a crash of ours mnesia is still running
  @impl true
  def handle_continue(:watch, state), do: {:noreply, listen(state)}

  @impl true
  def handle_call(:watch, _from, state), do: {:reply, :ok, listen(state)}

  @impl true
  def handle_info({:mnesia_system_event, event}, state), do: {:noreply, event(event, state)}

  def handle_info({:DOWN, ref, :process, _pid, _reason}, %{mnesia: {ref, _}} = state),
    do: {:noreply, tell(%{state | mnesia: nil}, :stopped)}

  def handle_info(_message, state), do: {:noreply, state}

  defp event({:inconsistent_database, context, node}, state), do: split(state, node, context)
  defp event({:mnesia_up, node}, state), do: state |> tell({:node_up, node}) |> healed(node)
  defp event({:mnesia_down, node}, state), do: tell(state, {:node_down, node})

  defp event({:mnesia_fatal, format, args, _core}, state),
    do: tell(state, {:fatal, format |> :io_lib.format(args) |> IO.chardata_to_string()})

  defp event({:mnesia_overload, details}, state), do: tell(state, {:overload, details})
  defp event(_told_to_the_log_by_mnesia, state), do: state

  defp split(state, node, context) do
    if node in state.inconsistent do
      state
    else
      Logger.error(
        "mnesia: this node and another wrote apart from each other and hold different data; " <>
          "they do not talk until MaculaStorage.Mnesia.resolve/1 (docs/operations.md) " <>
          "node=#{node} context=#{context}"
      )

      tell(
        %{state | inconsistent: [node | state.inconsistent]},
        {:inconsistent_database, node, context}
      )
    end
  end

  defp healed(state, node) do
    if node in state.inconsistent do
      Logger.info("mnesia: in step again node=#{node}")
      tell(%{state | inconsistent: List.delete(state.inconsistent, node)}, {:consistent, node})
    else
      state
    end
  end

  defp listen(state) do
    case {Process.whereis(:mnesia_sup), state.mnesia} do
      {nil, _} ->
        state

      {pid, {_ref, pid}} ->
        look(state)

      {pid, _other} ->
        # another time is an error that does no harm
        _ = :mnesia.subscribe(:system)
        look(%{state | mnesia: {Process.monitor(pid), pid}})
    end
  end

  defp look(state) do
    if Local.running() == :yes do
      split = Local.split_from()
      state = Enum.reduce(state.inconsistent -- split, state, &healed(&2, &1))
      Enum.reduce(split -- state.inconsistent, state, &split(&2, &1, :found))
    else
      state
    end
  end

  defp tell(state, event) do
    Registry.dispatch(@subscribers, :events, fn entries ->
      for {pid, ref} <- entries, do: send(pid, {MaculaStorage.Mnesia, ref, event})
    end)

    state
  end
end
