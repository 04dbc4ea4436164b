defmodule MaculaStorage.Cluster.MeshFSChaosTest do
  @moduledoc """
  Five members of which each writes all the time, while they are parted, killed, removed and added by chance: afterwards
  all that was acknowledged is there, and all have the same. `MACULA_SEED` runs one again (its events, not their moments);
  `MACULA_TORTURE` runs more of them.
  """
  use ExUnit.Case, async: false

  alias MaculaStorage.{BeamNode, Khepri, MeshFS, Scenario}
  alias MaculaStorage.Cluster.{MeshChaos, Meshes}
  alias MaculaStorage.Scenario.World

  @moduletag timeout: 3_600_000
  @change_ms 30_000
  @runs 1
  @torture_runs 20
  @events 7

  setup_all do
    %{world: Scenario.world(5, 5)}
  end

  # of calls that are on their way to who is killed
  @tag :capture_log
  test "whatever happens to five that write", %{world: world} do
    seed = Scenario.seed()
    runs = if System.get_env("MACULA_TORTURE"), do: @torture_runs, else: @runs

    for seed <- seed..(seed + runs - 1) do
      :rand.seed(:exsss, seed)
      events = for _ <- 1..@events, do: event(:rand.uniform(10))
      IO.puts("mesh files, chaos: seed=#{seed} events=#{inspect(events)}")
      run(world, seed, events)
    end
  end

  defp event(chance) when chance <= 4, do: {:half, Enum.take_random(1..5, 2)}
  defp event(5), do: :mend
  defp event(chance) when chance <= 8, do: {:kill, Enum.random(1..5)}
  defp event(_), do: {:another, Enum.random(1..5)}

  defp run(world, seed, events) do
    writers = MeshChaos.write(world, seed)
    MeshChaos.answered(writers, 30)

    for event <- events do
      happens(world, event)
      MeshChaos.answered(writers, 40)
    end

    calm(world)
    MeshChaos.answered(writers, 30)
    written = MeshChaos.stop(writers)

    try do
      MeshChaos.check(world, seed, written)
    rescue
      error ->
        # what lies where is gone with the nodes
        shown = inspect(MeshChaos.differences(world), limit: 200)
        IO.puts("mesh files, chaos: seed=#{seed} differences=#{shown}")
        reraise error, __STACKTRACE__
    end
  end

  defp happens(world, {:half, half}) do
    World.mend(world)

    for a <- half,
        b <- Enum.to_list(1..5) -- half,
        {from, to} <- [{a, b}, {b, a}],
        do: World.cut(world, from, to)
  end

  defp happens(world, :mend), do: calm(world)

  # in the middle of whatever it does; three go on, so that there is a majority again
  defp happens(world, {:kill, n}) do
    if World.node(world, n) != nil and length(World.serving(world)) > 3, do: World.kill(world, n)
  end

  # removed in good order, when others have what it has; then one without anything takes its place
  defp happens(world, {:another, n}) do
    calm(world)
    Meshes.meet(for m <- 1..5, do: World.node(world, m))
    node = World.node(world, n)
    # a moment without writers, so that it can be seen that there is nothing left to be told
    for m <- 1..5, do: World.serve(world, m, false)

    held = fn ->
      {:ok, status} = BeamNode.call(node, MeshFS, :status, [])
      {status.untold, status.fetching, MeshChaos.only_there(world, n)}
    end

    unless Meshes.becomes?(@change_ms, fn -> held.() == {0, 0, []} end),
      do: flunk("others do not have what is only on #{n}: #{inspect(held.(), limit: 100)}")

    for m <- 1..5, m != n, do: World.serve(world, m)
    assert :ok = BeamNode.call(node, Khepri, :leave, [node.name, [timeout: @change_ms]])
    World.kill(world, n)
    File.rm_rf!(World.base(world, n))
    joiner = World.boot(world, n)
    World.connect(world, joiner)
    other = World.name(world, hd(World.serving(world)))
    assert :ok = BeamNode.call(joiner, Khepri, :join, [other, [timeout: @change_ms]])
    World.serve(world, n)
  end

  defp calm(world) do
    World.mend(world)
    for n <- 1..5, World.node(world, n) == nil, do: World.revive(world, n)
    Meshes.meet(for n <- 1..5, do: World.node(world, n))
  end
end
