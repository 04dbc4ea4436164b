# What do writes and reads of the replicated state cost on three nodes?
#
#     mix run --no-start bench/state_cluster.exs [--keys 10000] [--rounds 3] [--seconds 2] [--quiet-times 3] [--only put]
#
# Three BEAMs on this machine, linked by mTLS, with directories of their own; clients are processes of the node that they
# ask. Values of 100 bytes. Beside it Mnesia (disc_copies on the same three): our put, synced on all three, and its own
# `sync_transaction`, which syncs nothing; Khepri where MACULA_BENCH_PEERS has it, without TLS; the disk's own rate.
# Three nodes share one disk and the processors: ratios inside of one run say most.
for file <- ~w(nodes.exs state_load.exs), do: Code.require_file(file, __DIR__)

defmodule MaculaStorage.Bench.StateCluster do
  @moduledoc false
  alias MaculaStorage.Bench.{Measure, Nodes, StateLoad}

  @tables ~w(put read local cached)
  @disk "append + fdatasync, 1 client"
  # with what a table's rates are compared, the first that it has
  @against [
    {"to the disk", :disk},
    {"to ETS", :ets},
    {"to Khepri", :khepri},
    {"to Mnesia", :mnesia}
  ]

  def main(args) do
    known = [
      keys: :integer,
      rounds: :integer,
      seconds: :integer,
      only: :string,
      quiet_times: :integer
    ]

    {given, [], []} = OptionParser.parse(args, strict: known)

    options =
      Map.merge(%{keys: 10_000, rounds: 3, seconds: 2, only: nil, quiet_times: 3}, Map.new(given))

    Measure.main("macula_bench_cluster", &run(&1, options))
  end

  defp run(dir, options) do
    only = Measure.only(options.only, @tables)
    Measure.start(Path.join(dir, "controller"))

    Nodes.run(dir, fn place ->
      nodes = Nodes.start_all(place, 1..3)
      Nodes.form(nodes)
      StateLoad.load(nodes)
      rivals = mnesia(nodes) ++ khepri(nodes, place)
      {leader, _} = Nodes.leader(nodes)
      :ok = Nodes.call(leader, StateLoad, :fill, [options.keys])
      if :mnesia in rivals, do: :ok = Nodes.call(leader, StateLoad, :mnesia_fill, [options.keys])
      if :khepri in rivals, do: :ok = Nodes.call(leader, StateLoad, :khepri_fill, [options.keys])

      bench = %{dir: dir, nodes: nodes, options: options, rivals: rivals, keys: options.keys}

      # caches are fed by every put: what comes before is measured without them
      {cached, first} = Enum.split_with(only, &(&1 == "cached"))
      figures = for table <- first, part <- table(table), into: %{}, do: measured(bench, part)
      if cached != [], do: Nodes.call_all(nodes, StateLoad, :serve, [options.keys])
      goals(for table <- cached, part <- table(table), into: figures, do: measured(bench, part))
    end)
  end

  ## Rivals

  defp mnesia(nodes) do
    names = Enum.map(nodes, & &1.name)
    [:ok] = nodes |> Nodes.call_all(StateLoad, :mnesia, [names]) |> Enum.uniq()
    :ok = Nodes.call(hd(nodes), StateLoad, :mnesia_table, [])
    [:mnesia]
  end

  defp khepri([first | _] = nodes, place) do
    if Nodes.call(first, StateLoad, :khepri_there?, []) do
      for node <- nodes do
        dir = Path.join(Nodes.base(place, node.n), "khepri")
        :ok = Nodes.call(node, StateLoad, :khepri, [dir, first.name])
      end

      [:khepri]
    else
      IO.puts("without Khepri: MACULA_BENCH_PEERS names no directory that has it")
      []
    end
  end

  ## What is measured: {side, its name in reports, where its clients are, what they do}

  defp table("put") do
    [
      {"put, 1 client", "puts/s", 1, :disk,
       [
         {:put, "Khepri.put at the leader", :leader, :put},
         {:mnesia, "Mnesia.put, synced on 3", :leader, :mnesia_put},
         {:commit, "mnesia sync_transaction, no sync", :leader, :mnesia_commit},
         {:khepri, "khepri:put at its leader", :khepri_leader, :khepri_put}
       ]},
      {"put, 64 clients", "puts/s", 64, :disk,
       [
         {:put, "Khepri.put at the leader", :leader, :put},
         {:follower, "Khepri.put at a follower", :follower, :put},
         {:spread, "Khepri.put, spread over all", :all, :put},
         {:mnesia, "Mnesia.put, synced on 3", :leader, :mnesia_put},
         {:commit, "mnesia sync_transaction, no sync", :leader, :mnesia_commit},
         {:khepri, "khepri:put at its leader", :khepri_leader, :khepri_put},
         {:khepri_follower, "khepri:put at a follower", :khepri_follower, :khepri_put}
       ]},
      {"put, 1000 clients", "puts/s", 1_000, :disk,
       [
         {:put, "Khepri.put at the leader", :leader, :put},
         {:spread, "Khepri.put, spread over all", :all, :put},
         {:mnesia, "Mnesia.put, synced on 3", :leader, :mnesia_put},
         {:khepri, "khepri:put at its leader", :khepri_leader, :khepri_put}
       ]}
    ]
  end

  defp table("read") do
    [
      {"linearizable get, 64 clients", "gets/s", 64, nil,
       [
         {:leader, "Khepri.get at the leader", :leader, :read},
         {:follower, "Khepri.get at a follower", :follower, :read},
         {:spread, "Khepri.get, spread over all", :all, :read},
         {:mnesia, "Mnesia.get, transaction", :leader, :mnesia_read},
         {:khepri, "khepri:get, consistency", :khepri_leader, :khepri_read}
       ]}
    ]
  end

  defp table("local") do
    for clients <- [1, 64] do
      {"local get, #{Measure.clients(clients)}", "gets/s", clients, nil,
       [
         {:local, "Khepri.get, local", :follower, :local},
         {:mnesia, "Mnesia.get, local", :follower, :mnesia_local},
         {:khepri, "khepri:get, low latency", :khepri_leader, :khepri_local}
       ]}
    end
  end

  defp table("cached") do
    for clients <- [1, 64] do
      {"cached get, #{Measure.clients(clients)}", "gets/s", clients, nil,
       [
         {:cached, "Khepri.get, cached", :follower, :cached},
         {:ets, ":ets.lookup", :follower, :ets}
       ]}
    end
  end

  defp rival(side) when side in [:mnesia, :commit], do: :mnesia
  defp rival(side) when side in [:khepri, :khepri_follower], do: :khepri
  defp rival(_side), do: nil

  ## Measuring

  defp measured(bench, {title, unit, clients, disk, sides}) do
    sides = Enum.filter(sides, &(rival(elem(&1, 0)) in [nil | bench.rivals]))
    disk = if disk, do: [{:disk, @disk, :here, :append}], else: []
    sides = sides ++ disk

    turns =
      for round <- 1..bench.options.rounds, side <- Measure.turned(sides, round) do
        Measure.settle(bench.dir, bench.options.quiet_times)
        {elem(side, 0), turn(bench, side, clients)}
      end

    figures =
      turns
      |> Enum.group_by(&elem(&1, 0), &elem(&1, 1))
      |> Map.new(fn {side, turns} -> {side, Measure.figures(turns)} end)

    rows = for {side, name, _, _} <- sides, do: {name, told(name, figures[side])}
    {against, base} = Enum.find_value(@against, &(figures[elem(&1, 1)] && &1))
    Measure.print(title, unit, rows, {against, figures[base]})
    {title, figures}
  end

  # What failed ends no bench here: that it does not is a part of what is looked for.
  defp told(name, figures) do
    for {reason, count} <- figures.errors,
        do: IO.puts("#{name}: #{count} calls failed: #{inspect(reason)}")

    %{figures | errors: %{}}
  end

  defp turn(bench, {_side, _name, :here, :append}, _clients) do
    {1, _bytes, _per, prepare} = Measure.syncs(%{base: bench.dir}, Measure.value_bytes(), 1)

    turn = Measure.turn(1, bench.options.seconds, bench.keys, prepare)
    Map.put(turn, :rate, turn.calls / turn.s)
  end

  defp turn(bench, {_side, name, where, what}, clients) do
    {leader, _} = before = Nodes.leader(bench.nodes)
    nodes = nodes(bench.nodes, where, before)
    turn = StateLoad.turn(nodes, what, clients, bench.options.seconds, bench.keys)

    case Nodes.leader(bench.nodes) do
      {^leader, _} -> :ok
      {other, _} -> IO.puts("#{name}: the leader changed from #{leader.name} to #{other.name}")
    end

    turn
  end

  defp nodes(_nodes, :leader, {leader, _}), do: [leader]
  defp nodes(_nodes, :follower, {_, [follower | _]}), do: [follower]
  defp nodes(nodes, :all, _), do: nodes

  defp nodes(nodes, where, _) do
    leads = Nodes.call(hd(nodes), StateLoad, :khepri_leader, [])
    {leader, followers} = Enum.split_with(nodes, &(&1.name == leads))
    if where == :khepri_leader, do: leader, else: [hd(followers)]
  end

  ## What was to be reached

  defp goals(figures) do
    of = fn table, side -> get_in(figures, [table, side]) end
    one = &of.("put, 1 client", &1)
    many = &of.("put, 64 clients", &1)
    read = &of.("linearizable get, 64 clients", &1)

    lines = [
      goal(
        one.(:put),
        one.(:disk),
        "put, 1 client: local syncs, by p50",
        "at most 4",
        &(&1.p50_us / &2.p50_us)
      ),
      goal(one.(:disk), one.(:put), "the same, by the mean", "at most 4", &rates/2),
      goal(many.(:put), many.(:khepri), "put, 64 clients: times Khepri", "at least 5", &rates/2),
      goal(many.(:put), %{}, "put, 64 clients: p99 in ms", "under 20", fn f, _ ->
        f.p99_us / 1000
      end),
      goal(
        many.(:follower),
        many.(:put),
        "put at a follower: of the leader's",
        "at least 0.7",
        &rates/2
      ),
      goal(
        of.("put, 1000 clients", :put),
        many.(:put),
        "put, 1000 clients: of 64 clients'",
        "no collapse",
        &rates/2
      ),
      goal(read.(:leader), %{}, "linearizable get: thousands a second", "at least 100", fn f, _ ->
        f.rate / 1000
      end),
      goal(
        of.("local get, 64 clients", :local),
        of.("local get, 64 clients", :khepri),
        "local get: times Khepri's",
        "at least 5",
        &rates/2
      ),
      goal(
        of.("cached get, 1 client", :ets),
        of.("cached get, 1 client", :cached),
        "cached get: ETS lookups",
        "at most 3",
        &rates/2
      )
    ]

    IO.puts("")
    for line <- lines, line, do: IO.puts(line)
  end

  defp rates(one, other), do: one.rate / other.rate

  defp goal(one, other, _name, _wanted, _of) when one == nil or other == nil, do: nil

  defp goal(one, other, name, wanted, of),
    do: "#{String.pad_trailing(name, 40)} #{Measure.decimals(of.(one, other), 2)} (#{wanted})"
end

MaculaStorage.Bench.StateCluster.main(System.argv())
