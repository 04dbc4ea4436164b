defmodule MaculaStorage.Khepri.Endpoint do
  @moduledoc false
  # Where this node listens for the members of its cluster, and where they do: nodes that see each other over Erlang
  # distribution tell each other, so that one that came back at another port is found.
  #
  # Invariant: what is told here only helps to connect; who answers there has to prove who it is.

  use GenServer

  alias MaculaStorage.{Apps, Call, Config, Error, Native}

  @port 4377
  @open_ms 60_000
  @turn_ms 65_000
  @look_ms 10
  @looks_max 200

  def start_link(_options), do: GenServer.start_link(__MODULE__, nil, name: __MODULE__)

  @doc """
  Listens, when the configuration says so, when there are other members, or when `needed?`; once is enough.
  """
  @spec open(reference, reference, boolean) :: :ok | {:error, term}
  def open(base, state, needed?) do
    config = Config.get()
    looks = if needed? or config.state_listen != nil, do: 0, else: @looks_max

    with {:ok, false, members} <- settled(state, looks),
         true <- looks == 0 or length(members) != 1 do
      in_turn(base, state)
    else
      {:error, _} = failure -> failure
      _not_needed_or_done -> :ok
    end
  end

  # A node that was opened knows no members, not even itself, before Raft's first turn. One that was taken to be
  # alone then had no links for as long as it ran. Who stays without waits to be let in, and is called.
  defp settled(state, looks) do
    case listening(state) do
      {:ok, false, []} when looks > 0 ->
        receive do
        after
          @look_ms -> settled(state, looks - 1)
        end

      told ->
        told
    end
  end

  # First calls come at once, and the second one to bind a port would be told that it is in use.
  defp in_turn(base, state) do
    GenServer.call(__MODULE__, {:listen, base, state}, @turn_ms)
  catch
    :exit, {:timeout, _} -> {:error, :timeout}
    # stopped while it was asked
    :exit, _ -> {:error, :closed}
  end

  defp listening(state) do
    with {:ok, {_cluster, _number, _leader, _log, address, members}} <- Native.state_node(state),
         do: {:ok, address != nil, members}
  end

  defp listen(base, state) do
    config = Config.get()

    with {:ok, false, _members} <- listening(state),
         {:ok, at} <- at(config),
         certificates = if(config.state_plain, do: nil, else: config.state_certificates),
         name = Atom.to_string(node()),
         start = &Native.state_listen(base, state, &1, at, name, certificates),
         {:ok, address} <- Call.run(start, op: :listen, timeout: @open_ms) do
      # what keeps the files of this node from it is told by their first call
      _ = Apps.link_mesh(state)
      {:ok, address}
    else
      {:ok, true, _members} -> :done
      # over another handle of the same state
      {:error, :exists} -> :done
      {:error, _} = failure -> failure
    end
  end

  # {what to bind, the host at which others find it, and the port when it is another}
  defp at(config) do
    [_, own] = String.split(Atom.to_string(node()), "@", parts: 2)
    loopback = {"127.0.0.1", 0}
    {host, port} = config.state_listen || if(config.state_plain, do: loopback, else: {own, @port})

    with {:ok, ip} <- ip(host),
         do: {:ok, told({bind(ip, port), found(ip, host, own), nil}, config.state_advertise)}
  end

  defp ip(host) do
    name = to_charlist(host)

    with {:error, _} <- :inet.getaddr(name, :inet),
         {:error, why} <- :inet.getaddr(name, :inet6) do
      message = "no address of #{host} is known: #{:inet.format_error(why)}"
      hint = "set state_listen to an address of this machine, \"ip:port\""
      {:error, %Error{kind: :invalid, op: :listen, app: nil, message: message, hint: hint}}
    end
  end

  defp told(at, nil), do: at
  defp told({bind, _host, _port}, {host, port}), do: {bind, host, port}

  defp bind(ip, port) when tuple_size(ip) == 8, do: "[#{:inet.ntoa(ip)}]:#{port}"
  defp bind(ip, port), do: "#{:inet.ntoa(ip)}:#{port}"

  # every address of this machine is no address for others
  defp found(ip, host, own) do
    if Enum.all?(Tuple.to_list(ip), &(&1 == 0)), do: own, else: host
  end

  @impl true
  def init(nil) do
    :ok = :net_kernel.monitor_nodes(true)
    {:ok, nil}
  end

  @impl true
  def handle_call({:listen, base, state}, _from, own) do
    case listen(base, state) do
      {:ok, address} ->
        GenServer.abcast(Elixir.Node.list(), __MODULE__, {:here, node(), address, true})
        {:reply, :ok, address}

      :done ->
        {:reply, :ok, own}

      failure ->
        {:reply, failure, own}
    end
  end

  @impl true
  def handle_cast({:here, node, address, answer?}, own) do
    if answer? and own != nil,
      do: GenServer.cast({__MODULE__, node}, {:here, node(), own, false})

    # one that was not opened asks when it is
    with {:ok, state} <- Apps.opened_state(),
         do: Native.state_tell(state, Atom.to_string(node), address)

    {:noreply, own}
  end

  @impl true
  def handle_info({:nodeup, node}, own) do
    if own != nil, do: GenServer.cast({__MODULE__, node}, {:here, node(), own, true})
    {:noreply, own}
  end

  def handle_info(_message, own), do: {:noreply, own}
end
