defmodule MaculaStorage.Crash.SQLiteProgramsTest do
  @moduledoc """
  Random SQL programs give here the rows that SQLite's own command line gives, type and bits of each value,
  and the same statements fail. A slice by default, 5,000 programs under `MACULA_TORTURE=1` (bin/torture,
  in whose reach it lies here); `MACULA_SEED=n` repeats a run.
  """
  use MaculaStorage.Case, async: true

  alias MaculaStorage.{SQLite, SQLProgram, SQLProgramRun}
  alias MaculaStorage.SQLite.Sqlite3

  @moduletag timeout: :infinity

  # at once, each in an app of its own: most of the time is the disk's
  @lanes 4

  if System.find_executable("sqlite3") == nil,
    do: @moduletag(skip: "the command line sqlite3 is not installed (bin/setup installs it)")

  test "the rows of the command line" do
    count = if System.get_env("MACULA_TORTURE") == "1", do: 5_000, else: 200

    seed =
      String.to_integer(System.get_env("MACULA_SEED", "#{:erlang.unique_integer([:positive])}"))

    dir = unique_dir("programs")
    lanes = for lane <- 1..@lanes, do: {unique_app(), Path.join(dir, "program-#{lane}.sql"), lane}

    told =
      lanes
      |> Task.async_stream(
        fn {app, path, lane} -> lane(app, path, seed, lane..count//@lanes) end,
        timeout: :infinity,
        max_concurrency: @lanes
      )
      |> Enum.flat_map(fn {:ok, told} -> told end)

    rows = Enum.filter(told, &is_list/1)
    failed = Enum.count(told, &(&1 == :failed))

    IO.puts(
      "\nsqlite_programs_test: seed=#{seed} programs=#{count} selects=#{length(rows)} " <>
        "rows=#{rows |> Enum.map(&length/1) |> Enum.sum()} statements=#{length(told) - length(rows)} failed=#{failed}"
    )

    # programs that find nothing, or in which all fails, compare nothing
    assert Enum.count(rows, &(&1 != [])) > length(rows) / 2
    assert failed > 0 and failed < (length(told) - length(rows)) / 3
  end

  defp lane(app, path, seed, numbers) do
    {:ok, _} = SQLite.open(app)
    {:ok, conn} = Sqlite3.open(SQLite.db_path(app))
    told = Enum.flat_map(numbers, &same!(&1, seed, app, conn, path))
    :ok = Sqlite3.close(conn)
    told
  end

  defp same!(n, seed, app, conn, path) do
    :rand.seed(:exsss, {seed, n, 0})
    program = SQLProgram.random()
    {:ok, _} = SQLite.batch(app, SQLProgram.drops())
    ours = SQLProgramRun.ours(app, program, conn)
    {theirs, text} = SQLProgramRun.theirs(path, program)

    if ours != theirs do
      {{one, other}, at} =
        Enum.zip(ours, theirs) |> Enum.with_index() |> Enum.find(fn {{a, b}, _} -> a != b end)

      flunk(
        "seed=#{seed} program=#{n} step=#{at}\nours:   #{inspect(one)}\ntheirs: #{inspect(other)}\n#{text}"
      )
    end

    ours
  end
end
