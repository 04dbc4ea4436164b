defmodule MaculaStorage.Scenario.Clients do
  @moduledoc """
  Clients of each member, which write, swap and read what they contend for, and what is theirs alone, and keep what
  each call was and became.

  Invariant: a call is kept with times of one clock, taken before it was made and after it was answered; what may have
  happened is kept as unknown, what the contract says has not as failed. No value is written twice.
  """
  alias MaculaStorage.Scenario.World
  alias MaculaStorage.Wait

  @enforce_keys [:world, :run, :table, :flags, :tasks]
  defstruct @enforce_keys

  @type t :: %__MODULE__{}

  @registers 4
  @call_ms 1_000
  # between two calls of one, at most: checking a history and starting again cost with its length
  @pause_ms 20
  # what has no other end did not happen
  @failed [:no_quorum, :busy, :disk_full, :too_large]

  # of `flags`
  @stopped 1
  @answered 2
  @values 3
  @held 4
  @busy 4

  @doc "Starts `each` clients of every place of the world; they write beneath `run`."
  @spec start(World.t(), [term], pos_integer, integer) :: t
  def start(world, run, each, seed) do
    clients = %__MODULE__{
      world: world,
      run: run,
      table: :ets.new(:calls, [:public, :ordered_set, write_concurrency: true]),
      flags: :atomics.new(@busy + world.count, signed: false),
      tasks: []
    }

    tasks =
      for n <- 1..world.count, i <- 1..each do
        Task.async(fn ->
          :rand.seed(:exsss, {seed, n, i})
          go_on(clients, n, nil)
        end)
      end

    %{clients | tasks: tasks}
  end

  @doc "Waits until `count` more calls were answered well; how many milliseconds it took."
  @spec answered(t, pos_integer) :: non_neg_integer
  def answered(clients, count) do
    since = now()
    goal = :atomics.get(clients.flags, @answered) + count
    done = fn -> :atomics.get(clients.flags, @answered) >= goal end
    Wait.until("#{count} answers", done, 20_000)
    System.convert_time_unit(now() - since, :native, :millisecond)
  end

  @doc "Waits until no call of theirs is under way at the n-th, which serves no more."
  @spec idle(t, World.n()) :: true
  def idle(clients, n) do
    Wait.until("no calls at #{n}", fn -> :atomics.get(clients.flags, @busy + n) == 0 end)
  end

  @doc "Has them make no calls until they may again; returns when none is under way."
  @spec hold(t, boolean) :: :ok
  def hold(clients, whether) do
    :atomics.put(clients.flags, @held, if(whether, do: 1, else: 0))
    if whether, do: for(n <- 1..clients.world.count, do: idle(clients, n))
    :ok
  end

  @doc "Reads each register at the n-th, whatever they do; kept as theirs."
  @spec look(t, World.n()) :: :ok
  def look(clients, n) do
    for i <- 1..@registers do
      Wait.until("a read at #{n}", fn -> call(clients, n, {:register, i}, :get) != :none end)
    end

    :ok
  end

  @doc "On a node: so many writes elsewhere, many at a time; what they became."
  @spec burst(pos_integer) :: %{term => pos_integer}
  def burst(count) do
    1..count
    |> Task.async_stream(&MaculaStorage.Khepri.put([:burst, rem(&1, 1_000)], &1),
      max_concurrency: 64,
      ordered: false,
      timeout: 60_000
    )
    |> Enum.frequencies()
  end

  @doc "Stops them once their calls have ended; all calls as `{begun, ended, key, what, outcome}`."
  @spec stop(t) :: [tuple]
  def stop(clients) do
    :atomics.put(clients.flags, @stopped, 1)
    Task.await_many(clients.tasks, 90_000)
    for {_order, call} <- :ets.tab2list(clients.table), do: call
  end

  # `seen`: the last value read, which is what may be swapped
  defp go_on(clients, n, seen) do
    if :atomics.get(clients.flags, @stopped) == 0 do
      seen = next(clients, n, seen)
      Wait.pause(:rand.uniform(@pause_ms))
      go_on(clients, n, seen)
    end
  end

  defp next(clients, n, seen) do
    # before the look, so that who holds them sees either
    :atomics.add(clients.flags, @busy + n, 1)
    held = :atomics.get(clients.flags, @held) == 1
    {key, what} = choose(clients, seen)
    read = if held, do: :none, else: call(clients, n, key, what)
    :atomics.sub(clients.flags, @busy + n, 1)
    if read == :none, do: seen, else: elem(read, 1)
  end

  defp choose(clients, seen) do
    register = {:register, :rand.uniform(@registers)}
    value = :atomics.add_get(clients.flags, @values, 1)

    case :rand.uniform(10) do
      p when p <= 4 -> {register, :get}
      p when p <= 6 -> {register, {:put, value}}
      p when p <= 8 -> {register, {:cas, seen, value}}
      _ -> {{:own, value}, {:put, value}}
    end
  end

  defp call(clients, n, key, what) do
    begun = now()
    answer = ask(clients, n, clients.run ++ [key], what)
    ended = now()

    # not made
    if answer == :down,
      do: :none,
      else: kept(clients, {begun, ended, key, what, outcome(what, answer)})
  end

  defp ask(clients, n, path, :get),
    do: World.ask(clients.world, n, :get, [path, [timeout: @call_ms]])

  defp ask(clients, n, path, {:put, value}),
    do: World.ask(clients.world, n, :put, [path, value, [timeout: @call_ms]])

  # a register begins without a value
  defp ask(clients, n, path, {:cas, nil, value}),
    do: World.ask(clients.world, n, :create, [path, value, [timeout: @call_ms]])

  defp ask(clients, n, path, {:cas, old, value}),
    do: World.ask(clients.world, n, :compare_and_swap, [path, old, value, [timeout: @call_ms]])

  defp outcome(:get, {:ok, value}), do: {:read, value}
  defp outcome(:get, {:error, :not_found}), do: {:read, nil}
  defp outcome(:get, _failed), do: :failed
  defp outcome(_write, :ok), do: :ok
  defp outcome({:cas, _, _}, {:error, why}) when why in [:conflict, :exists], do: :not_swapped
  defp outcome(_write, {:error, why}) when why in @failed, do: :failed
  defp outcome(_write, _unknown), do: :unknown

  defp kept(clients, {_, _, _, _, outcome} = call) do
    :ets.insert(clients.table, {:erlang.unique_integer([:monotonic]), call})
    if outcome not in [:failed, :unknown], do: :atomics.add(clients.flags, @answered, 1)
    if match?({:read, _}, outcome), do: outcome, else: :none
  end

  defp now, do: System.monotonic_time()
end
