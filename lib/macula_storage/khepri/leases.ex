defmodule MaculaStorage.Khepri.Leases do
  @moduledoc false
  # This VM's leases: one session with a time to live, kept alive here, and a child of it for each process.
  #
  # Invariant: a lease that is held ends with its process; owners are told of a lost session before its keys can
  # be gone without their knowing (the time to live is counted from before the command that began it). Nothing
  # here waits for the state: commands run in tasks.

  use GenServer

  alias MaculaStorage.{Config, Khepri}
  alias MaculaStorage.Khepri.Engine

  @retry_ms 1_000
  @command_ms 5_000
  @stop_ms 2_000

  def start_link(_options), do: GenServer.start_link(__MODULE__, nil, name: __MODULE__)

  @doc false
  @spec lease(pid, timeout) :: {:ok, pos_integer} | {:error, term}
  def lease(pid, timeout) do
    GenServer.call(__MODULE__, {:lease, pid}, timeout)
  catch
    :exit, {:timeout, _} -> {:error, :timeout}
    :exit, _ -> {:error, :closed}
  end

  @doc false
  @spec revoke(pos_integer, timeout) :: :ok | {:error, term}
  def revoke(id, timeout) do
    with {:ok, {:lease_revoke, found, _removed}} <- Engine.command({:lease_revoke, id}, timeout) do
      GenServer.cast(__MODULE__, {:forget, id})
      if found, do: :ok, else: {:error, :lease_unknown}
    end
  end

  @impl true
  def init(nil) do
    Process.flag(:trap_exit, true)
    # session: nil | :begins | %{id, until}; waiting: who asked before it was there
    {:ok, %{session: nil, waiting: [], held: %{}, monitors: %{}, tasks: %{}}}
  end

  @impl true
  def handle_call({:lease, pid}, from, state), do: {:noreply, grant(state, {pid, from})}

  @impl true
  def handle_cast({:forget, id}, state), do: {:noreply, drop(state, id)}

  @impl true
  def handle_info({ref, result}, state) when is_map_key(state.tasks, ref) do
    Process.demonitor(ref, [:flush])
    {what, tasks} = Map.pop(state.tasks, ref)
    {:noreply, answered(what, result, %{state | tasks: tasks})}
  end

  def handle_info({:DOWN, ref, :process, _, reason}, state) when is_map_key(state.tasks, ref) do
    {what, tasks} = Map.pop(state.tasks, ref)
    {:noreply, answered(what, {:error, reason}, %{state | tasks: tasks})}
  end

  def handle_info({:DOWN, ref, :process, _, _}, state) when is_map_key(state.monitors, ref) do
    id = state.monitors[ref]
    {:noreply, state |> drop(id) |> run({:revoke, id})}
  end

  def handle_info({:keep, id}, %{session: %{id: id}} = state), do: {:noreply, keep(state)}
  def handle_info({:until, id}, %{session: %{id: id}} = state), do: {:noreply, expired?(state)}
  def handle_info({:revoke, id}, state), do: {:noreply, run(state, {:revoke, id})}
  def handle_info(_message, state), do: {:noreply, state}

  @impl true
  def terminate(_reason, %{session: %{id: id}}), do: Engine.command({:lease_revoke, id}, @stop_ms)
  def terminate(_reason, _state), do: :ok

  ## Commands

  defp run(state, what) do
    begun_ms = now_ms()
    command = command(what)

    task =
      Task.Supervisor.async_nolink(__MODULE__.Tasks, Engine, :command, [command, wait_ms(what)])

    %{state | tasks: Map.put(state.tasks, task.ref, {what, begun_ms})}
  end

  defp command(:session), do: {:lease_grant, ttl_ms(), owner(nil), nil}
  defp command({:grant, parent, {pid, _from}}), do: {:lease_grant, nil, owner(pid), parent}
  defp command({:keep, id}), do: {:lease_keep_alive, [id]}
  defp command({:revoke, id}), do: {:lease_revoke, id}

  # one that takes longer is better sent again
  defp wait_ms({:keep, _}), do: max(div(ttl_ms(), 3), 1)
  defp wait_ms(_), do: @command_ms

  defp owner(pid), do: :erlang.term_to_binary({node(), System.pid(), pid})

  defp answered({:session, begun_ms}, {:ok, {:lease_grant, id, _}}, state) do
    state = begun(%{state | session: %{id: id, until: begun_ms + ttl_ms()}})
    waiting = Enum.reverse(state.waiting)
    Enum.reduce(waiting, %{state | waiting: []}, &grant(&2, &1))
  end

  defp answered({:session, _}, failure, state) do
    for {_pid, from} <- state.waiting, do: GenServer.reply(from, failed(failure))
    %{state | session: nil, waiting: []}
  end

  defp answered({{:grant, parent, {pid, from}}, _}, {:ok, {:lease_grant, id, _}}, state) do
    case state.session do
      %{id: ^parent} ->
        monitor = Process.monitor(pid)
        GenServer.reply(from, {:ok, id})
        held = Map.put(state.held, id, {pid, monitor})
        %{state | held: held, monitors: Map.put(state.monitors, monitor, id)}

      # lost meanwhile, and this lease with it
      _other ->
        grant(state, {pid, from})
    end
  end

  defp answered({{:grant, parent, asked}, _}, {:ok, {:refused, :lease_unknown}}, state) do
    state = if match?(%{id: ^parent}, state.session), do: lost(state), else: state
    grant(state, asked)
  end

  defp answered({{:grant, _, {_pid, from}}, _}, failure, state) do
    GenServer.reply(from, failed(failure))
    state
  end

  defp answered({{:keep, id}, begun_ms}, {:ok, {_, gone}}, %{session: %{id: id}} = state) do
    if id in gone,
      do: lost(state),
      else: begun(%{state | session: %{state.session | until: begun_ms + ttl_ms()}})
  end

  defp answered({{:keep, id}, _}, _failure, %{session: %{id: id}} = state) do
    Process.send_after(self(), {:keep, id}, div(ttl_ms(), 10))
    state
  end

  defp answered({{:revoke, _}, _}, {:ok, _}, state), do: state

  defp answered({{:revoke, id}, _}, _failure, state) do
    Process.send_after(self(), {:revoke, id}, @retry_ms)
    state
  end

  defp answered(_of_another_session, _result, state), do: state

  defp failed({:ok, {:refused, why}}), do: {:error, why}
  defp failed({:error, reason}) when is_atom(reason), do: {:error, reason}
  defp failed({:error, %MaculaStorage.Error{}} = failure), do: failure
  defp failed(_a_task_that_died), do: {:error, :closed}

  ## The session

  defp grant(%{session: %{id: id}} = state, asked), do: run(state, {:grant, id, asked})

  defp grant(%{session: :begins} = state, asked),
    do: %{state | waiting: [asked | state.waiting]}

  defp grant(%{session: nil} = state, asked),
    do: run(%{state | session: :begins, waiting: [asked]}, :session)

  defp begun(%{session: session} = state) do
    Process.send_after(self(), {:keep, session.id}, div(ttl_ms(), 3))
    Process.send_after(self(), {:until, session.id}, max(session.until - now_ms(), 0))
    state
  end

  # without leases there is nothing to pay for
  defp keep(state) do
    grants = Enum.any?(state.tasks, &match?({_, {{:grant, _, _}, _}}, &1))

    if map_size(state.held) == 0 and not grants,
      do: run(%{state | session: nil}, {:revoke, state.session.id}),
      else: run(state, {:keep, state.session.id})
  end

  defp expired?(state), do: if(now_ms() >= state.session.until, do: lost(state), else: state)

  # what the state still has of it must not stay when it was only out of reach
  defp lost(%{session: %{id: session}} = state) do
    for {id, {pid, monitor}} <- state.held do
      Process.demonitor(monitor, [:flush])
      send(pid, {Khepri, :lease_lost, id})
    end

    run(%{state | session: nil, held: %{}, monitors: %{}}, {:revoke, session})
  end

  defp drop(state, id) do
    case Map.pop(state.held, id) do
      {nil, _} ->
        state

      {{_pid, monitor}, held} ->
        Process.demonitor(monitor, [:flush])
        %{state | held: held, monitors: Map.delete(state.monitors, monitor)}
    end
  end

  defp ttl_ms, do: Config.get().state_session_ttl_ms
  defp now_ms, do: System.monotonic_time(:millisecond)
end
