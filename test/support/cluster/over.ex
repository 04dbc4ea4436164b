defmodule MaculaStorage.Cluster.OverLinks do
  @moduledoc "Three members whose replicated files go over links of ours, with certificates, as of a scenario's world."

  alias MaculaStorage.Cluster.Meshes
  alias MaculaStorage.Scenario
  alias MaculaStorage.Scenario.World

  @doc false
  def start(config), do: Scenario.world(3, 3, config: config)

  @doc false
  def node(world, n), do: World.node(world, n)

  @doc false
  def cut_off(world, n) do
    for m <- 1..3, m != n, {a, b} <- [{n, m}, {m, n}], do: World.cut(world, a, b)
    :ok
  end

  @doc false
  def mend(world), do: World.mend(world)

  @doc false
  def kill(world, n), do: World.kill(world, n)

  @doc false
  def revive(world, n) do
    :ok = World.revive(world, n)
    # opened with the first call
    {:ok, _} = Meshes.mesh(node(world, n), :status)
  end
end

defmodule MaculaStorage.Cluster.OverLoopback do
  @moduledoc """
  Three members whose replicated files are carried by a transport of the test. Their state goes over links all the time:
  what parts them is the transport's.
  """
  import MaculaStorage.BeamNode, only: [call: 4, join: 2]
  alias MaculaStorage.BeamNode
  alias MaculaStorage.Cluster.{Loopback, Meshes}

  @doc false
  def start(config, count \\ 3) do
    nodes = Meshes.nodes(count, config ++ [mesh_transport: {Loopback, :arg}])
    for node <- nodes, do: :ok = call(node, Loopback, :start, [])
    for a <- nodes, b <- nodes, a.n < b.n, do: join(a, b)
    Meshes.form(nodes)
    {:ok, agent} = Agent.start(fn -> Map.new(nodes, &{&1.n, &1}) end)
    ExUnit.Callbacks.on_exit(fn -> stop(agent) end)
    agent
  end

  # also those that were started since, by a test that ended before
  defp stop(agent) do
    for %{peer: peer} <- nodes(agent), Process.alive?(peer), do: :peer.stop(peer)
    Agent.stop(agent)
  end

  @doc false
  def node(agent, n), do: Agent.get(agent, &Map.fetch!(&1, n))

  @doc "All that run."
  @spec nodes(pid) :: [struct]
  def nodes(agent), do: Agent.get(agent, &Map.values/1)

  @doc false
  def cut_off(agent, n) do
    for node <- nodes(agent) do
      others =
        for other <- nodes(agent), other.n != node.n, n in [node.n, other.n], do: other.name

      :ok = call(node, Loopback, :cut, [others])
    end

    :ok
  end

  @doc false
  def mend(agent) do
    for node <- nodes(agent), do: :ok = call(node, Loopback, :cut, [[]])
    :ok
  end

  @doc false
  def kill(agent, n), do: agent |> node(n) |> BeamNode.kill()

  @doc false
  def revive(agent, n) do
    node = node(agent, n)
    node = BeamNode.boot({n, node.port, node.base, node.config, node.place})
    :ok = call(node, Loopback, :start, [])
    {:ok, _} = Meshes.mesh(node, :status)
    for other <- nodes(agent), other.n != n, do: join(node, other)
    Agent.update(agent, &Map.put(&1, n, node))
  end
end
