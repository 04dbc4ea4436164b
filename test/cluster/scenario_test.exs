defmodule MaculaStorage.Cluster.ScenarioTest do
  @moduledoc """
  Real members that are cut off, frozen, killed, wiped and replaced while clients write: one cluster, one scenario
  after another, in an order by the run's seed.
  """
  use ExUnit.Case, async: false

  alias MaculaStorage.Scenario
  alias MaculaStorage.Scenario.World

  @scenarios [
    {"the leader is alone", [{:isolate, :leader}, {:answered, 100}, {:pause_ms, 500}]},
    {"two do not hear each other", [{:apart, :leader, :follower}, {:answered, 100}]},
    {"the leader is not heard", [{:mute, :leader}, {:answered, 100}]},
    {"the leader hears nobody", [{:deaf, :leader}, {:answered, 100}]},
    {"a follower is not heard", [{:mute, :follower}, {:answered, 100}, :mend, {:answered, 30}]},
    {"a follower hears nobody", [{:deaf, :follower}, {:answered, 100}, :mend, {:answered, 30}]},
    {"the leader is frozen", [{:freeze, :leader}, {:answered, 100}, {:pause_ms, 300}]},
    {"a follower is frozen", [{:freeze, :follower}, {:answered, 100}]},
    {"the leader is killed", [{:kill, :leader}, {:answered, 100}]},
    # A leader that came back led on, and read what it knew to be committed: less than it had acknowledged.
    {"all are killed, and read first",
     [{:kill, 1}, {:kill, 2}, {:kill, 3}, :hold, :revive, :look, :go]},
    {"a disk is lost", [{:wipe, :leader}, {:answered, 30}]},
    {"the leader leaves, another joins", [{:leave, :leader}, {:answered, 30}, {:join, :last}]},
    {"one is replaced, and back", [{:replace, :follower, 4}, {:replace, 4, :last}]},
    {"one after another is restarted", [:roll]},
    {"a follower's disk is full", [{:fill, :follower}, {:answered, 100}, :free]},
    {"the leader's disk is full", [{:fill, :leader}, {:pause_ms, 500}, :free, {:answered, 50}]}
  ]

  setup_all do
    seed = String.to_integer(System.get_env("MACULA_SEED", "#{:rand.uniform(1_000_000)}"))
    name = "macula_scenario_#{System.pid()}_#{System.unique_integer([:positive])}"
    dir = Path.join(System.tmp_dir!(), name)
    File.mkdir_p!(dir)
    world = World.make(dir, 4)

    on_exit(fn ->
      World.stop(world)
      File.rm_rf!(dir)
    end)

    with {false, why} <- World.can_cut(world),
         do: IO.puts("scenarios that cut connections are left out: #{why}")

    unless World.can_fill(world),
      do: IO.puts("scenarios that fill disks are left out: a tmpfs cannot be mounted here")

    World.form(world, [1, 2, 3])
    %{world: world, seed: seed}
  end

  for {name, steps} <- @scenarios do
    @tag steps: steps
    test name, %{world: world, seed: seed, steps: steps} do
      if can(world, steps), do: Scenario.run(world, unquote(name), steps, seed: seed)
    end
  end

  # what is left out was said once
  defp can(world, steps) do
    (World.can_cut(world) == true or not Scenario.cuts?(steps)) and
      (World.can_fill(world) or not Scenario.fills?(steps))
  end
end
