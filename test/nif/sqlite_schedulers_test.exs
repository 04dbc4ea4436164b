defmodule MaculaStorage.Nif.SQLiteSchedulersTest do
  @moduledoc """
  While 64 writers write to one database by every way there is, and long queries run, a process that should
  tick each millisecond is never late by over 50 ms because of us.

  As in `schedulers_test.exs`: a busy machine makes it late too, a stall of ours does in every run. Hence
  several tries, and a control beside it: as many threads of the system that do nothing but work; and what the VM tells of a scheduler that was held.
  """
  use MaculaStorage.NifCase, async: false

  alias MaculaStorage.SQLite.Sqlite3

  @moduletag timeout: 300_000

  @tries 6
  @run_ms 2_000
  @late_us_max 50_000
  @writers 64
  @long 4
  @writes_min 100

  @long_sql "WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c LIMIT 200000) SELECT max(n) FROM c"

  test "a tick is never late by over 50 ms" do
    app = unique_app()
    :ok = SQLite.execute(app, "CREATE TABLE t (w, n, v, PRIMARY KEY (w, n))")

    runs =
      Wait.try_until(@tries, fn ->
        {control, _} = late(fn -> workers(app) end)
        {ours, done} = late(fn -> writers(app) ++ long(app) end)
        assert done > @writes_min, "too little was done to tell: #{done}"

        on_time = ours.longest_us <= @late_us_max or ours.late <= control.late
        # late, while nobody held a scheduler: the system gave it no processor
        {on_time or ours.held == 0, %{ours: ours, control: control, done: done}}
      end)

    assert {:ok, figures} = runs
    IO.puts("\nsqlite_schedulers_test: #{inspect(figures)}")
  end

  test "the check sees a function that holds the schedulers" do
    number = long_to_multiply(6_250)
    {seen, _} = late(fn -> for _ <- 1..2, do: spawn_link(fn -> hold(number) end) end, 4_000)
    assert seen.longest_us > @late_us_max
    assert seen.held > 0
  end

  # A process gives its scheduler up at calls only, and these are none. No two are the same: newer compilers
  # would do it once.
  number = Macro.var(:number, nil)

  @multiplications for n <- 1..64,
                       do: quote(do: true = unquote(number) * (unquote(number) - unquote(n)) > 0)

  # Newer VMs are faster at it, and take no number of more than 256 KiB.
  defp long_to_multiply(bytes) do
    number = :binary.decode_unsigned(:binary.copy(<<255>>, bytes))
    {us, _} = :timer.tc(fn -> number * number end)
    enough? = us * 64 > 3 * @late_us_max or bytes >= 200_000
    if enough?, do: number, else: long_to_multiply(bytes * 2)
  end

  # {ticks that came late, what was written meanwhile}
  defp late(start, run_ms \\ @run_ms) do
    test = self()
    pids = start.()
    collector = spawn_link(fn -> collect(0) end)
    :erlang.system_monitor(collector, [{:long_schedule, div(@late_us_max, 1000)}])

    ticker =
      spawn_link(fn -> tick(test, now() + run_ms * 1000, now(), %{late: 0, longest_us: 0}) end)

    receive do: ({^ticker, :ticked, figures} -> stopped(pids, collector, figures))
  end

  defp stopped(pids, collector, figures) do
    :erlang.system_monitor(:undefined)

    for pid <- pids do
      Process.unlink(pid)
      ref = Process.monitor(pid)
      Process.exit(pid, :kill)
      receive do: ({:DOWN, ^ref, _, _, _} -> :ok)
    end

    send(collector, {:tell, self()})
    receive do: ({:held, held} -> {Map.put(figures, :held, held), flush(0)})
  end

  defp collect(held) do
    receive do
      {:monitor, _, :long_schedule, _} -> collect(held + 1)
      {:tell, to} -> send(to, {:held, held})
    end
  end

  defp tick(test, until, last, figures) do
    receive do: (:never -> :ok), after: (1 -> :ok)
    at = now()
    late_us = at - last - 1_000

    figures = %{
      late: figures.late + if(late_us > @late_us_max, do: 1, else: 0),
      longest_us: max(figures.longest_us, late_us)
    }

    if at < until,
      do: tick(test, until, at, figures),
      else: send(test, {self(), :ticked, figures})
  end

  defp flush(count) do
    receive do
      :written -> flush(count + 1)
    after
      0 -> count
    end
  end

  defp now, do: System.monotonic_time(:microsecond)

  # As much work of other threads than the schedulers': what two readers and the writer are, at most.
  defp workers(app) do
    for _ <- 1..3 do
      {:ok, conn} = Sqlite3.open(SQLite.db_path(app))
      spawn_link(fn -> work(conn) end)
    end
  end

  defp work(conn) do
    :ok = Sqlite3.execute(conn, @long_sql)
    work(conn)
  end

  defp long(app), do: for(_ <- 1..@long, do: spawn_link(fn -> long_on(app) end))

  defp long_on(app) do
    {:ok, %{rows: [[200_000]]}} = SQLite.query(app, @long_sql, [], timeout: 60_000)
    # many rows, whose terms are made in pieces
    {:ok, _} = SQLite.query(app, "SELECT * FROM t LIMIT 20000", [], timeout: 60_000)
    long_on(app)
  end

  defp writers(app) do
    test = self()

    for w <- 1..@writers do
      spawn_link(fn ->
        {:ok, conn} = Sqlite3.open(SQLite.db_path(app))
        write_on(test, app, conn, w, System.unique_integer([:positive]))
      end)
    end
  end

  defp write_on(test, app, conn, w, n) do
    write(rem(w, 5), app, conn, [w, n, String.duplicate("v", rem(n, 900))])
    send(test, :written)
    write_on(test, app, conn, w, System.unique_integer([:positive]))
  end

  @insert "INSERT INTO t VALUES (?, ?, ?)"

  defp write(0, app, _conn, row), do: :ok = SQLite.execute(app, @insert, row)
  defp write(1, app, _conn, row), do: {:ok, _} = SQLite.batch(app, [{@insert, row}, "SELECT 1"])

  defp write(2, app, _conn, row),
    do: {:ok, :ok} = SQLite.transaction(app, &SQLite.execute(&1, @insert, row))

  defp write(3, app, _conn, [w, n, v]) do
    rows = for m <- 1..200, do: [w, "#{n}-#{m}", v]
    {:ok, 200} = SQLite.execute_many(app, @insert, rows)
  end

  defp write(4, _app, conn, row) do
    {:ok, stmt} = Sqlite3.prepare(conn, @insert)
    :ok = Sqlite3.bind(stmt, row)
    :done = Sqlite3.step(conn, stmt)
    :ok = Sqlite3.release(conn, stmt)
  end

  # a product of numbers of 50 KB is made in one piece
  defp hold(number) do
    unquote_splicing(@multiplications)
    :erlang.yield()
    hold(number)
  end
end
