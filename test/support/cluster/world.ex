defmodule MaculaStorage.Scenario.World do
  @moduledoc """
  The nodes of a cluster under test, in a network of their own where the machine allows one, else behind proxies.

  Invariant: a node serves clients only while it is a member; one that is not yet, or not any more, would take
  their writes as its own. All that was made goes with `stop/1`.
  """
  alias MaculaStorage.{Authority, BeamNode, Khepri, Wait}
  alias MaculaStorage.Scenario.{Disks, Namespaces, Proxies}

  @enforce_keys [:agent, :net, :disks, :dir, :port, :count, :clocks?, :config]
  defstruct @enforce_keys

  @type t :: %__MODULE__{}
  @type n :: 1..9

  @form_ms 60_000
  @dirs "macula_scenario_"

  @doc "A directory for a world, that of no other."
  @spec dir() :: Path.t()
  def dir do
    name = "#{@dirs}#{System.pid()}_#{System.unique_integer([:positive])}"
    dir = Path.join(System.tmp_dir!(), name)
    File.mkdir_p!(dir)
    dir
  end

  @doc "Removes what tests left that were killed before they could."
  @spec sweep() :: :ok
  def sweep do
    Namespaces.sweep()

    for dir <- Path.wildcard(Path.join(System.tmp_dir!(), @dirs <> "*")),
        [_, os_pid] = Regex.run(~r/_(\d+)_\d+$/, dir),
        not File.exists?("/proc/#{os_pid}") do
      # the images lie in one that comes last
      for disk <-
            Enum.reverse(Enum.sort_by(Path.wildcard(Path.join(dir, "disk*")), &(&1 =~ ~r/\d$/))),
          do: System.cmd("umount", [disk], stderr_to_stdout: true)

      File.rm_rf!(dir)
    end

    :ok
  end

  @doc """
  Places for `count` nodes, none of which runs; certificates for all.

  Options: `clocks?` that can be set, where there is libfaketime; `namespaces?: false`: behind proxies, as where the
  machine has none; `config` of all nodes, beside what the world needs.
  """
  @spec make(Path.t(), pos_integer, keyword) :: t
  def make(dir, count, options \\ []) do
    nobody = %{nodes: %{}, serving: MapSet.new(), paused: MapSet.new()}
    {:ok, agent} = Agent.start(fn -> nobody end)
    # before a node: its namespace has mounts of its own
    disks = Disks.mount(dir, count)

    world = %__MODULE__{
      agent: agent,
      net: nil,
      disks: disks,
      dir: dir,
      port: BeamNode.port(),
      count: count,
      clocks?: Keyword.get(options, :clocks?, false) and faketime() != nil,
      config: Keyword.get(options, :config, [])
    }

    world = %{world | net: net(world, Keyword.get(options, :namespaces?, true))}
    for n <- 1..count, do: :ok = set_clock(world, n, 0)

    {:ok, _} = Authority.create(Path.join(dir, "ca"))

    for n <- 1..count do
      {:ok, _} = Authority.issue(Path.join(dir, "ca"), name(world, n), out: certificate(world, n))
    end

    world
  end

  defp net(world, false), do: proxies(world)

  defp net(world, true) do
    case Namespaces.make(world.count) do
      {:ok, net} ->
        net

      {:error, why} ->
        IO.puts("members are behind proxies, as there are no namespaces: #{why}")
        proxies(world)
    end
  end

  defp proxies(world) do
    bases = Map.new(1..world.count, &{&1, base(world, &1)})
    Proxies.make(bases, BeamNode.port())
  end

  @doc "Whether a node's disk can be filled here."
  @spec can_fill(t) :: boolean
  def can_fill(world), do: world.disks != nil

  @doc "Whether a node's disk forgets here what was not synced when it loses its power."
  @spec can_lose_power(t) :: boolean
  def can_lose_power(world), do: world.disks != nil and world.disks.images?

  # Debian's libfaketime: the wall clock as a file says, the monotonic one as it is
  defp faketime, do: List.first(Path.wildcard("/usr/lib/*/faketime/libfaketime.so.1"))

  defp clock(world, n), do: Path.join(world.dir, "clock#{n}")

  defp clock_env(%{clocks?: false}, _n), do: []

  defp clock_env(world, n) do
    [
      {"LD_PRELOAD", faketime()},
      {"FAKETIME_TIMESTAMP_FILE", clock(world, n)},
      {"FAKETIME_CACHE_DURATION", "1"},
      {"FAKETIME_DONT_FAKE_MONOTONIC", "1"},
      {"DONT_FAKE_MONOTONIC", "1"}
    ]
  end

  @doc "The wall clock of the n-th is so many seconds before or behind ours, within a second, where `clocks?`."
  @spec set_clock(t, n, integer) :: :ok
  def set_clock(world, n, seconds) do
    sign = if seconds < 0, do: "-", else: "+"
    File.write!(clock(world, n), "#{sign}#{abs(seconds)}\n")
  end

  @doc "Leaves no room on the disk of the n-th."
  @spec fill(t, n) :: :ok
  def fill(world, n) do
    ballast = Path.join(Disks.path(world.disks, n), "ballast")

    {_, 1} =
      System.cmd("dd", ["if=/dev/zero", "of=" <> ballast, "bs=64k"], stderr_to_stdout: true)

    :ok
  end

  @doc "There is room on all disks again, also after their power went: an unsynced removal would be undone."
  @spec free(t) :: :ok
  def free(world) do
    for n <- 1..world.count, world.disks != nil do
      path = Disks.path(world.disks, n)
      File.rm(Path.join(path, "ballast"))
      {_, 0} = System.cmd("sync", ["--file-system", path])
    end

    :ok
  end

  @doc "What one sends does not arrive at the other any more."
  @spec cut(t, n, n) :: :ok
  def cut(%{net: %net{} = cables}, from, to), do: net.cut(cables, from, to)

  @doc "Boots these and makes one cluster of them."
  @spec form(t, [n]) :: :ok
  def form(world, ns) do
    ns |> Enum.map(&Task.async(fn -> boot(world, &1) end)) |> Task.await_many(@form_ms)
    names = Enum.map(ns, &name(world, &1))
    :ok = BeamNode.call(node(world, hd(ns)), Khepri, :start, [names])
    Enum.each(ns, &serve(world, &1))
  end

  @doc "Kills all, and removes the network."
  @spec stop(t) :: :ok
  def stop(world) do
    for {_n, node} <- get(world).nodes, do: signal(node, "KILL")
    %net{} = cables = world.net
    net.remove(cables)
    if world.disks, do: Disks.unmount(world.disks)
    Agent.stop(world.agent)
  end

  @doc "The Erlang name of the n-th."
  @spec name(t, n) :: node
  def name(world, n), do: :"n#{n}@#{ip(world, n)}"

  defp ip(%{net: %net{}}, n), do: net.ip(n)

  @doc "Where the n-th stores."
  @spec base(t, n) :: Path.t()
  def base(%{disks: nil} = world, n), do: Path.join(world.dir, "n#{n}")
  def base(world, n), do: Path.join(Disks.path(world.disks, n), "base")

  defp certificate(world, n), do: Path.join(world.dir, "certificate#{n}")

  @doc "Boots the n-th on what it left; who is connected to it is so again."
  @spec boot(t, n) :: struct
  def boot(world, n) do
    namespace = with %Namespaces{} = net <- world.net, do: Namespaces.namespace(net, n)
    namespace = if is_binary(namespace), do: namespace
    File.mkdir_p!(base(world, n))
    %net{} = cables = world.net
    own = [state_certificates: certificate(world, n)] ++ net.config(cables, n)
    config = own ++ world.config
    place = {ip(world, n), namespace, clock_env(world, n)}
    node = BeamNode.boot({n, world.port, base(world, n), config, place})
    update(world, &%{&1 | nodes: Map.put(&1.nodes, n, node)})
    node
  end

  @doc "The n-th when it runs."
  @spec node(t, n) :: struct | nil
  def node(world, n), do: get(world).nodes[n]

  @doc "Which run and are members."
  @spec serving(t) :: [n]
  def serving(world), do: world |> get() |> Map.fetch!(:serving) |> Enum.sort()

  @doc "Which of them were not paused."
  @spec awake(t) :: [n]
  def awake(world) do
    %{serving: serving, paused: paused} = get(world)
    serving |> MapSet.difference(paused) |> Enum.sort()
  end

  @doc "The n-th takes calls of clients, from now on or not any more."
  @spec serve(t, n, boolean) :: :ok
  def serve(world, n, whether \\ true) do
    change = if whether, do: &MapSet.put/2, else: &MapSet.delete/2
    update(world, &%{&1 | serving: change.(&1.serving, n)})
  end

  @doc "A call of `MaculaStorage.Khepri` on a member: its answer, or that it was lost, or was not made."
  @spec ask(t, n, atom, list) :: term | :lost | :down
  def ask(world, n, fun, arguments), do: ask(world, n, Khepri, fun, arguments)

  @doc false
  def ask(world, n, module, fun, arguments) do
    %{nodes: nodes, serving: serving} = get(world)

    if n in serving and nodes[n] != nil do
      try do
        BeamNode.call(nodes[n], module, fun, arguments)
      catch
        # it died, or did not answer
        :exit, _why -> :lost
      end
    else
      :down
    end
  end

  @doc "What each member says of itself and the others, for whoever reads of a failure."
  @spec described(t) :: String.t()
  def described(world) do
    Enum.map_join(awake(world), "\n", fn n ->
      for what <- [:status, :members],
          into: "member #{n}:",
          do: " #{inspect(ask(world, n, what, []))}"
    end)
  end

  @doc "Who leads, as those see it who have seen the latest election."
  @spec leader(t) :: n
  def leader(world) do
    Wait.until("a leader", fn ->
      seen =
        for n <- awake(world),
            {:ok, %{leader: leader, term: term}} when leader != nil <- [
              ask(world, n, :status, [])
            ],
            do: {term, leader}

      with [_ | _] <- seen, {_term, leader} = Enum.max(seen), do: number(world, leader)
    end)
  end

  defp number(world, name), do: Enum.find(1..world.count, &(name(world, &1) == name))

  ## What is done to one

  @doc "SIGKILL."
  @spec kill(t, n) :: :ok
  def kill(world, n) do
    serve(world, n, false)
    node = node(world, n)
    update(world, &%{&1 | nodes: Map.delete(&1.nodes, n), paused: MapSet.delete(&1.paused, n)})
    BeamNode.kill(node)
  end

  @doc "Its power goes: it is no more, and its disk has what was synced."
  @spec lose_power(t, n) :: :ok
  def lose_power(world, n) do
    serve(world, n, false)
    # in one moment: nothing is written behind it
    signal(node(world, n), "STOP")

    Disks.lose_power(world.disks, n, fn ->
      kill(world, n)
      :ok
    end)
  end

  @doc "Ends it in good order."
  @spec shut(t, n) :: :ok
  def shut(world, n) do
    serve(world, n, false)
    node = node(world, n)
    monitor = Process.monitor(node.peer)
    BeamNode.call(node, :init, :stop, [])

    receive do
      {:DOWN, ^monitor, _, _, _} -> :ok
    after
      @form_ms -> raise "a node does not stop n=#{n}"
    end

    update(world, &%{&1 | nodes: Map.delete(&1.nodes, n)})
  end

  @doc "Boots one that is a member, and has it see the others."
  @spec revive(t, n) :: :ok
  def revive(world, n) do
    node = boot(world, n)
    connect(world, node)
    serve(world, n)
  end

  @doc "Has a node and those others that are awake see each other, where nothing is between them."
  @spec connect(t, struct) :: :ok
  def connect(world, node) do
    %{nodes: nodes, paused: paused} = get(world)

    for {n, other} <- nodes,
        n != node.n,
        n not in paused,
        do: BeamNode.call(node, Node, :connect, [other.name])

    :ok
  end

  @doc "SIGSTOP."
  @spec pause(t, n) :: :ok
  def pause(world, n) do
    update(world, &%{&1 | paused: MapSet.put(&1.paused, n)})
    signal(node(world, n), "STOP")
  end

  @doc "SIGCONT."
  @spec resume(t, n) :: :ok
  def resume(world, n) do
    signal(node(world, n), "CONT")
    update(world, &%{&1 | paused: MapSet.delete(&1.paused, n)})
  end

  @doc "All that were paused, cut off or filled are so no more."
  @spec mend(t) :: :ok
  def mend(world) do
    free(world)
    for n <- 1..world.count, do: set_clock(world, n, 0)
    for n <- get(world).paused, do: resume(world, n)

    %net{} = cables = world.net
    for a <- 1..world.count, b <- 1..world.count, a != b, do: net.heal(cables, a, b)
    :ok
  end

  defp signal(node, name) do
    System.cmd("sh", ["-c", "kill -s #{name} #{node.os_pid}"], stderr_to_stdout: true)
    :ok
  end

  defp get(world), do: Agent.get(world.agent, & &1)
  defp update(world, change), do: Agent.update(world.agent, change)
end
