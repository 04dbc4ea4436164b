defmodule MaculaStorage.Crash.KillTest do
  @moduledoc """
  A real VM that acknowledges writes to the key-value store, SQLite and files over a pipe is killed
  with SIGKILL at random moments; in its next life everything acknowledged is there, whole and
  without a gap. A slice by default, 200 kills under `MACULA_TORTURE=1` (bin/torture).
  """
  use MaculaStorage.Case, async: false

  @moduletag timeout: :infinity

  test "no acknowledged write is lost" do
    rounds = if System.get_env("MACULA_TORTURE") == "1", do: 200, else: 8

    seed =
      String.to_integer(System.get_env("MACULA_SEED", "#{:erlang.unique_integer([:positive])}"))

    :rand.seed(:exsss, seed)
    base = unique_dir("crash")
    totals = Enum.reduce(1..rounds, {%{}, 0}, &round(&1, base, seed, &2))
    {_, acknowledged} = last(rounds, base, seed, totals)
    IO.puts("\nkill_test: seed=#{seed} kills=#{rounds} acknowledged=#{acknowledged} lost=0")
    assert acknowledged > rounds
  end

  defp round(round, base, seed, {expected, total}) do
    child = start(round, base)
    check(child, expected, seed, round)
    lines = for _ <- 1..:rand.uniform(200), do: ChildVM.next(child)
    # a moment between two acknowledgements too
    pause(:rand.uniform(3) - 1)
    lines = for({:line, line} <- lines, do: line) ++ ChildVM.kill(child)
    {acknowledged(lines), total + length(lines)}
  end

  defp last(rounds, base, seed, {expected, total}) do
    child = start(rounds + 1, base)
    check(child, expected, seed, rounds + 1)
    ChildVM.kill(child)
    {expected, total}
  end

  defp start(round, base),
    do: ChildVM.start("MaculaStorage.CrashChild.write(#{round})", base: base)

  defp check(child, expected, seed, round) do
    have =
      for line <- ChildVM.wait_for(child, "reported"), into: %{} do
        ["have", tier, w, n] = String.split(line)
        {{tier, w}, String.to_integer(n)}
      end

    for {who, n} <- expected do
      assert Map.fetch!(have, who) >= n,
             "seed=#{seed} round=#{round}: #{inspect(who)} acknowledged #{n}, has #{have[who]}"
    end
  end

  defp acknowledged(lines) do
    for line <- lines, reduce: %{} do
      acknowledged ->
        ["ack", tier, w, n] = String.split(line)
        Map.put(acknowledged, {tier, w}, String.to_integer(n))
    end
  end

  defp pause(ms) do
    receive do
    after
      ms -> :ok
    end
  end
end
