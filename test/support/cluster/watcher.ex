defmodule MaculaStorage.Scenario.Watcher do
  @moduledoc """
  A watch that outlives nodes: what a node's watch gathered is fetched from it; when the node is lost, or its
  state, the watch goes on at a member from the revision last seen.

  Invariant: what was fetched is kept in the order in which it came, whatever it was. A member that joined later and
  lacks what is asked for says so, and another is asked.
  """
  alias MaculaStorage.{Khepri, Wait}
  alias MaculaStorage.Scenario.World

  @poll_ms 50

  @doc "Follows what is beneath `run`, at the n-th member where that serves."
  @spec follow(World.t(), [term], World.n()) :: Task.t()
  def follow(world, run, n) do
    first = %{world: world, run: run, n: n, at: nil, seen: 0, got: [], behind: []}
    Task.async(fn -> poll(first) end)
  end

  @doc "What came until that revision, as `{revision, events}`."
  @spec through(Task.t(), pos_integer) :: [{pos_integer, [map]}]
  def through(task, revision) do
    send(task.pid, {:until, revision})
    Task.await(task, 40_000)
  end

  defp poll(state, until \\ :infinity) do
    until =
      receive do
        {:until, revision} -> revision
      after
        @poll_ms -> until
      end

    if state.seen >= until, do: Enum.reverse(state.got), else: state |> fetch() |> poll(until)
  end

  defp fetch(%{at: nil} = state) do
    serving = World.awake(state.world) -- state.behind
    n = if state.n in serving, do: state.n, else: List.first(serving)

    case n && World.ask(state.world, n, __MODULE__, :begin, [state.run ++ [:**], state.seen]) do
      {:ok, pid} -> %{state | at: {n, pid}}
      {:error, :history_gone} -> %{state | behind: [n | state.behind]}
      _not_now -> state
    end
  end

  defp fetch(%{at: {n, pid}} = state) do
    case World.ask(state.world, n, __MODULE__, :take, [pid]) do
      {:ok, []} -> state
      {:ok, got} -> %{state | got: Enum.reverse(got, state.got), seen: elem(List.last(got), 0)}
      {:ended, :history_gone} -> %{state | at: nil, behind: [n | state.behind]}
      _lost_or_closed -> %{state | at: nil}
    end
  end

  @doc "All that is beneath `run` from the beginning, as the n-th member has it, until that revision."
  @spec again(World.t(), [term], World.n(), pos_integer) :: [{pos_integer, [map]}] | :history_gone
  def again(world, run, n, revision) do
    case World.ask(world, n, __MODULE__, :begin, [run ++ [:**], 0]) do
      {:ok, pid} -> gather(world, n, pid, revision, [])
      {:error, :history_gone} -> :history_gone
    end
  end

  defp gather(world, n, pid, revision, got) do
    case World.ask(world, n, __MODULE__, :take, [pid]) do
      {:ok, more} ->
        got = got ++ more

        if got != [] and elem(List.last(got), 0) >= revision do
          got
        else
          Wait.pause(@poll_ms)
          gather(world, n, pid, revision, got)
        end

      {:ended, :history_gone} ->
        :history_gone
    end
  end

  ## On the node

  @doc false
  def begin(pattern, from) do
    caller = self()

    {pid, monitor} =
      spawn_monitor(fn ->
        answer = Khepri.watch(pattern, from: from)
        send(caller, {self(), answer})
        with {:ok, ref, _} <- answer, do: gathering(ref, [])
      end)

    receive do
      {^pid, {:ok, _, _}} -> {:ok, pid}
      {^pid, failure} -> failure
      {:DOWN, ^monitor, _, _, why} -> {:error, why}
    end
  end

  defp gathering(ref, got) do
    receive do
      {Khepri, ^ref, revision, events} ->
        gathering(ref, [{revision, events} | got])

      {Khepri, ^ref, ended} ->
        ended(got, ended)

      {:take, who, tag} ->
        send(who, {tag, {:ok, Enum.reverse(got)}})
        gathering(ref, [])
    end
  end

  # what came before goes first
  defp ended(got, why) do
    receive do
      {:take, who, tag} when got != [] ->
        send(who, {tag, {:ok, Enum.reverse(got)}})
        ended([], why)

      {:take, who, tag} ->
        send(who, {tag, {:ended, why}})
    end
  end

  @doc false
  def take(pid) do
    monitor = Process.monitor(pid)
    send(pid, {:take, self(), monitor})

    receive do
      {^monitor, answer} ->
        Process.demonitor(monitor, [:flush])
        answer

      {:DOWN, ^monitor, _, _, _} ->
        {:ended, :closed}
    end
  end
end
