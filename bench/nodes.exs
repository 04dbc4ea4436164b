# BEAMs for the benches of the cluster and for the demo: an OS process each on this machine, with an address
# (127.0.0.n), a base directory and a certificate of its own, driven over its standard input.
#
# Invariant: nothing of Erlang distribution lies between a client and its node: what is measured runs in the node's
# own BEAM, and only figures come back. No epmd is started, and no node outlives `run/2`.
defmodule MaculaStorage.Bench.Nodes do
  @moduledoc false

  alias MaculaStorage.{Authority, Khepri}

  @enforce_keys [:n, :name, :peer, :os_pid, :place]
  defstruct @enforce_keys

  @boot_ms 60_000
  @until_ms 120_000
  @look_ms 5

  @doc """
  Runs `work` with a place for nodes beneath `dir`, which has their authority; ends those that run then. Our application
  has these settings on each of them.
  """
  def run(dir, settings \\ [], work) do
    place = %{
      dir: dir,
      settings: settings,
      running: :ets.new(:nodes, [:public]),
      distribution_port: free_port(),
      state_port: free_port()
    }

    {:ok, _} = Authority.create(authority(place))

    try do
      work.(place)
    after
      for {_n, node} <- :ets.tab2list(place.running), do: kill(node)
    end
  end

  # All have the same, each on its own address.
  defp free_port do
    {:ok, socket} = :gen_tcp.listen(0, ip: {127, 0, 0, 1})
    {:ok, port} = :inet.port(socket)
    :ok = :gen_tcp.close(socket)
    port
  end

  defp authority(place), do: Path.join(place.dir, "authority")
  defp host(n), do: "127.0.0.#{n}"

  @doc "The base directory of the n-th node."
  def base(place, n), do: Path.join(place.dir, "n#{n}")

  @doc "The name of the n-th node."
  def name(n), do: :"n#{n}@#{host(n)}"

  @doc "Starts nodes, those that were there before on what they left."
  def start_all(place, numbers) do
    numbers
    |> Enum.map(&Task.async(fn -> place |> boot(&1) |> start() end))
    |> Task.await_many(@boot_ms)
  end

  @doc "Starts the n-th BEAM, with a certificate."
  def boot(place, n) do
    certified(place, n)

    {:ok, peer, name} =
      :peer.start(%{
        name: :"n#{n}",
        host: to_charlist(host(n)),
        longnames: true,
        connection: :standard_io,
        wait_boot: @boot_ms,
        args: Enum.map(args(place, n), &to_charlist/1),
        env: [{to_charlist("MACULA_STORAGE_BASE"), to_charlist(base(place, n))}]
      })

    os_pid = :peer.call(peer, :os, :getpid, [])
    node = %__MODULE__{n: n, name: name, peer: peer, os_pid: os_pid, place: place}
    true = :ets.insert(place.running, {n, node})
    node
  end

  # Where a node looks for it by itself.
  defp certified(place, n) do
    dir = Path.join(base(place, n), "state/certificates")

    unless File.dir?(dir) do
      File.mkdir_p!(Path.dirname(dir))
      {:ok, _} = Authority.issue(authority(place), name(n), out: dir)
    end
  end

  defp args(place, n) do
    code = for dir <- :code.get_path(), arg <- ["-pa", to_string(dir)], do: arg
    port = place.distribution_port

    code ++
      ~w(-start_epmd false -erl_epmd_port #{port} -setcookie #{port}
         -kernel prevent_overlapping_partitions false -kernel logger_level emergency
         -kernel inet_dist_use_interface {#{String.replace(host(n), ".", ",")}})
  end

  @doc "Starts our application on a BEAM."
  def start(node) do
    at = "#{host(node.n)}:#{node.place.state_port}"
    settings = [{:state_listen, at} | node.place.settings]
    for {name, value} <- settings, do: :ok = call(node, Application, :put_env, env(name, value))
    {:ok, _} = call(node, Application, :ensure_all_started, [:macula_storage])
    :ok = call(node, :logger, :set_primary_config, [:level, :emergency])
    node
  end

  defp env(name, value), do: [:macula_storage, name, value, [persistent: true]]

  @doc """
  A call in a node's own BEAM, however long it takes. Match what it answers: when a process that the call is linked to
  dies, `:peer` answers something of its own.
  """
  def call(node, module, fun, args), do: :peer.call(node.peer, module, fun, args, :infinity)

  @doc "The same call in several at once."
  def call_all(nodes, module, fun, args) do
    nodes
    |> Enum.map(&Task.async(fn -> call(&1, module, fun, args) end))
    |> Task.await_many(:infinity)
  end

  def khepri(node, fun, args \\ []), do: call(node, Khepri, fun, args)

  @doc "SIGKILL; returns when it is gone."
  def kill(node) do
    monitor = Process.monitor(node.peer)
    :ets.delete(node.place.running, node.n)
    System.cmd("sh", ["-c", "kill -s KILL #{node.os_pid}"], stderr_to_stdout: true)

    receive do
      {:DOWN, ^monitor, _, _, _} -> :ok
    end
  end

  @doc "Stops our application on a node, which leaves it, then the BEAM."
  def stop(node) do
    :ok = call(node, Application, :stop, [:macula_storage])
    kill(node)
  end

  @doc "One cluster of all of them."
  def form([node | _] = nodes) do
    :ok = khepri(node, :start, [Enum.map(nodes, & &1.name)])
    voting(node, nodes)
  end

  @doc "Waits until all of them vote, as one of them sees it."
  def voting(node, nodes) do
    names = nodes |> Enum.map(& &1.name) |> Enum.sort()

    until("votes of #{inspect(names)}", fn ->
      {:ok, members} = khepri(node, :members)
      names == for(%{standing: :voter, node: name} <- members, do: name)
    end)
  end

  @doc "Waits until a node has all that another has now."
  def caught_up(node, other) do
    {:ok, %{last: last}} = khepri(other, :status)

    until("#{node.name} has entry #{last}", fn ->
      {:ok, status} = khepri(node, :status)
      status.applied >= last
    end)
  end

  @doc "Who leads, and the others."
  def leader([node | _] = nodes) do
    {:ok, name} = khepri(node, :wait_for_leader, [@until_ms])
    {[leader], followers} = Enum.split_with(nodes, &(&1.name == name))
    {leader, followers}
  end

  @doc "Looks again and again until it is so."
  def until(what, fun, wait_ms \\ @until_ms),
    do: look(what, fun, System.monotonic_time(:millisecond) + wait_ms)

  defp look(what, fun, deadline) do
    cond do
      fun.() -> :ok
      System.monotonic_time(:millisecond) > deadline -> raise "did not come: #{what}"
      true -> Process.sleep(@look_ms) && look(what, fun, deadline)
    end
  end

  @doc "Memory of a node's OS process, in bytes: all of it, and what is no page of a file."
  def memory(node) do
    text = File.read!("/proc/#{node.os_pid}/status")
    [_, all] = Regex.run(~r/VmRSS:\s+(\d+) kB/, text)
    [_, anonymous] = Regex.run(~r/RssAnon:\s+(\d+) kB/, text)
    {1024 * String.to_integer(all), 1024 * String.to_integer(anonymous)}
  end

  @doc "Processor time that a node's OS process took so far, in seconds."
  def cpu_s(node) do
    # behind the name, which may have blanks
    [_, fields] = File.read!("/proc/#{node.os_pid}/stat") |> String.split(") ", parts: 2)

    [user, system] =
      fields |> String.split() |> Enum.slice(11, 2) |> Enum.map(&String.to_integer/1)

    (user + system) / 100
  end
end
