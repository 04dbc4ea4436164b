defmodule MaculaStorage.Wait do
  @moduledoc """
  Waiting for what sends no message: a look again and again, until it is so or a generous limit passes.

  Invariant: a test never waits for a fixed time, and never goes on when the awaited did not come.
  """
  import ExUnit.Assertions, only: [flunk: 1]

  @every_ms 10
  @limit_ms 30_000

  @doc "Looks until `fun` answers something truthy, which is returned; fails after `limit_ms`."
  @spec until(String.t(), fun, pos_integer) :: term
  def until(what, fun, limit_ms \\ @limit_ms) do
    until(what, fun, System.monotonic_time(:millisecond) + limit_ms, limit_ms)
  end

  defp until(what, fun, deadline, limit_ms) do
    cond do
      found = fun.() ->
        found

      System.monotonic_time(:millisecond) > deadline ->
        flunk("did not come: #{what} limit_ms=#{limit_ms}")

      true ->
        receive do
        after
          @every_ms -> until(what, fun, deadline, limit_ms)
        end
    end
  end

  @doc "Lets a chosen moment pass, before what is to come at a random one."
  @spec pause(non_neg_integer) :: :ok
  def pause(ms) do
    receive do
    after
      ms -> :ok
    end
  end

  @doc """
  Measures until it is so, at most so many times: `run` answers `{whether, figures}`. What a busy machine
  spoils once is not what is looked for.
  """
  @spec try_until(non_neg_integer, fun, [term]) :: {:ok, term} | {:error, [term]}
  def try_until(tries, run, seen \\ [])
  def try_until(0, _run, seen), do: {:error, seen}

  def try_until(tries, run, seen) do
    case run.() do
      {true, figures} -> {:ok, figures}
      {false, figures} -> try_until(tries - 1, run, [figures | seen])
    end
  end

  @doc "How many file descriptors this VM has open."
  @spec descriptors() :: non_neg_integer
  def descriptors, do: length(File.ls!("/proc/self/fd"))
end
