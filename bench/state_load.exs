# What clients of the cluster's benches do, in the BEAM of the node that they ask. Loaded there by `load/2`.
#
# Invariant: all sides are asked by the loop of measure.exs, with keys and values of the same make; a read that
# finds another value than was written ends the bench.
for file <- ~w(measure.exs nodes.exs), do: Code.require_file(file, __DIR__)

defmodule MaculaStorage.Bench.StateLoad do
  @moduledoc false
  # Rivals are not there when this is compiled.
  @compile {:no_warn_undefined, [:crypto, :khepri, :khepri_cluster, :mnesia, :ra]}

  alias MaculaStorage.Bench.{Measure, Nodes}
  alias MaculaStorage.{Cache, Khepri, Mnesia}

  @app "bench"
  @table :bench_data
  @ets :bench_ets
  @cache :bench_cache
  @writes :bench_writes
  @putters 64

  ## From the bench

  @doc "Loads this into nodes, and starts what clients there need."
  def load(nodes) do
    Nodes.call_all(nodes, Code, :require_file, [Path.expand(__ENV__.file)])
    Nodes.call_all(nodes, Measure, :values, [])
    :ok
  end

  @doc "A turn of clients, shared out over nodes, that do the same thing at the same time."
  def turn(nodes, what, clients, seconds, keys) do
    shares = shares(clients, length(nodes))

    nodes
    |> Enum.zip(shares)
    |> Enum.map(fn {node, share} ->
      Task.async(fn -> Nodes.call(node, __MODULE__, :turn_here, [what, share, seconds, keys]) end)
    end)
    |> Task.await_many(:infinity)
    |> Enum.reduce(&together/2)
    |> rated()
  end

  defp shares(clients, nodes) do
    for n <- 0..(nodes - 1), do: div(clients, nodes) + if(n < rem(clients, nodes), do: 1, else: 0)
  end

  defp together(a, b) do
    sum = &Map.merge(&1, &2, fn _, x, y -> x + y end)

    %{
      calls: a.calls + b.calls,
      s: max(a.s, b.s),
      times: sum.(a.times, b.times),
      errors: sum.(a.errors, b.errors)
    }
  end

  defp rated(turn), do: Map.put(turn, :rate, turn.calls / turn.s)

  ## In the node

  def turn_here(what, clients, seconds, keys),
    do: Measure.turn(clients, seconds, keys, fn -> call(what) end)

  @doc "Puts all keys once; the ETS table that a cached get is compared with, and the cache, are of this node."
  def fill(keys), do: each(0..(keys - 1), &(:ok = Khepri.put([@app, &1], Measure.value(&1))))

  defp each(all, act) do
    all
    |> Task.async_stream(act, max_concurrency: @putters, timeout: :infinity, ordered: false)
    |> Stream.run()
  end

  @doc "Puts these paths and values, each by itself, from many clients."
  def put_each(entries), do: each(entries, fn {path, value} -> :ok = Khepri.put(path, value) end)

  @doc "What is read beside the state in this VM: a cache of it, and an ETS table of the same keys."
  def serve(keys) do
    kept(fn ->
      :ets.new(@ets, [:set, :public, :named_table, read_concurrency: true])
      {:ok, _} = Cache.start_link(prefix: [@app], name: @cache)
    end)

    for n <- 0..(keys - 1), do: :ets.insert(@ets, {[@app, n], Measure.value(n)})
    :ok = Cache.wait(@cache, 60_000)
  end

  # What a call over standard input makes goes with it.
  defp kept(make) do
    caller = self()

    spawn(fn ->
      make.()
      send(caller, {self(), :made})
      Process.sleep(:infinity)
    end)
    |> then(fn keeper ->
      receive do
        {^keeper, :made} -> :ok
      end
    end)
  end

  @doc "Puts keys of so many bytes from many clients, `batch` of them in one transaction."
  def fill_large(keys, bytes, batch) do
    random = :crypto.strong_rand_bytes(1_048_576 + bytes)

    0..(keys - 1)
    |> Stream.chunk_every(batch)
    |> Task.async_stream(&put_all(&1, random, bytes),
      max_concurrency: @putters,
      timeout: :infinity,
      ordered: false
    )
    |> Stream.run()
  end

  defp put_all(numbers, random, bytes) do
    puts =
      for n <- numbers do
        at = rem(n * 7919, 1_048_576)
        {:put, [@app, n], <<n::64, binary_part(random, at, bytes - 8)::binary>>}
      end

    put_all(puts)
  end

  # What may or may not have happened may be done again. Who leads may change beneath such a load.
  defp put_all(puts) do
    case Khepri.txn([], puts, [], timeout: 60_000) do
      {:ok, true, _} ->
        :ok

      {:error, reason} when reason in [:timeout, :no_quorum, :busy] ->
        IO.puts("a put is done again: #{reason}")
        put_all(puts)
    end
  end

  @doc "Whether a key is there, as `fill_large/3` made it."
  def has?(n, consistency),
    do: match?({:ok, <<^n::64, _::binary>>}, Khepri.get([@app, n], consistency: consistency))

  ## Writing all the time

  @doc "Starts clients that put one after the other from now on, and remember when each began and was answered."
  def write_on(clients, keys) do
    kept(fn ->
      Process.register(self(), @writes)
      :ets.new(@writes, [:duplicate_bag, :public, :named_table, write_concurrency: true])
      for n <- 1..clients, do: spawn_link(fn -> write_on(n, clients, keys) end)
    end)
  end

  @doc "Ends them."
  def write_off do
    keeper = Process.whereis(@writes)
    monitor = Process.monitor(keeper)
    Process.exit(keeper, :kill)

    receive do
      {:DOWN, ^monitor, _, _, _} -> :ok
    end
  end

  defp write_on(n, clients, keys) do
    began = now_ns()
    result = Khepri.put([@app, n], Measure.value(n))
    :ets.insert(@writes, {began, now_ns(), result})
    write_on(if(n + clients < keys, do: n + clients, else: rem(n, clients)), clients, keys)
  end

  @doc """
  Waits for the first answer `:ok` to a put that began after a moment: when it came, and how many puts have
  failed meanwhile, by reason. Forgets what was before.
  """
  def written_after(ns) do
    case :ets.select(@writes, [{{:"$1", :"$2", :ok}, [{:>=, :"$1", ns}], [:"$2"]}]) do
      [] ->
        Process.sleep(1)
        written_after(ns)

      answered ->
        failed = for {_began, _answered, {:error, reason}} <- :ets.tab2list(@writes), do: reason
        :ets.delete_all_objects(@writes)
        {Enum.min(answered), Enum.frequencies(failed)}
    end
  end

  @doc "The machine's own clock, the same in all its processes."
  def now_ns, do: :os.perf_counter(:nanosecond)

  ## Rivals, in the node

  def mnesia(nodes), do: Mnesia.setup(nodes)
  def mnesia_table, do: Mnesia.create_app_table(@app)
  def mnesia_fill(keys), do: each(0..(keys - 1), &(:ok = Mnesia.put(@app, &1, Measure.value(&1))))

  def khepri_there?, do: Code.ensure_loaded?(:khepri)

  def khepri(dir, first) do
    {:ok, _} = Application.ensure_all_started(:khepri)
    {:ok, _store} = :khepri.start(to_charlist(dir))
    if first != node(), do: :ok = :khepri_cluster.join(first), else: :ok
  end

  def khepri_leader do
    {:ok, _members, {_store, leader}} = :ra.members({:khepri, node()})
    leader
  end

  def khepri_fill(keys),
    do:
      each(
        0..(keys - 1),
        &(:ok = :khepri.put([:bench, Integer.to_string(&1)], Measure.value(&1)))
      )

  ## What a client does

  defp call(:put), do: &Khepri.put([@app, &1], Measure.value(&1))
  defp call(:read), do: &found(&1, Khepri.get([@app, &1]))
  defp call(:local), do: &found(&1, Khepri.get([@app, &1], consistency: :local))
  defp call(:cached), do: &found(&1, Khepri.get([@app, &1], consistency: :cached))
  defp call(:ets), do: fn n -> [{_, <<^n::64, _::binary>>}] = :ets.lookup(@ets, [@app, n]) end
  defp call(:mnesia_put), do: &Mnesia.put(@app, &1, Measure.value(&1))

  defp call(:mnesia_commit) do
    fn n ->
      write = fn -> :mnesia.write({@table, n, Measure.value(n), 0}) end
      {:atomic, :ok} = :mnesia.sync_transaction(write)
    end
  end

  defp call(:mnesia_read), do: &found(&1, Mnesia.get(@app, &1))
  defp call(:mnesia_local), do: &found(&1, Mnesia.get(@app, &1, consistency: :local))
  defp call(:khepri_put), do: &:khepri.put([:bench, Integer.to_string(&1)], Measure.value(&1))

  defp call(:khepri_read),
    do: &found(&1, :khepri.get([:bench, Integer.to_string(&1)], %{favor: :consistency}))

  defp call(:khepri_local),
    do: &found(&1, :khepri.get([:bench, Integer.to_string(&1)], %{favor: :low_latency}))

  defp found(n, {:ok, <<n::64, _::binary>>}), do: :ok
  defp found(_n, {:error, _} = failure), do: failure
end
