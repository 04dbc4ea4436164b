defmodule MaculaStorage.Cluster.MeshFSCutTest do
  @moduledoc "Replicated files on members that do not hear each other: each goes on, and what they wrote merges."
  use ExUnit.Case, async: false

  alias MaculaStorage.{Error, MeshFS, Scenario, Wait}
  alias MaculaStorage.Cluster.{Meshes, MeshProcess}
  alias MaculaStorage.Scenario.World

  @moduletag timeout: 300_000

  setup_all do
    world = Scenario.world(3, 3)
    meet(world)
    %{world: world}
  end

  setup %{world: world} do
    on_exit(fn -> World.mend(world) end)
    %{dir: "d#{System.unique_integer([:positive])}"}
  end

  defp ask(world, n, fun, arguments),
    do: World.ask(world, n, MeshFS, fun, [Meshes.app() | arguments])

  defp all, do: 1..3

  defp cut_off(world, n),
    do: for(m <- all(), m != n, {a, b} <- [{n, m}, {m, n}], do: World.cut(world, a, b))

  defp meet(world), do: Meshes.meet(for n <- all(), do: World.node(world, n))

  defp merged(world) do
    World.mend(world)
    meet(world)
    Meshes.same_trees(for n <- all(), do: World.node(world, n))
  end

  test "one that is cut off goes on, and all merge", %{world: world, dir: dir} do
    [both, deleted, kept, gone, new3, new1, large] =
      for name <- ~w(both deleted kept gone new3 new1 large), do: "#{dir}/#{name}"

    for name <- [both, deleted, kept, gone],
        do: assert(:ok = ask(world, 1, :write, [name, "before", [ack: :all]]))

    cut_off(world, 3)
    bytes = :crypto.strong_rand_bytes(1_500_000)

    # the minority goes on, and says that nobody else has it
    assert {:ok, "before"} = ask(world, 3, :read, [both])

    assert {:error, %Error{kind: :unreachable}} =
             ask(world, 3, :write, [both, "of 3", [timeout: 500]])

    for {name, content} <- [{new3, "new"}, {large, bytes}],
        do: assert(:ok = ask(world, 3, :write, [name, content, [ack: :local]]))

    assert :ok = ask(world, 3, :write, [deleted, "written since", [ack: :local]])
    assert :ok = ask(world, 3, :delete, [kept, [ack: :local]])
    assert :ok = ask(world, 3, :delete, [gone, [ack: :local]])
    assert {:ok, names} = ask(world, 3, :list, [[prefix: dir]])
    assert names == Enum.sort([both, deleted, new3, large])

    # and so do the others
    assert :ok = ask(world, 1, :write, [both, "of 1"])
    assert :ok = ask(world, 2, :write, [new1, "new"])
    assert :ok = ask(world, 2, :delete, [deleted])
    assert :ok = ask(world, 1, :write, [kept, "written since"])
    assert :ok = ask(world, 2, :delete, [gone])

    merged(world)

    for n <- all() do
      assert {:ok, names} = ask(world, n, :list, [[prefix: dir]])
      assert names == Enum.sort([both, deleted, kept, new3, new1, large])
      # what somebody wrote stays, whoever deleted what was before
      for name <- [deleted, kept],
          do: assert({:ok, "written since"} = ask(world, n, :read, [name]))

      for name <- [new3, new1], do: assert({:ok, "new"} = ask(world, n, :read, [name]))
      assert {:ok, ^bytes} = ask(world, n, :read, [large])
      assert {:error, :not_found} = ask(world, n, :read, [gone])
      assert {:ok, %{conflicts: 1}} = ask(world, n, :stat, [both])
      # the later one is shown
      assert {:ok, "of 1"} = ask(world, n, :read, [both])
      assert {:ok, [_, %{version: other}]} = ask(world, n, :versions, [both])
      assert {:ok, "of 3"} = ask(world, n, :read, [both, [version: other]])
    end

    # a deletion takes what is shown, the other is not brought back by it
    assert :ok = ask(world, 2, :delete, [both, [ack: :all]])

    for n <- all() do
      assert {:error, :not_found} = ask(world, n, :read, [both])
      assert {:ok, [%{size: nil}, %{version: other}]} = ask(world, n, :versions, [both])
      assert {:ok, "of 3"} = ask(world, n, :read, [both, [version: other]])
    end

    {:ok, [_, %{version: other}]} = ask(world, 3, :versions, [both])
    assert :ok = ask(world, 3, :resolve, [both, other, [ack: :all]])
    for n <- all(), do: assert({:ok, "of 3"} = ask(world, n, :read, [both]))
  end

  test "each is alone: three versions, and what is read of others waits no longer than told", %{
    world: world,
    dir: dir
  } do
    name = "#{dir}/a"
    for n <- all(), do: cut_off(world, n)

    versions =
      for n <- all() do
        options = [ack: :local, return: :info]
        {:ok, %{version: version}} = ask(world, n, :write, [name, "of #{n}", options])
        {version, "of #{n}"}
      end

    for n <- all(), do: assert({:ok, "of #{n}"} == ask(world, n, :read, [name]))
    merged(world)
    {last, shown} = Enum.max(versions)

    for n <- all() do
      assert {:ok, ^shown} = ask(world, n, :read, [name])
      assert {:ok, %{version: ^last, conflicts: 2}} = ask(world, n, :stat, [name])

      for {version, content} <- versions,
          do: assert({:ok, content} == ask(world, n, :read, [name, [version: version]]))
    end
  end

  # A collection has no timeout of its own: it waited for others as long as they were away.
  test "what is collected on one that is cut off ends, and is there", %{world: world, dir: dir} do
    cut_off(world, 3)
    arguments = [Meshes.app(), "#{dir}/a", 1, 1]
    task = Task.async(fn -> World.ask(world, 3, MeshProcess, :try_collect, arguments) end)
    ended = Task.yield(task, 30_000) || Task.shutdown(task, :brutal_kill)
    assert {:ok, %{size: 1_048_576}} = ask(world, 3, :stat, ["#{dir}/a"])
    merged(world)
    assert {:ok, %{size: 1_048_576}} = ask(world, 1, :stat, ["#{dir}/a"])
    assert {:ok, {:error, %Error{kind: :unreachable}}} = ended
  end

  test "only one direction is cut", %{world: world, dir: dir} do
    World.cut(world, 3, 1)
    World.cut(world, 3, 2)
    assert :ok = ask(world, 3, :write, ["#{dir}/of3", "3", [ack: :local]])
    assert :ok = ask(world, 1, :write, ["#{dir}/of1", "1"])
    merged(world)

    for n <- all(),
        m <- [1, 3],
        do: Wait.until("it", fn -> ask(world, n, :read, ["#{dir}/of#{m}"]) == {:ok, "#{m}"} end)
  end
end
