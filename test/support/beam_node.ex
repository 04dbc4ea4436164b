defmodule MaculaStorage.BeamNode do
  @moduledoc """
  Nodes for tests: BEAMs in OS processes of their own, with a base directory of their own, driven
  over their standard input, so that they answer while they do not see each other.

  Invariant: no epmd is started, nothing is connected that a test did not connect (`dist_auto_connect never`), and
  no node outlives its test.
  """
  import ExUnit.Assertions

  @enforce_keys [:name, :n, :port, :base, :config, :place, :peer, :os_pid]
  defstruct @enforce_keys

  @call_ms 60_000

  @doc "A place for nodes: without epmd all listen on one port, each on an address of its own."
  @spec port() :: :inet.port_number()
  def port do
    {:ok, socket} = :gen_tcp.listen(0, ip: {127, 0, 0, 1})
    {:ok, port} = :inet.port(socket)
    :ok = :gen_tcp.close(socket)
    port
  end

  @doc "The name of the n-th node, whether it runs or not."
  @spec name(pos_integer) :: node
  def name(n), do: :"n#{n}@127.0.0.#{n}"

  @doc "Starts nodes, each the n-th of a test, on a port and a base directory, with this configuration."
  @spec start_all([{pos_integer, :inet.port_number(), Path.t()}], keyword) :: [struct]
  def start_all(nodes, config \\ []) do
    boot_all(for {n, port, base} <- nodes, do: {n, port, base, config, here(n)})
  end

  # {the node's address, the network namespace it is in, more of its environment}
  defp here(n), do: {"127.0.0.#{n}", nil, []}

  defp boot_all(nodes) do
    nodes = nodes |> Enum.map(&Task.async(fn -> boot(&1) end)) |> Task.await_many(@call_ms)

    for %{peer: peer} <- nodes do
      ExUnit.Callbacks.on_exit(fn -> if Process.alive?(peer), do: :peer.stop(peer) end)
    end

    nodes
  end

  @type place :: {String.t(), String.t() | nil, [{String.t(), String.t()}]}

  @doc "Starts one, at an address, in a network namespace and an environment; who starts it sees to its end."
  @spec boot({pos_integer, :inet.port_number(), Path.t(), keyword, place}) :: struct
  def boot({n, port, base, config, {ip, namespace, env} = place}) do
    {:ok, peer, name} =
      :peer.start(
        Map.merge(exec(namespace), %{
          name: :"n#{n}",
          host: to_charlist(ip),
          longnames: true,
          connection: :standard_io,
          wait_boot: @call_ms,
          args: Enum.map(args(ip, port), &to_charlist/1),
          env:
            for(
              {name, value} <- [{"MACULA_STORAGE_BASE", base} | env],
              do: {to_charlist(name), to_charlist(value)}
            )
        })
      )

    os_pid = :peer.call(peer, :os, :getpid, [])

    node = %__MODULE__{
      name: name,
      n: n,
      port: port,
      base: base,
      config: config,
      place: place,
      peer: peer,
      os_pid: os_pid
    }

    # not loaded yet: what is set before stays
    for {key, value} <- config,
        do:
          :ok =
            call(node, Application, :put_env, [:macula_storage, key, value, [persistent: true]])

    {:ok, _} = call(node, Application, :ensure_all_started, [:macula_storage])
    # what Elixir's logger takes for the level is not the kernel's in every version
    :ok = call(node, :logger, :set_primary_config, [:level, :emergency])
    node
  end

  defp exec(nil), do: %{}

  defp exec(namespace) do
    inside = ["netns", "exec", namespace, System.find_executable("erl")]
    %{exec: {to_charlist(System.find_executable("ip")), Enum.map(inside, &to_charlist/1)}}
  end

  defp args(ip, port) do
    code = for dir <- :code.get_path(), arg <- ["-pa", to_string(dir)], do: arg

    code ++
      ~w(-start_epmd false -erl_epmd_port #{port} -setcookie #{port} -kernel dist_auto_connect never
         -kernel prevent_overlapping_partitions false -kernel logger_level emergency
         -kernel inet_dist_use_interface {#{String.replace(ip, ".", ",")}})
  end

  @doc "A call on a node, whatever it is connected to."
  @spec call(struct, module, atom, list) :: term
  def call(node, module, fun, args), do: :peer.call(node.peer, module, fun, args, @call_ms)

  @doc "Calls on a node that begin there at once, one for each of the arguments; what each answers."
  @spec call_at_once(struct, module, atom, [list]) :: [term]
  def call_at_once(node, module, fun, arguments),
    do: call(node, __MODULE__, :at_once, [module, fun, arguments])

  @doc false
  def at_once(module, fun, arguments) do
    arguments
    |> Enum.map(&Task.async(module, fun, &1))
    |> Task.await_many(@call_ms)
  end

  @doc "SIGKILL."
  @spec kill(struct) :: :ok
  def kill(node) do
    monitor = Process.monitor(node.peer)
    {_, 0} = System.cmd("sh", ["-c", "kill -s KILL #{node.os_pid}"])
    assert_receive {:DOWN, ^monitor, _, _, _}, @call_ms
    :ok
  end

  @doc "Nodes that were killed, started again on what they left."
  @spec restart_all([struct]) :: [struct]
  def restart_all(nodes),
    do: boot_all(for node <- nodes, do: {node.n, node.port, node.base, node.config, node.place})

  @doc false
  @spec restart(struct) :: struct
  def restart(node), do: [node] |> restart_all() |> hd()

  @doc "Connects two nodes again."
  @spec join(struct, struct) :: :ok
  def join(a, b) do
    true = call(a, Node, :connect, [b.name])
    :ok
  end
end
