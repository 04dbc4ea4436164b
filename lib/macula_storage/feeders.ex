defmodule MaculaStorage.Feeders do
  @moduledoc false
  # Starts and ends processes that each feed one other with messages `{tag, ref, ...}`, and are told apart by `ref`.
  #
  # Invariant: whoever is fed is told of the end of it, also when its feeder is killed; after `stop/2` no message of that
  # feeder comes. Nothing is waited for here.

  use GenServer

  @begin_ms 65_000

  @doc false
  # `feeder` has `start_link({owner, ref, argument, caller})`, and replies to `caller` when it has begun.
  def start_link(name, tag, feeder),
    do: GenServer.start_link(__MODULE__, {tag, feeder}, name: name)

  @doc "Feeds the calling process."
  @spec begin(module, term) :: term
  def begin(name, argument), do: call(name, {:begin, self(), argument})

  @doc "Ends that; what was sent to the caller already is taken out of its mailbox. Again is fine."
  @spec stop(module, module, reference) :: :ok
  def stop(name, tag, ref) when is_reference(ref) do
    _ = call(name, {:stop, ref})
    flush(tag, ref)
  end

  defp flush(tag, ref) do
    receive do
      {^tag, ^ref, _} -> flush(tag, ref)
      {^tag, ^ref, _, _} -> flush(tag, ref)
    after
      0 -> :ok
    end
  end

  defp call(name, request) do
    GenServer.call(name, request, @begin_ms)
  catch
    :exit, {:timeout, _} -> {:error, :timeout}
    # not running, or stopped while it was asked
    :exit, _ -> {:error, :closed}
  end

  @impl true
  def init({tag, feeder}) do
    Process.flag(:trap_exit, true)
    {:ok, %{tag: tag, feeder: feeder, feeders: %{}, refs: %{}}}
  end

  @impl true
  def handle_call({:begin, owner, argument}, caller, state) do
    ref = make_ref()
    {:ok, pid} = state.feeder.start_link({owner, ref, argument, caller})
    feeder = %{ref: ref, owner: owner, caller: caller, stopping: []}
    state = %{state | feeders: Map.put(state.feeders, pid, feeder)}
    {:noreply, %{state | refs: Map.put(state.refs, ref, pid)}}
  end

  def handle_call({:stop, ref}, from, state) do
    case state.refs do
      %{^ref => pid} ->
        # it may be in a call that takes a while; there is nothing that it should end well
        Process.exit(pid, :kill)
        feeders = Map.update!(state.feeders, pid, &%{&1 | stopping: [from | &1.stopping]})
        {:noreply, %{state | feeders: feeders}}

      %{} ->
        {:reply, :ok, state}
    end
  end

  @impl true
  def handle_info({:EXIT, pid, reason}, state) do
    case Map.pop(state.feeders, pid) do
      {nil, _} ->
        {:noreply, state}

      {feeder, feeders} ->
        ended(feeder, reason, state.tag)
        {:noreply, %{state | feeders: feeders, refs: Map.delete(state.refs, feeder.ref)}}
    end
  end

  def handle_info(_message, state), do: {:noreply, state}

  # it said its last word itself
  defp ended(%{stopping: []}, reason, _tag) when reason in [:normal, :shutdown], do: :ok

  defp ended(%{stopping: []} = feeder, _reason, tag) do
    # of use to a caller that still waits only
    GenServer.reply(feeder.caller, {:error, :closed})
    send(feeder.owner, {tag, feeder.ref, :closed})
  end

  defp ended(feeder, _reason, _tag), do: Enum.each(feeder.stopping, &GenServer.reply(&1, :ok))
end
