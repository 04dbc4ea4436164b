defmodule MaculaStorage.Khepri.Watches do
  @moduledoc false
  # Starts and ends the feeders of watches (MaculaStorage.Khepri.Watch), one each.
  #
  # Invariant: whoever watches is told of the end of it, also when its feeder is killed; after `stop/1` no
  # message of that watch comes.

  use GenServer

  alias MaculaStorage.{Apps, Khepri, Options}
  alias MaculaStorage.Khepri.{Watch, Wire}

  @begin_ms 65_000
  @revision {nil, :any}

  def start_link(_options), do: GenServer.start_link(__MODULE__, nil, name: __MODULE__)

  @doc false
  @spec watch(term, keyword) :: {:ok, reference, non_neg_integer} | {:error, term}
  def watch(pattern, options) do
    %{from: from} = Options.validate!(options, from: @revision)
    wire = Wire.watched_pattern!(pattern)

    unless from == nil or from in 0..0x7FFF_FFFF_FFFF_FFFF//1,
      do: raise(ArgumentError, "expected from: to be a revision, got: #{inspect(from)}")

    # opened here: this server waits for no disk
    with {:ok, _state} <- Apps.with_state(&{:ok, &1}), do: call({:watch, self(), wire, from})
  end

  @doc false
  @spec stop(reference) :: :ok
  def stop(ref) when is_reference(ref) do
    _ = call({:stop, ref})
    flush(ref)
  end

  defp flush(ref) do
    receive do
      {Khepri, ^ref, _} -> flush(ref)
      {Khepri, ^ref, _, _} -> flush(ref)
    after
      0 -> :ok
    end
  end

  defp call(request) do
    GenServer.call(__MODULE__, request, @begin_ms)
  catch
    :exit, {:timeout, _} -> {:error, :timeout}
    # not running, or stopped while it was asked
    :exit, _ -> {:error, :closed}
  end

  @impl true
  def init(nil) do
    Process.flag(:trap_exit, true)
    {:ok, %{feeders: %{}, refs: %{}}}
  end

  @impl true
  def handle_call({:watch, owner, wire, from}, caller, state) do
    ref = make_ref()
    {:ok, pid} = Watch.start_link({owner, ref, wire, from, caller})
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
        ended(feeder, reason)
        {:noreply, %{state | feeders: feeders, refs: Map.delete(state.refs, feeder.ref)}}
    end
  end

  def handle_info(_message, state), do: {:noreply, state}

  # it said its last word itself
  defp ended(%{stopping: []}, reason) when reason in [:normal, :shutdown], do: :ok

  defp ended(%{stopping: []} = feeder, _reason) do
    # of use to a caller that still waits only
    GenServer.reply(feeder.caller, {:error, :closed})
    send(feeder.owner, {Khepri, feeder.ref, :closed})
  end

  defp ended(feeder, _reason), do: Enum.each(feeder.stopping, &GenServer.reply(&1, :ok))
end
