defmodule MaculaStorage.Cluster.ScenarioTest do
  @moduledoc """
  Real members that are cut off, frozen, killed, wiped and replaced while clients write: one cluster of three, one
  scenario after another in an order by the run's seed. Torture has more of them, on five members too.
  """
  use ExUnit.Case, async: false

  alias MaculaStorage.Scenario

  @torture System.get_env("MACULA_TORTURE") != nil

  @always [
    {"the leader is alone", [{:isolate, :leader}, {:answered, 100}, {:alone, :last}]},
    {"a follower hears nobody, then is not heard",
     [{:deaf, :follower}, {:answered, 60}, :mend, {:mute, :last}, {:answered, 60}]},
    {"the leader is frozen", [{:freeze, :leader}, {:answered, 100}, {:pause_ms, 300}]},
    # A leader that came back led on, and read what it knew to be committed: less than it had acknowledged.
    {"all are killed, and read first",
     [{:kill, 1}, {:kill, 2}, {:kill, 3}, :hold, :revive, :look, :go]},
    {"all lose power, and are read first",
     [{:power, 1}, {:power, 2}, {:power, 3}, :hold, :revive, :look, :go]},
    {"the leader loses power", [{:power, :leader}, {:answered, 50}]},
    {"a disk is lost", [{:wipe, :leader}, {:answered, 30}]},
    {"the leader leaves, another joins", [{:leave, :leader}, {:join, :last}]},
    {"the leader's disk is full", [{:fill, :leader}, {:pause_ms, 500}, :free, {:answered, 50}]}
  ]

  @long [
    {"two do not hear each other", [{:apart, :leader, :follower}, {:answered, 100}]},
    {"the leader is not heard", [{:mute, :leader}, {:answered, 100}]},
    {"the leader hears nobody", [{:deaf, :leader}, {:answered, 100}]},
    {"a follower is frozen", [{:freeze, :follower}, {:answered, 100}]},
    {"a follower's disk is full", [{:fill, :follower}, {:answered, 100}, :free]},
    {"the leader is killed", [{:kill, :leader}, {:answered, 100}]},
    {"the leader is cut off, and killed there",
     [{:isolate, :leader}, {:pause_ms, 300}, {:kill, :last}, {:answered, 100}]},
    {"one was away for longer than the log is kept",
     [{:isolate, :follower}, {:burst, 25_000}, :mend, {:answered, 50}]},
    {"one was dead for longer than the log is kept",
     [{:kill, :follower}, {:burst, 25_000}, :revive, {:answered, 50}]},
    {"all are killed with a long log", [{:burst, 15_000}, {:kill, 1}, {:kill, 2}, {:kill, 3}]},
    {"one is replaced, and back", [{:replace, :follower, 4}, {:replace, 4, :last}]},
    {"all lead in turn",
     List.duplicate({:lead, :follower}, 8) ++ for(n <- [1, 2, 3, 1, 2, 3], do: {:lead, n})},
    {"one after another is restarted", [:roll]}
  ]

  setup_all do
    %{world: Scenario.world(4, 3), seed: Scenario.seed()}
  end

  for {name, steps} <- @always ++ Enum.filter(@long, fn _ -> @torture end) do
    @tag steps: steps
    test name, %{world: world, seed: seed, steps: steps} do
      if Scenario.can?(world, steps), do: Scenario.run(world, unquote(name), steps, seed: seed)
    end
  end

  if @torture do
    test "by chance", %{world: world, seed: seed} do
      Scenario.by_chance(world, 3, seed..(seed + 40))
    end
  end
end

defmodule MaculaStorage.Cluster.ScenarioBehindProxiesTest do
  @moduledoc "The same where the machine allows no namespaces: what is cut there is cut by proxies."
  use ExUnit.Case, async: false

  alias MaculaStorage.Scenario

  @scenarios [
    {"the leader is alone", [{:isolate, :leader}, {:answered, 100}, {:alone, :last}]},
    {"a follower hears nobody, and the leader is not heard",
     [{:deaf, :follower}, {:answered, 60}, :mend, {:mute, :leader}, {:answered, 60}]}
  ]

  setup_all do
    %{world: Scenario.world(3, 3, namespaces?: false), seed: Scenario.seed()}
  end

  for {name, steps} <- @scenarios do
    @tag steps: steps
    test(name, %{world: world, seed: seed, steps: steps},
      do: Scenario.run(world, unquote(name) <> " (proxies)", steps, seed: seed)
    )
  end

  if System.get_env("MACULA_TORTURE") do
    test "by chance", %{world: world, seed: seed} do
      Scenario.by_chance(world, 3, seed..(seed + 20))
    end
  end
end

if System.get_env("MACULA_TORTURE") do
  defmodule MaculaStorage.Cluster.ScenarioOfFiveTest do
    @moduledoc "The same with five members, of which two may be lost."
    use ExUnit.Case, async: false

    alias MaculaStorage.Scenario

    setup_all do
      %{world: Scenario.world(6, 5), seed: Scenario.seed()}
    end

    test "halves", %{world: world, seed: seed} do
      steps = [
        {:half, :leader, 2},
        {:answered, 100},
        :mend,
        {:half, :follower, 2},
        {:answered, 100}
      ]

      if Scenario.can?(world, steps), do: Scenario.run(world, "halves of five", steps, seed: seed)
    end

    test "two are lost, and the leader next", %{world: world, seed: seed} do
      steps = [
        {:kill, :leader},
        {:answered, 50},
        {:freeze, :leader},
        {:answered, 50},
        {:replace, :follower, 6}
      ]

      Scenario.run(world, "two of five are lost", steps, seed: seed)
    end

    test "by chance", %{world: world, seed: seed} do
      Scenario.by_chance(world, 5, seed..(seed + 20))
    end
  end

  defmodule MaculaStorage.Cluster.ScenarioOfClocksTest do
    @moduledoc "Members whose wall clocks jump, by libfaketime: what was put without an end stays, and nobody stops."
    use ExUnit.Case, async: false

    alias MaculaStorage.Scenario

    @scenarios [
      {"the leader's clock jumps ahead and back",
       [{:clock, :leader, 3_600}, {:answered, 100}, {:clock, :last, -3_600}, {:answered, 100}]},
      {"a follower's clock is a day behind, and it leads",
       [{:clock, :follower, -86_400}, {:answered, 50}, {:lead, :last}, {:answered, 100}]},
      {"clocks differ, and the leader dies",
       [{:clock, 1, 60}, {:clock, 2, -60}, {:kill, :leader}, {:answered, 100}]}
    ]

    setup_all do
      %{world: Scenario.world(3, 3, clocks?: true), seed: Scenario.seed()}
    end

    for {name, steps} <- @scenarios do
      @tag steps: steps
      test name, %{world: world, seed: seed, steps: steps} do
        if world.clocks?,
          do: Scenario.run(world, unquote(name), steps, seed: seed),
          else: IO.puts("scenarios of clocks are left out: there is no libfaketime")
      end
    end
  end
end
