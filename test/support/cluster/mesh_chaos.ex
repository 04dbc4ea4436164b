defmodule MaculaStorage.Cluster.MeshChaos do
  @moduledoc """
  Writers of replicated files on all members of a world, and what must have become of what they wrote.

  Invariant: what was not answered may have happened or not; what was answered has. Names of one writer's own show what
  it did last; of names that all write, a version is gone only if somebody may have replaced it.
  """
  import ExUnit.Assertions
  alias MaculaStorage.Cluster.Meshes
  alias MaculaStorage.{MeshFS, Wait}
  alias MaculaStorage.Scenario.World

  # copies beside the one where a file was written, by default
  @copies 2
  @wait_ms 90_000
  @rest_ms 20

  defstruct [:tasks, :stopped, :answers]

  @doc "A call of `MaculaStorage.MeshFS` on a member, for the app of these tests."
  @spec ask(World.t(), pos_integer, atom, list) :: term
  def ask(world, n, :status, []), do: World.ask(world, n, MeshFS, :status, [])

  def ask(world, n, fun, arguments),
    do: World.ask(world, n, MeshFS, fun, [Meshes.app() | arguments])

  ## Writing

  @doc "Starts a writer for each place."
  @spec write(World.t(), integer) :: struct
  def write(world, seed) do
    counters = :counters.new(2, [])

    tasks =
      for n <- 1..world.count do
        Task.async(fn ->
          :rand.seed(:exsss, {seed, n, 1})

          began = %{world: world, dir: dir(seed), n: n, counters: counters}
          step(Map.merge(began, %{i: 1, own: %{}, told: []}))
        end)
      end

    %__MODULE__{tasks: tasks, stopped: counters, answers: counters}
  end

  @doc "Waits for so many more answers."
  @spec answered(struct, pos_integer) :: true
  def answered(%{answers: counters}, more) do
    until = :counters.get(counters, 1) + more
    Wait.until("#{more} more", fn -> :counters.get(counters, 1) >= until end, @wait_ms)
  end

  @doc "Ends the writers: what must be of the names of each, and what was told of those of all."
  @spec stop(struct) :: {%{String.t() => list}, list}
  def stop(%{tasks: tasks, stopped: counters}) do
    :counters.add(counters, 2, 1)
    states = Task.await_many(tasks, @wait_ms)
    own = Enum.reduce(states, %{}, &Map.merge(&2, &1.own))
    {own, Enum.flat_map(states, & &1.told)}
  end

  # what others of these tests wrote stays
  defp dir(seed), do: "r#{seed}"

  defp step(%{counters: counters} = state) do
    cond do
      :counters.get(counters, 2) > 0 -> state
      state.n in World.serving(state.world) -> state |> act(:rand.uniform(20)) |> step()
      true -> rest(state)
    end
  end

  defp rest(state) do
    Wait.pause(@rest_ms)
    step(state)
  end

  defp act(state, chance) when chance <= 8, do: change(state, own(state), content(state))
  defp act(state, chance) when chance <= 11, do: change(state, own(state), :deleted)
  defp act(state, chance) when chance <= 13, do: rename(state, own(state), own(state))
  defp act(state, chance) when chance <= 18, do: change(state, shared(state), content(state))
  defp act(state, 19), do: change(state, shared(state), :deleted)
  defp act(state, 20), do: resolve(state, shared(state))

  defp own(%{dir: dir, n: n}), do: "#{dir}/own#{n}/#{:rand.uniform(2)}/#{:rand.uniform(4)}"
  defp shared(%{dir: dir}), do: "#{dir}/all/#{:rand.uniform(6)}"

  defp content(%{n: n, i: i}) do
    len = if :rand.uniform(8) == 1, do: 700_000, else: 3_000
    inspect({n, i}) <> :rand.bytes(:rand.uniform(len))
  end

  @options [ack: :local, return: :info, timeout: 5_000]

  defp change(state, name, :deleted),
    do: heard(state, name, :deleted, ask(state.world, state.n, :delete, [name, @options]))

  defp change(state, name, content),
    do: heard(state, name, content, ask(state.world, state.n, :write, [name, content, @options]))

  defp rename(state, name, name), do: state

  defp rename(%{own: own} = state, from, to) do
    case own[from] do
      [content] when is_binary(content) ->
        answer = ask(state.world, state.n, :rename, [from, to, @options])
        state |> heard(to, content, answer) |> heard(from, :deleted, answer)

      _not_sure ->
        state
    end
  end

  defp resolve(state, name) do
    with {:ok, [_shown | [_ | _] = others]} <- ask(state.world, state.n, :versions, [name]),
         %{version: chosen, size: size} when size != nil <- Enum.random(others),
         {:ok, content} <- ask(state.world, state.n, :read, [name, [version: chosen]]) do
      heard(state, name, content, ask(state.world, state.n, :resolve, [name, chosen, @options]))
    else
      _ -> state
    end
  end

  # nothing was done
  defp heard(state, _name, _content, :down), do: state
  defp heard(state, _name, :deleted, {:error, :not_found}), do: state

  defp heard(state, name, content, answer) do
    :counters.add(state.counters, 1, 1)
    state = %{state | i: state.i + 1}
    version = with {:ok, %{version: version}} <- answer, do: version, else: (_ -> nil)
    noted(state, name, content, version)
  end

  defp noted(state, name, content, version) do
    if name =~ "/all/",
      do: %{state | told: [{name, content, version} | state.told]},
      else: noted_own(state, name, content, version)
  end

  defp noted_own(%{own: own} = state, name, content, nil),
    do: %{state | own: Map.update(own, name, [:deleted, content], &[content | &1])}

  defp noted_own(%{own: own} = state, name, content, _),
    do: %{state | own: Map.put(own, name, [content])}

  ## What became of it

  @doc "Waits until nothing is under way, and what lies on the disks is what all say; then it is compared."
  @spec check(World.t(), integer, {map, list}) :: :ok
  def check(world, seed, {own, told}) do
    Wait.until("all say the same, and have it", fn -> differences(world) == [] end, @wait_ms)
    shown = shown(world, dir(seed))

    for {name, candidates} <- own do
      assert Map.get(shown, name, :deleted) in candidates, "#{name} is none of what it may be"
    end

    for {name, _} <- shown, do: assert(Map.has_key?(own, name) or name =~ "/all/")
    for {name, told} <- Enum.group_by(told, &elem(&1, 0)), do: check_shared(world, name, told)
    :ok
  end

  # by a member's word, and none knows another
  defp shown(world, dir) do
    [first | _] = World.serving(world)
    {:ok, names} = ask(world, first, :list, [[prefix: dir, limit: 10_000]])

    for name <- names, into: %{} do
      [content] = Enum.uniq(for n <- World.serving(world), do: ask(world, n, :read, [name]))

      assert {:ok, content} = content
      {name, content}
    end
  end

  @doc "What is not as it shall be, yet: for whoever reads of a failure."
  @spec differences(World.t()) :: list
  def differences(world) do
    ns = World.serving(world)
    statuses = for n <- ns, do: {n, ask(world, n, :status, [])}

    case for({n, {:ok, s}} <- statuses, s.untold == 0 and s.fetching == 0, do: n) do
      ^ns -> disks(world, ns)
      _ -> [busy: statuses]
    end
  end

  # past the library: who has a file has the same as all who have it, and enough have it
  defp disks(world, ns) do
    trees = for n <- ns, into: %{}, do: {n, world |> World.base(n) |> digests()}
    lists = for n <- ns, do: ask(world, n, :list, [[limit: 10_000]])
    there = trees |> Map.values() |> Enum.flat_map(&Map.keys/1) |> Enum.uniq() |> Enum.sort()

    unlike =
      for name <- there,
          copies = for({_, %{^name => digest}} <- trees, do: digest),
          length(Enum.uniq(copies)) > 1 or length(copies) < min(@copies + 1, length(ns)),
          do: {name, length(copies), length(Enum.uniq(copies))}

    if(Enum.uniq(lists) == [{:ok, there}], do: [], else: [lists: {there, lists}]) ++ unlike
  end

  defp digests(base),
    do: Map.new(Meshes.tree(base), fn {name, content} -> {name, :erlang.md5(content)} end)

  defp check_shared(world, name, told) do
    versions = for n <- World.serving(world), do: versions(world, n, name)
    assert [left] = Enum.uniq(versions)

    for {_, content, version} when version != nil <- told do
      if version in left do
        for n <- World.serving(world), content != :deleted do
          assert ask(world, n, :read, [name, [version: version]]) == {:ok, content},
                 "#{name} #{inspect(version)} on #{n}"
        end
      else
        assert Enum.any?(told, fn {_, _, other} -> other == nil or other > version end),
               "#{name} #{inspect(version)} was replaced by nobody"
      end
    end
  end

  defp versions(world, n, name) do
    case ask(world, n, :versions, [name]) do
      {:ok, versions} -> Enum.map(versions, & &1.version)
      {:error, :not_found} -> []
    end
  end

  @doc "What one has on its disk, as a file or kept, and no other has."
  @spec only_there(World.t(), pos_integer) :: [Path.t()]
  def only_there(world, n) do
    others = for m <- Enum.to_list(1..world.count) -- [n], do: world |> contents(m) |> Map.keys()
    for {_digest, path} <- Map.drop(contents(world, n), Enum.concat(others)), do: path
  end

  defp contents(world, n) do
    base = World.base(world, n)
    data = Path.join([base, "apps", Meshes.app(), "data"])

    for below <- ["files/**", ".macula/kept/*"],
        path <- Path.wildcard(Path.join(data, below), match_dot: true),
        {:ok, content} <- [File.read(path)],
        into: %{},
        do: {:erlang.md5(content), path}
  end
end
