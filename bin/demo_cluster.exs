# The second part of bin/demo: the replicated state on three BEAMs of this machine; the one that leads is killed, and a
# new one takes its place; then replicated files on it (demo_mesh.exs).
#
# Invariant: what the nodes hold is compared with what this script made, on each of them by itself.
for file <- ["../bench/state_load.exs", "demo_mesh.exs"], do: Code.require_file(file, __DIR__)

defmodule MaculaStorage.Demo.Cluster do
  @moduledoc false
  @compile {:no_warn_undefined, :crypto}

  alias MaculaStorage.Bench.{Nodes, StateLoad, Tree}
  alias MaculaStorage.Demo.Mesh
  alias MaculaStorage.Operator.Text

  @values 4_000
  @more 500
  @value_bytes 100
  @clients 4

  @doc "Does all of it in a directory, and tells by `say.(name, text)`; what differs, by `differ.(text)`."
  def run(dir, say, differ) do
    Nodes.run(dir, fn place ->
      tell = %{say: say, differ: differ}
      nodes = formed(place, tell)
      {leader, [follower | _]} = Nodes.leader(nodes)
      values = written(leader, 1..@values, tell)
      same(nodes, values, "read", tell)
      survivors = killed(leader, nodes, follower, tell)
      values = values ++ written(follower, (@values + 1)..(@values + @more), tell)
      same(survivors, values, "survived", tell)
      replacement = replaced(place, leader, follower, tell)
      same([replacement | survivors], values, "compared", tell)
      Mesh.run(place, [follower | List.delete([replacement | survivors], follower)], tell)
    end)
  end

  defp formed(place, tell) do
    {nodes, boot_s} = Tree.timed(fn -> Nodes.start_all(place, 1..3) end)
    {_, s} = Tree.timed(fn -> Nodes.form(nodes) end)
    {leader, _} = Nodes.leader(nodes)

    tell.say.("formed", [
      names(nodes),
      ": booted in #{Tree.seconds(boot_s)}, one cluster in #{Tree.seconds(s)}, links by mTLS; #{leader.name} leads"
    ])

    StateLoad.load(nodes)
    nodes
  end

  defp names(nodes), do: Enum.map_join(nodes, " ", & &1.name)

  defp written(node, numbers, tell) do
    entries = for n <- numbers, do: {[:demo, n], :crypto.strong_rand_bytes(@value_bytes)}
    {:ok, s} = Tree.timed(fn -> Nodes.call(node, StateLoad, :put_each, [entries]) end)

    tell.say.("written", [
      "#{Text.count(length(entries))} values of #{@value_bytes} bytes at #{node.name}, one by one from 64 clients: ",
      "#{Text.count(round(length(entries) / s))} puts/s, each synced by a majority"
    ])

    entries
  end

  # A linearizable read first: what each then has by itself is all that was answered before.
  defp same(nodes, values, name, tell) do
    expected = Map.new(values)

    for node <- nodes do
      {:ok, count} = Nodes.khepri(node, :count, [[:demo, :*]])
      {:ok, own} = Nodes.khepri(node, :get_many, [[:demo, :*], [consistency: :local]])
      wrong = Enum.count(expected, fn {path, value} -> own[path] != value end)

      if wrong > 0 or count != map_size(expected) or map_size(own) != count do
        tell.differ.(
          "#{node.name} has #{count} values, #{map_size(own)} by itself, of #{map_size(expected)}; " <>
            "#{wrong} are missing or others"
        )
      end
    end

    tell.say.(name, "all #{Text.count(length(values))} values are right on #{names(nodes)}")
  end

  defp killed(leader, nodes, survivor, tell) do
    Nodes.call(survivor, StateLoad, :write_on, [@clients, @values])
    {_, _} = Nodes.call(survivor, StateLoad, :written_after, [StateLoad.now_ns()])
    killed_ns = StateLoad.now_ns()
    :ok = Nodes.kill(leader)
    gone_ns = StateLoad.now_ns()
    {answered_ns, _failed} = Nodes.call(survivor, StateLoad, :written_after, [gone_ns])
    :ok = Nodes.call(survivor, StateLoad, :write_off, [])

    tell.say.("killed", [
      "#{leader.name}, which led, by SIGKILL: writes at #{survivor.name} are answered again after ",
      "#{round((answered_ns - killed_ns) / 1_000_000)} ms"
    ])

    Enum.reject(nodes, &(&1.n == leader.n))
  end

  defp replaced(place, dead, survivor, tell) do
    [replacement] = Nodes.start_all(place, [4])

    {:ok, s} =
      Tree.timed(fn -> Nodes.khepri(survivor, :replace, [dead.name, replacement.name]) end)

    {:ok, members} = Nodes.khepri(survivor, :members)

    tell.say.("replaced", [
      "#{dead.name} by #{replacement.name}, empty before, in #{Tree.seconds(s)}: ",
      Enum.map_join(members, ", ", &"#{&1.node} #{if &1.leader, do: "leads", else: &1.standing}")
    ])

    replacement
  end
end
