defmodule MaculaStorage.MeshFS.Feed do
  @moduledoc false
  # The feeder of one subscription: reads the short queue that Rust has for it and sends its events to whoever
  # subscribed.
  #
  # Invariant: events are sent in order, and what is missing among them is told in its place. No more is read while the
  # owner leaves many unread, so that a slow owner holds no more than those; the queue is what it falls behind then.

  use GenServer, restart: :temporary

  alias MaculaStorage.{Apps, Error, MeshFS, Native}

  # what may lie unread in the owner's mailbox before the next page
  @unread_max 1_000
  @pause_ms 5
  @pause_ms_max 100

  def start_link(arguments), do: GenServer.start_link(__MODULE__, arguments)

  @impl true
  def init({owner, ref, wish, caller}) do
    # so that the owner is told when the application stops
    Process.flag(:trap_exit, true)
    Process.monitor(owner)
    state = %{owner: owner, ref: ref, listening: nil, sent: 0, pause_ms: @pause_ms, waits: false}
    {:ok, state, {:continue, {:begin, wish, caller}}}
  end

  @impl true
  def handle_continue({:begin, {app, prefix, kinds}, caller}, state) do
    listen = &Error.wrap_result(Native.mesh_listen(&1, app, prefix, kinds), :subscribe, app)

    case Apps.with_mesh(listen) do
      {:ok, listening} ->
        GenServer.reply(caller, {:ok, state.ref})
        read(%{state | listening: listening})

      failure ->
        GenServer.reply(caller, failure)
        {:stop, :normal, state}
    end
  end

  def handle_continue(:read, state), do: read(state)

  @impl true
  def handle_info(:mesh_events, %{waits: true} = state), do: {:noreply, state}
  def handle_info(:mesh_events, state), do: read(state)
  def handle_info(:again, state), do: read(%{state | waits: false})
  def handle_info({:DOWN, _, :process, _owner, _}, state), do: {:stop, :normal, state}
  def handle_info(_message, state), do: {:noreply, state}

  @impl true
  def terminate(reason, state) do
    # otherwise it was told, or MaculaStorage.Feeders tells it
    if reason == :shutdown, do: tell(state, :closed)
  end

  defp read(state) do
    case Process.info(state.owner, :message_queue_len) do
      nil ->
        {:stop, :normal, state}

      {_, len} ->
        # other messages count as ours: more than there is, never less
        state = %{state | sent: min(state.sent, len)}
        if state.sent >= @unread_max, do: wait(state), else: page(%{state | pause_ms: @pause_ms})
    end
  end

  defp wait(state) do
    Process.send_after(self(), :again, state.pause_ms)
    {:noreply, %{state | waits: true, pause_ms: min(state.pause_ms * 2, @pause_ms_max)}}
  end

  defp page(state) do
    {:ok, {events, missed, more?, over?}} = Native.mesh_listen_next(state.listening)
    for event <- events, do: tell(state, event(event))
    if missed > 0, do: tell(state, {:missed, missed})
    if over?, do: tell(state, :closed)
    state = %{state | sent: state.sent + length(events)}

    cond do
      over? -> {:stop, :normal, state}
      more? -> {:noreply, state, {:continue, :read}}
      true -> {:noreply, state}
    end
  end

  defp event({:conflict, name, winner, loser}),
    do: %{kind: :conflict, name: name, winner: winner, loser: loser}

  defp event({:changed, name, version, size, here?}),
    do: %{kind: :changed, name: name, version: version, size: size, here: here?}

  defp event({:deleted, name, version}), do: %{kind: :deleted, name: name, version: version}
  defp event({kind, name}), do: %{kind: kind, name: name}

  defp tell(state, what), do: send(state.owner, {MeshFS, state.ref, what})
end
