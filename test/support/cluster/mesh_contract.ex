defmodule MaculaStorage.Cluster.MeshContract do
  @moduledoc """
  What replicated files of three members do, whoever carries what they ask of each other.

      use MaculaStorage.Cluster.MeshContract, over: MaculaStorage.Cluster.OverLinks

  Of each file two members have a copy, so that the third reads it from them. `over` makes the members and parts them:
  `start/1` (with a configuration), `node/2` (the n-th), `cut_off/2`, `mend/1`, `kill/2`, `revive/2`.

  Invariant: each test begins and ends with all members there, and has names of its own.
  """
  import ExUnit.Assertions
  import MaculaStorage.BeamNode, only: [call: 4]
  alias MaculaStorage.{Error, MeshFS, Wait}
  alias MaculaStorage.Cluster.{Meshes, MeshProcess}

  @all 1..3
  @wait_ms 60_000

  defmacro __using__(over: over) do
    quote do
      alias MaculaStorage.Cluster.MeshContract
      @moduletag timeout: 300_000

      setup_all do
        members = {unquote(over), unquote(over).start(mesh_copies: 1)}
        MeshContract.meet(members)
        %{members: members}
      end

      setup do
        %{dir: "d#{System.unique_integer([:positive])}"}
      end

      test("what one writes another has when it is acknowledged, and the third reads", context,
        do: MeshContract.written(context.members, context.dir)
      )

      test("a large file is read everywhere, also parts of it", context,
        do: MeshContract.large(context.members, context.dir)
      )

      test("what is deleted is gone everywhere", context,
        do: MeshContract.deleted(context.members, context.dir)
      )

      test("one that is cut off goes on, and all merge", context,
        do: MeshContract.parted(context.members, context.dir)
      )

      test("one is killed: the others have what it had, and it has what came meanwhile", context,
        do: MeshContract.killed(context.members, context.dir)
      )
    end
  end

  defp ask({over, members}, n, fun, arguments),
    do: call(over.node(members, n), MeshFS, fun, [Meshes.app() | arguments])

  @doc false
  def meet({over, members}), do: Meshes.meet(for n <- @all, do: over.node(members, n))

  # every member reads the same, and nothing is under way
  defp agreed({over, members} = all, names) do
    Wait.until(
      "the same on all",
      fn ->
        reads = for name <- names, do: for(n <- @all, do: ask(all, n, :read, [name]))
        statuses = for n <- @all, do: call(over.node(members, n), MeshFS, :status, [])

        Enum.all?(statuses, &match?({:ok, %{untold: 0, fetching: 0}}, &1)) and
          Enum.all?(reads, &(length(Enum.uniq(&1)) == 1))
      end,
      @wait_ms
    )
  end

  # durable on the writer: who shall have the copy may be away
  defp change(all, n, fun, arguments) do
    case ask(all, n, fun, arguments ++ [[timeout: 500]]) do
      :ok -> :ok
      {:error, %Error{kind: :unreachable}} -> :ok
    end
  end

  defp here({over, members}, name),
    do: for(n <- @all, File.exists?(Meshes.file(over.node(members, n), name)), do: n)

  @doc false
  def written(all, dir) do
    large = :rand.bytes(1_300_000)

    for {name, content} <- [{"empty", ""}, {"small", "small"}, {"large", large}], n <- @all do
      name = "#{dir}/#{n}/#{name}"
      options = [ack: 1, return: :info]

      assert {:ok, %{replicas: 1, version: version}} =
               ask(all, n, :write, [name, content, options])

      # two have it as a plain file, and all can read it
      assert [_, _] = holders = here(all, name)
      assert n in holders

      for m <- @all do
        Wait.until("word of it", fn -> match?({:ok, _}, ask(all, m, :stat, [name])) end)
        assert {:ok, ^content} = ask(all, m, :read, [name])
        here? = m in holders
        assert {:ok, %{version: ^version, here: ^here?}} = ask(all, m, :stat, [name])
      end
    end

    # each replaces what another one wrote, without a conflict
    for n <- [2, 3, 1] do
      assert :ok = ask(all, n, :write, ["#{dir}/1/small", "of #{n}"])
      agreed(all, ["#{dir}/1/small"])
    end

    for n <- @all do
      assert {:ok, "of 1"} = ask(all, n, :read, ["#{dir}/1/small"])
      assert {:ok, %{conflicts: 0}} = ask(all, n, :stat, ["#{dir}/1/small"])
    end

    assert {:error, %Error{kind: :unreachable} = error} =
             ask(all, 1, :write, ["#{dir}/acks", "3", [ack: 3, timeout: 500]])

    assert error.message =~ "of 3"
  end

  @doc false
  def large({over, members} = all, dir) do
    name = "#{dir}/large"
    arguments = [Meshes.app(), name, 12, 7]
    assert :ok = call(over.node(members, 1), MeshProcess, :write, arguments)
    digest = MeshProcess.digest(12, 7)

    for n <- @all do
      Wait.until("word of it", fn -> match?({:ok, _}, ask(all, n, :stat, [name])) end)
      assert digest == call(over.node(members, n), MeshProcess, :read, [Meshes.app(), name])
    end

    assert {:ok, part} = ask(all, 3, :read, [name, [range: {5_000_000, 700_000}]])

    for n <- [1, 2],
        do: assert({:ok, part} == ask(all, n, :read, [name, [range: {5_000_000, 700_000}]]))
  end

  @doc false
  def deleted(all, dir) do
    names = for n <- @all, do: "#{dir}/#{n}"
    for name <- names, do: assert(:ok = ask(all, 1, :write, [name, "content", [ack: 1]]))
    agreed(all, names)

    for {name, n} <- Enum.zip(names, @all), do: assert(:ok = ask(all, n, :delete, [name]))

    agreed(all, names)

    for n <- @all do
      assert {:ok, []} = ask(all, n, :list, [[prefix: dir]])
      for name <- names, do: assert({:error, :not_found} = ask(all, n, :read, [name]))
    end

    for name <- names, do: assert(here(all, name) == [])
  end

  @doc false
  def parted({over, members} = all, dir) do
    [both, deleted, kept, new3, new1] =
      for name <- ~w(both deleted kept new3 new1), do: "#{dir}/#{name}"

    for name <- [both, deleted, kept], do: assert(:ok = ask(all, 1, :write, [name, "before"]))
    agreed(all, [both, deleted, kept])
    large = :rand.bytes(1_500_000)

    over.cut_off(members, 3)

    assert {:error, %Error{kind: :unreachable}} =
             ask(all, 3, :write, [both, "of 3", [timeout: 500]])

    assert :ok = ask(all, 3, :write, [new3, large, [ack: :local]])
    assert :ok = ask(all, 3, :delete, [deleted, [ack: :local]])
    assert :ok = ask(all, 3, :delete, [kept, [ack: :local]])

    # the others do not wait for it
    assert :ok = change(all, 1, :write, [both, "of 1"])
    assert :ok = change(all, 2, :write, [new1, "new"])
    assert :ok = change(all, 2, :write, [kept, "written since"])
    assert {:error, :not_found} = ask(all, 1, :read, [new3])
    assert {:error, :not_found} = ask(all, 3, :read, [new1])

    over.mend(members)
    meet(all)
    names = [both, deleted, kept, new3, new1]
    agreed(all, names)

    for n <- @all do
      assert {:ok, listed} = ask(all, n, :list, [[prefix: dir]])
      assert listed == Enum.sort(names -- [deleted])
      assert {:ok, ^large} = ask(all, n, :read, [new3])
      assert {:ok, "new"} = ask(all, n, :read, [new1])
      assert {:ok, "written since"} = ask(all, n, :read, [kept])
      # the later one is shown, the other is kept
      assert {:ok, "of 1"} = ask(all, n, :read, [both])
      assert {:ok, [_, %{version: other}]} = ask(all, n, :versions, [both])
      assert {:ok, "of 3"} = ask(all, n, :read, [both, [version: other]])
    end
  end

  @doc false
  def killed({over, members} = all, dir) do
    before = for n <- 1..20, do: {"#{dir}/before#{n}", :rand.bytes(n * 20_000)}
    # each that waits for a copy on the one that is gone waits in vain
    during = for n <- 1..8, do: {"#{dir}/during#{n}", :rand.bytes(n * 50_000)}
    # one of two that have it is killed: the other is left
    for {{name, content}, n} <- Enum.with_index(before),
        do: assert(:ok = ask(all, rem(n, 3) + 1, :write, [name, content]))

    over.kill(members, 2)

    for {{name, content}, n} <- Enum.with_index(during),
        do: assert(:ok = change(all, Enum.at([1, 3], rem(n, 2)), :write, [name, content]))

    for n <- [1, 3], {name, content} <- before ++ during do
      Wait.until("word of it", fn -> match?({:ok, _}, ask(all, n, :stat, [name])) end)
      assert {:ok, content} == ask(all, n, :read, [name])
    end

    over.revive(members, 2)
    meet(all)
    agreed(all, for({name, _} <- before ++ during, do: name))

    for n <- @all,
        {name, content} <- before ++ during,
        do: assert({:ok, content} == ask(all, n, :read, [name]))
  end
end
