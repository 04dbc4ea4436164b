defmodule MaculaStorage.Scenario do
  @moduledoc """
  Scenarios as data: what is done to the nodes of a cluster while clients use it, and what must be true afterwards.

      Scenario.run(world, "no leader", [{:isolate, :leader}, {:answered, 100}, :mend], seed: 1)

  Whom a step is about: a number, `:leader`, `:follower` (one by chance), `:last` (whom the step before was about).
  Chance is the seed's; the order among processes is not.

  Invariant: at its end all who are members run and see each other, so that the next one may begin.
  """
  import ExUnit.Assertions
  alias MaculaStorage.{BeamNode, Khepri, Wait}
  alias MaculaStorage.Scenario.{Checks, Clients, Watcher, World}

  @type who :: World.n() | :leader | :follower | :last
  @type step ::
          {:answered, pos_integer}
          | {:pause_ms, pos_integer}
          | {:burst, pos_integer}
          | {:alone | :lead, who}
          | {:isolate | :deaf | :mute | :freeze | :kill | :power | :wipe | :leave | :join, who}
          | {:apart, who, who}
          | {:half, who, pos_integer}
          | {:replace, who, who}
          | {:fill, who}
          | {:clock, who, integer}
          | :free
          | :mend
          | :revive
          | :hold
          | :look
          | :go
          | :roll

  @change_ms 30_000

  @doc "Whether a scenario takes disks that forget."
  @spec forgets?([step]) :: boolean
  def forgets?(steps), do: Enum.any?(steps, &match?({:power, _}, &1))

  @doc "Whether a scenario takes disks that can be filled."
  @spec fills?([step]) :: boolean
  def fills?(steps), do: Enum.any?(steps, &match?({:fill, _}, &1))

  @doc """
  Steps by chance for a cluster of the members `1..members`: two faults at once, the second with no regard to whom the
  first one hit, then peace, `rounds` times. A disk is lost only in peace: more than one at a time may lose what was
  acknowledged.
  """
  @spec random(pos_integer, pos_integer, integer) :: [step]
  def random(members, rounds, seed) do
    :rand.seed(:exsss, seed)
    Enum.flat_map(1..rounds, fn _ -> round(members, :rand.uniform(8)) end)
  end

  defp round(_members, 1), do: [{:wipe, role()}, {:answered, 20}]
  defp round(_members, 2), do: [:roll]

  defp round(members, _) do
    pause = {:pause_ms, :rand.uniform(1_500)}
    second = {Enum.random([:isolate, :freeze, :kill, :mute, :deaf]), :rand.uniform(members)}
    [first(members), pause, second, pause, :mend, :revive, {:answered, 50}]
  end

  defp first(members) do
    Enum.random([
      {:isolate, role()},
      {:freeze, role()},
      {:kill, role()},
      {:power, role()},
      {:mute, role()},
      {:deaf, role()},
      {:apart, :leader, :follower},
      {:half, role(), div(members, 2)}
    ])
  end

  defp role, do: Enum.random([:leader, :follower])

  @doc """
  A world of `places`, of which the first are members, for all tests of a module, in a directory of its own, with
  `World.make/3`'s options; what cannot be done in it is said.
  """
  @spec world(pos_integer, pos_integer, keyword) :: World.t()
  def world(places, members, options \\ []) do
    World.sweep()
    dir = World.dir()
    ExUnit.Callbacks.on_exit(fn -> File.rm_rf!(dir) end)
    world = World.make(dir, places, options)
    ExUnit.Callbacks.on_exit(fn -> World.stop(world) end)

    unless World.can_fill(world),
      do: IO.puts("scenarios that fill disks are left out: a tmpfs cannot be mounted here")

    unless World.can_lose_power(world),
      do: IO.puts("scenarios that lose power are left out: an image cannot be mounted here")

    World.form(world, Enum.to_list(1..members))
    world
  end

  @doc "Whether the machine allows all that a scenario takes."
  @spec can?(World.t(), [step]) :: boolean
  def can?(world, steps) do
    (World.can_fill(world) or not fills?(steps)) and
      (World.can_lose_power(world) or not forgets?(steps))
  end

  @doc "One by chance for each seed, of what the machine allows."
  @spec by_chance(World.t(), pos_integer, Enumerable.t()) :: :ok
  def by_chance(world, members, seeds) do
    for seed <- seeds, steps = random(members, 2, seed), can?(world, steps) do
      run(world, "by chance of #{members} #{inspect(steps)}", steps, seed: seed)
    end

    :ok
  end

  @doc "The seed of this run's chance."
  @spec seed() :: integer
  def seed, do: String.to_integer(System.get_env("MACULA_SEED", "#{:rand.uniform(1_000_000)}"))

  @doc "Runs one; fails when something is not as it must be."
  @spec run(World.t(), String.t(), [step], keyword) :: :ok
  def run(world, name, steps, options) do
    seed = Keyword.fetch!(options, :seed)
    :rand.seed(:exsss, seed)
    run = [:scenario, name, System.unique_integer([:positive])]
    clients = Clients.start(world, run, Keyword.get(options, :each, 2), seed)
    watches = for n <- World.serving(world), do: Watcher.follow(world, run, n)
    Clients.answered(clients, 50)
    state = %{world: world, clients: clients, last: nil, outages: []}
    state = Enum.reduce([:mend, :revive], Enum.reduce(steps, state, &step/2), &step/2)
    healed_ms = Checks.writes_again(world, run)
    Clients.answered(clients, 50)
    calls = Clients.stop(clients)
    revision = close(world, run)
    followed = Enum.map(watches, &Watcher.through(&1, revision))
    Checks.nothing_lost(world, run, calls)
    Checks.linearizable(calls)
    behind = Checks.watches(world, run, calls, followed, revision)
    Checks.same_state(world, run)
    tell(name, calls, seed: seed, healed_ms: healed_ms, outages: state.outages, behind: behind)
  end

  # The last change; every member has it.
  defp close(world, run) do
    [one | _] = serving = World.serving(world)
    path = run ++ [:end]
    :ok = World.ask(world, one, :put, [path, true])
    revisions = for n <- serving, do: World.ask(world, n, :get, [path, [details: true]])
    [{:ok, %{modified: revision}}] = Enum.uniq(revisions)
    revision
  end

  defp tell(name, calls, facts) do
    outcomes =
      Enum.frequencies_by(calls, &if(is_tuple(elem(&1, 4)), do: :read, else: elem(&1, 4)))

    facts =
      Enum.map_join(facts, " ", fn {key, value} ->
        "#{key}=#{inspect(value, charlists: :as_lists)}"
      end)

    IO.puts("scenario #{name}: #{facts} calls=#{inspect(outcomes)}")
  end

  ## Steps

  # how long it took tells of an outage
  defp step({:answered, count}, state) do
    took_ms = Clients.answered(state.clients, count)
    %{state | outages: state.outages ++ [took_ms]}
  end

  defp step({:pause_ms, ms}, state) do
    Wait.pause(ms)
    state
  end

  # past a checkpoint, behind which the log goes: who was away gets a snapshot
  defp step({:burst, count}, %{world: world} = state) do
    n = World.leader(world)
    assert {n, World.ask(world, n, Clients, :burst, [count])} == {n, %{{:ok, :ok} => count}}
    state
  end

  defp step(:mend, state) do
    World.mend(state.world)
    state
  end

  # clients rest, so that what comes first is a read
  defp step(:hold, state) do
    Clients.hold(state.clients, true)
    state
  end

  defp step(:look, state) do
    for n <- World.serving(state.world), do: Clients.look(state.clients, n)
    state
  end

  defp step(:go, state) do
    Clients.hold(state.clients, false)
    state
  end

  defp step(:free, state) do
    World.free(state.world)
    state
  end

  # all that were killed
  defp step(:revive, state) do
    %{world: world} = state
    for n <- Map.get(state, :killed, []), do: World.revive(world, n)
    Map.put(state, :killed, [])
  end

  # one after another, each in good order, each a member again before the next
  defp step(:roll, %{world: world} = state) do
    for n <- Enum.shuffle(World.serving(world)) do
      World.shut(world, n)
      World.revive(world, n)
      {:ok, _} = World.ask(world, n, :get, [[:scenario], [details: true]])
      Clients.answered(state.clients, 20)
    end

    state
  end

  # its wall clock is so many seconds off, from within a second on
  defp step({:clock, who, seconds}, state) do
    {n, state} = who(who, state)
    World.set_clock(state.world, n, seconds)

    Wait.until("the clock of n=#{n} jumps", fn ->
      there = BeamNode.call(World.node(state.world, n), :os, :system_time, [:second])
      abs(there - System.os_time(:second) - seconds) < 5
    end)

    state
  end

  defp step({:half, who, size}, state) do
    {n, state} = who(who, state)
    others = Enum.shuffle(World.serving(state.world) -- [n])
    half = [n | Enum.take(others, size - 1)]
    for a <- half, b <- places(state) -- half, do: cut(state, [{a, b}, {b, a}])
    state
  end

  defp step({:apart, who, whom}, state) do
    {a, state} = who(who, state)
    {b, state} = who(whom, state)
    cut(state, [{a, b}, {b, a}])
  end

  defp step({:replace, who, new}, state) do
    {new, _} = who(new, state)
    {old, state} = who(who, state)
    joiner = boot_to_join(state.world, new)
    retire(state, old)
    other = hd(World.awake(state.world) -- [old])

    assert :ok =
             World.ask(state.world, other, :replace, [
               World.name(state.world, old),
               joiner.name,
               [timeout: @change_ms]
             ])

    World.serve(state.world, new)
    end_node(state.world, old)
    state
  end

  defp step({what, who}, state) do
    {n, state} = who(who, state)
    to_one(what, n, state)
  end

  defp to_one(:isolate, n, state),
    do: cut(state, for(m <- places(state), m != n, pair <- [{n, m}, {m, n}], do: pair))

  # it may lack too much to lead, or another may be faster
  defp to_one(:lead, n, %{world: world} = state) do
    one = hd(World.awake(world))
    answer = World.ask(world, one, :transfer_leader, [World.name(world, n), [timeout: 5_000]])
    assert answer in [:ok, {:error, :timeout}]
    state
  end

  # in a minority: nothing is decided there, and what it has is read
  defp to_one(:alone, n, %{world: world, clients: %{run: run}} = state) do
    wait = [timeout: 1_000]
    assert {:error, why} = World.ask(world, n, :put, [run ++ [:alone], n, wait])
    assert why in [:no_quorum, :timeout]
    assert {:error, :no_quorum} = World.ask(world, n, :get, [run, [details: true] ++ wait])
    local = [details: true, consistency: :local]
    assert {:ok, %Khepri.Node{}} = World.ask(world, n, :get, [run, local])
    state
  end

  defp to_one(:mute, n, state), do: cut(state, for(m <- places(state), m != n, do: {n, m}))
  defp to_one(:deaf, n, state), do: cut(state, for(m <- places(state), m != n, do: {m, n}))

  defp to_one(:freeze, n, state) do
    if World.node(state.world, n), do: World.pause(state.world, n)
    state
  end

  defp to_one(:fill, n, state) do
    World.fill(state.world, n)
    state
  end

  defp to_one(:kill, n, state) do
    if World.node(state.world, n) do
      World.kill(state.world, n)
      Map.update(state, :killed, [n], &[n | &1])
    else
      state
    end
  end

  defp to_one(:power, n, state) do
    if World.node(state.world, n) do
      World.lose_power(state.world, n)
      Map.update(state, :killed, [n], &[n | &1])
    else
      state
    end
  end

  defp to_one(:wipe, n, state) do
    peace(state)
    World.kill(state.world, n)
    File.rm_rf!(World.base(state.world, n))
    to_one(:join, n, state)
  end

  defp to_one(:join, n, %{world: world} = state) do
    other = hd(World.awake(world) -- [n])
    joiner = boot_to_join(world, n)
    options = [timeout: @change_ms]
    assert :ok = BeamNode.call(joiner, Khepri, :join, [World.name(world, other), options])
    World.serve(world, n)
    state
  end

  defp to_one(:leave, n, state) do
    node = World.node(state.world, n)
    retire(state, n)
    assert :ok = BeamNode.call(node, Khepri, :leave, [node.name, [timeout: @change_ms]])
    end_node(state.world, n)
    state
  end

  # every member is heard: with one disk less a majority is left
  defp peace(%{world: world, clients: %{run: run}}) do
    [path, value] = [run ++ [:peace], System.unique_integer()]
    put = fn -> World.ask(world, World.leader(world), :put, [path, value]) == :ok end
    Wait.until("a write in peace", put)

    Wait.until("all members have it", fn ->
      Enum.all?(World.serving(world), fn n ->
        World.ask(world, n, :get, [path, [consistency: :local]]) == {:ok, value}
      end)
    end)
  end

  # a call that is under way there would be answered by what the node is afterwards
  defp retire(state, n) do
    World.serve(state.world, n, false)
    Clients.idle(state.clients, n)
  end

  defp boot_to_join(world, n) do
    File.rm_rf!(World.base(world, n))
    node = World.boot(world, n)
    World.connect(world, node)
    node
  end

  defp end_node(world, n) do
    World.kill(world, n)
    File.rm_rf!(World.base(world, n))
  end

  defp cut(%{world: world} = state, pairs) do
    for {from, to} <- pairs, do: World.cut(world, from, to)
    state
  end

  defp places(state), do: Enum.to_list(1..state.world.count)

  defp who(n, state) when is_integer(n), do: {n, %{state | last: n}}
  defp who(:last, %{last: n} = state), do: {n, state}

  defp who(:leader, state) do
    leader = World.leader(state.world)
    {leader, %{state | last: leader}}
  end

  defp who(:follower, state) do
    follower = Enum.random(World.awake(state.world) -- [World.leader(state.world)])
    {follower, %{state | last: follower}}
  end
end
