defmodule MaculaStorage.Crash.SQLiteKillTest do
  @moduledoc """
  A real VM with 64 writers of one app's SQLite database is killed with SIGKILL at random moments, the
  opening after a kill among them; in its next life everything acknowledged is there, nothing is there by
  half, and SQLite finds the file sound. A slice by default, 300 kills under `MACULA_TORTURE=1`
  (bin/torture); `MACULA_SEED=n` repeats a run.
  """
  use MaculaStorage.Case, async: false

  alias MaculaStorage.Wait

  @moduletag timeout: :infinity

  # acknowledgements before the kill, at most
  @lines_max 1_000
  # one kill of so many comes before the child reported
  @early_share 6
  @early_ms_max 900

  test "64 writers of one database, by every way to write, lose no acknowledged row" do
    kills = if System.get_env("MACULA_TORTURE") == "1", do: 300, else: 8

    seed =
      String.to_integer(System.get_env("MACULA_SEED", "#{:erlang.unique_integer([:positive])}"))

    :rand.seed(:exsss, seed)
    run = %{base: unique_dir("sqlite_crash"), seed: seed}

    state = rounds(1, kills, run, %{last: 0, expected: %{}, total: 0, early: 0})
    round = kills + state.early + 1
    child = start(round, run, state)
    check(child, round, run, state)
    ChildVM.kill(child)

    IO.puts(
      "\nsqlite_kill_test: seed=#{seed} kills=#{kills} while_opening=#{state.early} " <>
        "acknowledged=#{state.total} lost=0 halves=0"
    )

    assert state.total > kills
  end

  # so many under the writers, those while it opens beside
  defp rounds(round, kills, _run, %{early: early} = state) when round - early > kills, do: state

  defp rounds(round, kills, run, state),
    do: rounds(round + 1, kills, run, kill(round, run, state))

  defp kill(round, run, state) do
    child = start(round, run, state)

    if :rand.uniform(@early_share) == 1,
      do: kill_early(child, round, run, state),
      else: kill_late(child, round, run, state)
  end

  # while it starts, recovers the log or looks: what the round before left must be there in the next
  defp kill_early(child, round, run, state) do
    Wait.pause(:rand.uniform(@early_ms_max))
    lines = ChildVM.kill(child)
    state = %{state | early: state.early + 1}

    case Enum.filter(lines, &String.starts_with?(&1, "ack")) do
      [] ->
        state

      # it was quick: it has looked, and written
      acks ->
        compare(Enum.filter(lines, &String.starts_with?(&1, "have")), round, run, state)
        %{state | last: round, expected: acknowledged(acks), total: state.total + length(acks)}
    end
  end

  defp kill_late(child, round, run, state) do
    check(child, round, run, state)
    lines = for _ <- 1..:rand.uniform(@lines_max), do: ChildVM.next(child)
    # a moment between two acknowledgements too
    Wait.pause(:rand.uniform(3) - 1)
    lines = for({:line, line} <- lines, do: line) ++ ChildVM.kill(child)
    state = %{state | last: round, expected: acknowledged(lines)}
    %{state | total: state.total + length(lines)}
  end

  defp start(round, run, %{last: last}),
    do: ChildVM.start("MaculaStorage.SQLiteChild.write(#{round}, #{last})", base: run.base)

  defp check(child, round, run, state),
    do: compare(ChildVM.wait_for(child, "reported"), round, run, state)

  defp compare(lines, round, run, state) do
    have =
      for line <- lines, into: %{} do
        ["have", w, n] = String.split(line)
        {w, String.to_integer(n)}
      end

    for {w, n} <- state.expected do
      assert Map.fetch!(have, w) >= n,
             "seed=#{run.seed} round=#{round}: writer #{w} acknowledged #{n}, has #{have[w]}"
    end
  end

  defp acknowledged(lines) do
    for line <- lines, reduce: %{} do
      acknowledged ->
        ["ack", w, n] = String.split(line)
        Map.put(acknowledged, w, String.to_integer(n))
    end
  end
end
