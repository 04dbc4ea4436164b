defmodule MaculaStorage.Khepri.Watch do
  @moduledoc false
  # The feeder of one watch: reads the state's history page by page and sends it to whoever watches.
  #
  # Invariant: each revision is sent once, whole and in order. Nothing is read while more than a little of
  # what was sent may lie unread in the mailbox, so that a slow owner holds no more than that; the history is
  # what it falls behind in the end.

  use GenServer, restart: :temporary

  alias MaculaStorage.{Apps, Error, Khepri, Native}
  alias MaculaStorage.Khepri.{Engine, Wire}

  # what may lie unread in the owner's mailbox before the next page
  @unread_bytes 1_048_576
  @unread_len 1_000
  @pause_ms 5
  @pause_ms_max 100
  @event_bytes 64
  # a member that is asked by a client waits so long for the first event
  @client_wait_ms 5_000
  @kinds %{put: :put, delete: :deleted, expired: :expired}

  def start_link(arguments), do: GenServer.start_link(__MODULE__, arguments)

  @impl true
  def init({owner, ref, {wire, from}, caller}) do
    # so that the owner is told when the application stops
    Process.flag(:trap_exit, true)
    Process.monitor(owner)
    state = %{owner: owner, ref: ref, watch: nil, sent: [], pause_ms: @pause_ms, waits: false}
    {:ok, state, {:continue, {:begin, wire, from, caller}}}
  end

  @impl true
  def handle_continue({:begin, wire, from, caller}, state) do
    case begin(wire, from) do
      {:ok, {watch, revision}} ->
        GenServer.reply(caller, {:ok, state.ref, revision})
        read(%{state | watch: watch})

      failure ->
        GenServer.reply(caller, failure)
        {:stop, :normal, state}
    end
  end

  def handle_continue(:read, state), do: read(state)

  @impl true
  def handle_info(:state_changed, %{waits: true} = state), do: {:noreply, state}
  def handle_info(:state_changed, state), do: read(state)
  def handle_info(:again, state), do: read(%{state | waits: false})
  def handle_info({:DOWN, _, :process, _owner, _}, state), do: {:stop, :normal, state}

  def handle_info({ref, answer}, %{watch: {:client, wire, behind, ref}} = state) do
    case Error.wrap_result(answer, :watch, nil) do
      {:ok, {_, through, _} = page} ->
        given({:ok, page}, %{state | watch: {:client, wire, max(through, behind), nil}})

      # no member was there to ask
      {:error, :timeout} ->
        {:noreply, %{state | watch: {:client, wire, behind, nil}}, {:continue, :read}}

      failure ->
        given(failure, state)
    end
  end

  def handle_info(_message, state), do: {:noreply, state}

  @impl true
  def terminate(reason, state) do
    # otherwise it was told why, or MaculaStorage.Feeders tells it
    if reason == :shutdown, do: tell(state, :closed)
  end

  defp read(state) do
    case Process.info(state.owner, :message_queue_len) do
      nil ->
        {:stop, :normal, state}

      {_, len} ->
        state = %{state | sent: Enum.take(state.sent, len)}
        if full?(state.sent), do: wait(state), else: page(%{state | pause_ms: @pause_ms})
    end
  end

  # other messages count as ours: more than there is, never less
  defp full?(sent), do: length(sent) >= @unread_len or Enum.sum(sent) >= @unread_bytes

  defp wait(state) do
    Process.send_after(self(), :again, state.pause_ms)
    {:noreply, %{state | waits: true, pause_ms: min(state.pause_ms * 2, @pause_ms_max)}}
  end

  # a client asks a member, and reads on when it has answered
  defp page(%{watch: {:client, wire, behind, nil}} = state) do
    ref = make_ref()
    ask = &Native.state_client_watch(&1, ref, wire, behind, @client_wait_ms)

    case Apps.with_state(ask) do
      {:ok, _call} -> {:noreply, %{state | watch: {:client, wire, behind, ref}}}
      failure -> given(failure, state)
    end
  end

  # it is asked already
  defp page(%{watch: {:client, _, _, _}} = state), do: {:noreply, state}
  defp page(state), do: state |> next() |> given(state)

  defp given(page, state) do
    case page do
      {:ok, {events, _through, more}} ->
        state = events |> Enum.chunk_by(&elem(&1, 0)) |> Enum.reduce(state, &deliver/2)

        if more or asks?(state),
          do: {:noreply, state, {:continue, :read}},
          else: {:noreply, state}

      {:error, :history_gone} ->
        tell(state, :history_gone)
        {:stop, :normal, state}

      {:error, _closed_or_failed} ->
        tell(state, :closed)
        {:stop, :normal, state}
    end
  end

  defp asks?(%{watch: {:client, _, _, _}}), do: true
  defp asks?(_state), do: false

  defp begin(wire, from) do
    if Engine.client?(),
      do: begin_asking(wire, from),
      else: Apps.with_state(&Error.wrap_result(Native.state_watch(&1, wire, from), :watch, nil))
  end

  defp begin_asking(wire, from) do
    with {:ok, %{revision: now, history_first: first}} <-
           Engine.query(:status, %{consistency: :linearizable, timeout: @client_wait_ms}) do
      behind = from || now

      if behind + 1 < first,
        do: {:error, :history_gone},
        else: {:ok, {{:client, wire, behind, nil}, behind}}
    end
  end

  # what has just happened is in memory; a dirty scheduler that is woken for it spins behind it, on every node
  defp next(%{watch: watch}) do
    with :cold <- Native.state_watch_next_hot(watch), do: Native.state_watch_next(watch)
  end

  defp deliver([{revision, _, _, _, _, _} | _] = events, state) do
    bytes = events |> Enum.map(&bytes/1) |> Enum.sum()
    send(state.owner, {Khepri, state.ref, revision, Enum.map(events, &event/1)})
    %{state | sent: [bytes | state.sent]}
  end

  defp bytes({_, _, path, value, _, _}), do: IO.iodata_length([path, value || []]) + @event_bytes

  defp event({_revision, kind, path, value, version, _created}) do
    value = if value, do: Wire.term(value)
    %{kind: Map.fetch!(@kinds, kind), path: Wire.path(path), value: value, version: version}
  end

  defp tell(state, what), do: send(state.owner, {Khepri, state.ref, what})
end
