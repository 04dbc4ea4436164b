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
    {"two do not hear each other", [{:apart, :leader, :follower}, {:answered, 200}]},
    {"a member is frozen", [{:freeze, :leader}, {:answered, 100}, {:pause_ms, 300}]},
    {"a member is killed", [{:kill, :leader}, {:answered, 100}]}
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

    World.form(world, [1, 2, 3])
    %{world: world, seed: seed}
  end

  for {name, steps} <- @scenarios do
    @tag steps: steps
    test name, %{world: world, seed: seed, steps: steps} do
      if World.can_cut(world) == true or not Scenario.cuts?(steps),
        do: Scenario.run(world, unquote(name), steps, seed: seed)
    end
  end
end
