defmodule MaculaStorage.MeshFS.Courier do
  @moduledoc false
  # Carries what this node asks of other members by the application's transport (MaculaStorage.MeshFS.Transport): hears it
  # from Rust, has each request carried by a process of its own, and ends that when Rust waits no more. Rust bounds
  # how many there are, and knows the deadlines.
  #
  # Invariant: nothing of the transport runs in this process, and nothing of it outlives this process.

  use GenServer

  require Logger

  alias MaculaStorage.{Apps, Config, Native}
  alias MaculaStorage.MeshFS.Transport

  @names_max 1_000
  @message_max 2_097_152
  @ask_ms 5_000
  @again_ms 1_000
  @call_ms 15_000

  @enforce_keys [:transport]
  defstruct [
    :transport,
    # of Rust: the opened files, and what stands for this process there
    :mesh,
    :carrying,
    # who asks the transport for who is reachable, and what was told since it began
    :asker,
    told: %{},
    up: MapSet.new(),
    # pid => {number, node}, number => pid
    workers: %{},
    numbers: %{},
    # those with whom the last request failed, of which the log knows
    failing: MapSet.new()
  ]

  def start_link(_options) do
    case Config.get().mesh_transport do
      nil -> :ignore
      transport -> GenServer.start_link(__MODULE__, transport, name: __MODULE__)
    end
  end

  @doc "The replicated files were opened."
  @spec look() :: :ok
  def look, do: GenServer.cast(__MODULE__, :look)

  @doc "A member can be reached, or not any more."
  @spec told(String.t(), boolean) :: :ok | {:error, atom}
  def told(name, up?) do
    GenServer.call(__MODULE__, {:told, name, up?}, @call_ms)
  catch
    :exit, {:timeout, _} -> {:error, :timeout}
    # not running, or stopped while it was told
    :exit, _ -> {:error, :closed}
  end

  @impl true
  def init(transport) do
    # what carries ends by itself or is killed: neither is an end of this one
    Process.flag(:trap_exit, true)
    {:ok, %__MODULE__{transport: transport}, {:continue, :begin}}
  end

  @impl true
  def handle_continue(:begin, state), do: {:noreply, state |> attach() |> ask()}

  @impl true
  def handle_call({:told, name, true}, _from, %{up: up} = state) do
    if MapSet.size(up) < @names_max or MapSet.member?(up, name),
      do: {:reply, :ok, is_up(state, name, true)},
      else: {:reply, {:error, :busy}, state}
  end

  def handle_call({:told, name, false}, _from, state),
    do: {:reply, :ok, is_up(state, name, false)}

  @impl true
  def handle_cast(:look, state), do: {:noreply, attach(state)}

  @impl true
  def handle_info({:carry, number, node, request, timeout_ms}, state) do
    %{transport: {module, arg}, carrying: carrying} = state

    pid =
      spawn_link(fn ->
        case answer(module, [node, request, timeout_ms, arg]) do
          {:ok, _} = answer -> Native.mesh_carry_answer(carrying, number, answer)
          {:error, why} -> exit({:shutdown, why})
        end
      end)

    workers = Map.put(state.workers, pid, {number, node})
    {:noreply, %{state | workers: workers, numbers: Map.put(state.numbers, number, pid)}}
  end

  def handle_info({:call_back, number}, state) do
    # the end of it comes as a message
    with %{^number => pid} <- state.numbers, do: Process.exit(pid, :kill)
    {:noreply, state}
  end

  def handle_info({:reachable, pid, names}, %{asker: pid} = state),
    do: {:noreply, reachable(%{state | asker: nil}, names)}

  def handle_info({:late, pid}, %{asker: pid} = state) do
    Process.exit(pid, :kill)
    {:noreply, state}
  end

  def handle_info({:EXIT, pid, reason}, %{asker: pid} = state) do
    log("who is reachable", why(reason))
    Process.send_after(self(), :ask, @again_ms)
    {:noreply, %{state | asker: nil}}
  end

  def handle_info(:ask, state), do: {:noreply, ask(state)}

  def handle_info({:EXIT, pid, reason}, state) do
    case Map.pop(state.workers, pid) do
      {nil, _} ->
        {:noreply, state}

      {{number, node}, workers} ->
        state = %{state | workers: workers, numbers: Map.delete(state.numbers, number)}
        {:noreply, ended(state, number, node, reason)}
    end
  end

  def handle_info(_message, state), do: {:noreply, state}

  @impl true
  def terminate(_reason, state) do
    for {pid, _} <- state.workers, do: Process.exit(pid, :kill)
    if state.asker, do: Process.exit(state.asker, :kill)
  end

  ## Rust

  defp attach(%{mesh: before} = state) do
    with {:ok, mesh} when mesh != before <- Apps.opened_mesh(),
         {:ok, carrying} <- Native.mesh_carry(mesh) do
      for name <- state.up, do: Native.mesh_carry_tell(carrying, name, true)
      %{state | mesh: mesh, carrying: carrying}
    else
      # not open, or closed meanwhile: the next opening tells
      _ -> state
    end
  end

  defp is_up(state, name, up?) do
    if state.carrying, do: Native.mesh_carry_tell(state.carrying, name, up?)
    change = if up?, do: &MapSet.put/2, else: &MapSet.delete/2
    told = if state.asker, do: Map.put(state.told, name, up?), else: state.told
    # whom it comes back to may fail anew
    failing = if up?, do: state.failing, else: MapSet.delete(state.failing, name)
    %{state | up: change.(state.up, name), told: told, failing: failing}
  end

  ## Who is reachable

  defp ask(%{transport: {module, arg}} = state) do
    server = self()

    pid =
      spawn_link(fn ->
        if Code.ensure_loaded?(module) and function_exported?(module, :reachable, 1) do
          send(server, {:reachable, self(), names!(apply(module, :reachable, [arg]))})
        else
          send(server, {:reachable, self(), []})
        end
      end)

    Process.send_after(self(), {:late, pid}, @ask_ms)
    %{state | asker: pid, told: %{}}
  end

  defp names!(nodes) when is_list(nodes) do
    for node <- nodes do
      case Transport.name(node) do
        {:ok, name} -> name
        :error -> exit({:shutdown, "#{shown(node)} is no member's name"})
      end
    end
  end

  defp names!(other), do: exit({:shutdown, "it returned #{shown(other)}"})

  # what was told since it was asked is newer
  defp reachable(state, names) do
    for name <- Enum.take(names, @names_max), not is_map_key(state.told, name), reduce: state do
      state -> is_up(state, name, true)
    end
  end

  ## A request, in a process of its own

  defp answer(module, arguments) do
    case apply(module, :call, arguments) do
      {:ok, answer} when is_binary(answer) and byte_size(answer) <= @message_max -> {:ok, answer}
      {:ok, answer} when is_binary(answer) -> {:error, "an answer of #{byte_size(answer)} bytes"}
      {:error, reason} -> {:error, shown(reason)}
      other -> {:error, "it returned #{shown(other)}"}
    end
  catch
    kind, reason -> {:error, Exception.format_banner(kind, reason, __STACKTRACE__)}
  end

  defp ended(state, _number, node, :normal),
    do: %{state | failing: MapSet.delete(state.failing, to_string(node))}

  # also when it was killed by something of the transport's: nobody waits for it until the deadline
  defp ended(state, number, node, reason) do
    why = why(reason)
    Native.mesh_carry_answer(state.carrying, number, {:error, why})

    failing(state, to_string(node), why)
  end

  defp failing(state, name, why) do
    # of one that is gone it is no wonder
    if MapSet.member?(state.failing, name) or not MapSet.member?(state.up, name) do
      state
    else
      log("to #{name}", why)
      %{state | failing: MapSet.put(state.failing, name)}
    end
  end

  defp why({:shutdown, why}) when is_binary(why), do: why
  defp why(:killed), do: "no answer in time, or not waited for any more"
  defp why(reason), do: Exception.format_exit(reason)

  defp log(what, why), do: Logger.warning("mesh transport, #{what}: #{String.slice(why, 0, 500)}")

  defp shown(term), do: inspect(term, limit: 5, printable_limit: 200)
end
