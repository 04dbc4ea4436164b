defmodule MaculaStorage.Cluster.MeshFSFullTest do
  @moduledoc """
  Replicated files where one member's disk is full: others have what it cannot take, or who wrote is told; nothing half
  is to be seen there, and it has all of it when there is room again.
  """
  use ExUnit.Case, async: false

  alias MaculaStorage.{Error, MeshFS, Scenario, Wait}
  alias MaculaStorage.Cluster.{Meshes, MeshProcess}
  alias MaculaStorage.Scenario.{Disks, World}

  @moduletag timeout: 600_000
  @full 3

  setup_all do
    world = Scenario.world(3, 3)
    meet(world)
    %{world: world}
  end

  defp ask(world, n, fun, arguments),
    do: World.ask(world, n, MeshFS, fun, [Meshes.app() | arguments])

  defp long(world, n, name, mebibytes, options) do
    arguments = [Meshes.app(), name, mebibytes, mebibytes, options]
    World.ask(world, n, MeshProcess, :write, arguments)
  end

  defp nodes(world), do: for(n <- 1..3, do: World.node(world, n))
  defp meet(world), do: world |> nodes() |> Meshes.meet()
  defp md5(content), do: :erlang.md5(content)

  # so that what is long begins to come, and does not fit
  defp leave_little(world) do
    World.fill(world, @full)
    ballast = Path.join(Disks.path(world.disks, @full), "ballast")
    {_, 0} = System.cmd("truncate", ["-s", "-8M", ballast])
  end

  # all that whoever looks sees there meanwhile
  defp look(world, seen \\ MapSet.new()) do
    tree = world |> World.base(@full) |> Meshes.tree()
    seen = for {name, content} <- tree, into: seen, do: {name, md5(content)}

    receive do
      :enough -> seen
    after
      20 -> look(world, seen)
    end
  end

  test "others take what one has no room for, and it gets it when it has", %{world: world} do
    if World.can_fill(world), do: full(world)
  end

  defp full(world) do
    before = for n <- 1..20, into: %{}, do: {"f/#{n}", :rand.bytes(n * 10_000)}

    for {name, content} <- before,
        do: assert(:ok = ask(world, 1, :write, [name, content, [ack: :all]]))

    leave_little(world)
    looker = Task.async(fn -> look(world) end)
    assert :ok = long(world, 1, "long", 40, ack: 1)

    assert {:error, %Error{kind: :unreachable}} =
             long(world, 1, "told", 30, ack: :all, timeout: 3_000)

    assert {:error, :disk_full} = long(world, @full, "own", 20, ack: :local)

    # over some that are there, and beside them
    since = for n <- 11..60, into: %{}, do: {"f/#{n}", :rand.bytes(:rand.uniform(400_000))}

    for {name, content} <- since,
        do: assert(:ok = ask(world, 1, :write, [name, content, [ack: 1]]))

    assert :ok = ask(world, 2, :delete, ["f/1", [ack: 1]])
    assert {:ok, before["f/2"]} == ask(world, @full, :read, ["f/2"])

    refute World.base(world, @full) |> Meshes.tree() |> Map.has_key?("long")
    World.free(world)
    Meshes.same_trees(nodes(world))
    send(looker.pid, :enough)
    seen = Task.await(looker)

    digests = fn contents -> for {name, content} <- contents, do: {name, md5(content)} end
    long = [{"long", MeshProcess.digest(40, 40)}, {"told", MeshProcess.digest(30, 30)}]
    half = MapSet.difference(seen, MapSet.new(digests.(before) ++ digests.(since) ++ long))
    assert MapSet.to_list(half) == []

    there = before |> Map.delete("f/1") |> Map.merge(since) |> digests.()
    tree = world |> World.base(@full) |> Meshes.tree() |> digests.()
    assert Enum.sort(tree) == Enum.sort(there ++ long)
    Wait.until("nothing is staged", fn -> Meshes.staged(World.node(world, @full)) == [] end)
    assert :ok = ask(world, @full, :write, ["f/of3", "3", [ack: :all]])
  end
end
