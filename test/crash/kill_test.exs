defmodule MaculaStorage.Crash.KillTest do
  @moduledoc """
  A real VM that acknowledges writes to the key-value store, SQLite and files over a pipe is killed
  with SIGKILL at random moments; in its next life everything acknowledged is there, whole and
  without a gap. A slice by default, hundreds of kills under `MACULA_TORTURE=1` (bin/torture).
  """
  use MaculaStorage.Case, async: false

  alias MaculaStorage.Wait

  @moduletag timeout: :infinity

  # acknowledgements before the kill, at most
  @lines_max %{"write" => 200, "write_together" => 4000}

  test "no acknowledged write is lost", do: kill("write", 200)

  test "64 writers of one key-value store lose no acknowledged write, and nothing is there by half",
    do: kill("write_together", 300)

  defp kill(what, full) do
    rounds = if System.get_env("MACULA_TORTURE") == "1", do: full, else: 8

    seed =
      String.to_integer(System.get_env("MACULA_SEED", "#{:erlang.unique_integer([:positive])}"))

    :rand.seed(:exsss, seed)
    run = %{what: what, base: unique_dir("crash"), seed: seed}
    totals = Enum.reduce(1..rounds, {%{}, 0}, &round(&1, run, &2))
    {_, acknowledged} = last(rounds, run, totals)

    IO.puts(
      "\nkill_test: #{what} seed=#{seed} kills=#{rounds} acknowledged=#{acknowledged} lost=0"
    )

    assert acknowledged > rounds
  end

  defp round(round, run, {expected, total}) do
    child = start(round, run)
    check(child, expected, run, round)
    lines = for _ <- 1..:rand.uniform(Map.fetch!(@lines_max, run.what)), do: ChildVM.next(child)
    # a moment between two acknowledgements too
    Wait.pause(:rand.uniform(3) - 1)
    lines = for({:line, line} <- lines, do: line) ++ ChildVM.kill(child)
    {acknowledged(lines), total + length(lines)}
  end

  defp last(rounds, run, {expected, total}) do
    child = start(rounds + 1, run)
    check(child, expected, run, rounds + 1)
    ChildVM.kill(child)
    {expected, total}
  end

  defp start(round, run),
    do: ChildVM.start("MaculaStorage.CrashChild.#{run.what}(#{round})", base: run.base)

  defp check(child, expected, run, round) do
    have =
      for line <- ChildVM.wait_for(child, "reported"), into: %{} do
        ["have", tier, w, n] = String.split(line)
        {{tier, w}, String.to_integer(n)}
      end

    for {who, n} <- expected do
      assert Map.fetch!(have, who) >= n,
             "seed=#{run.seed} round=#{round}: #{inspect(who)} acknowledged #{n}, has #{have[who]}"
    end
  end

  defp acknowledged(lines) do
    for line <- lines, reduce: %{} do
      acknowledged ->
        ["ack", tier, w, n] = String.split(line)
        Map.put(acknowledged, {tier, w}, String.to_integer(n))
    end
  end
end
