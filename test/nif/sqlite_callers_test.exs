defmodule MaculaStorage.Nif.SQLiteCallersTest do
  @moduledoc """
  Callers of every SQLite function that are killed at random microseconds, or give up after a millisecond:
  the VM goes on, the writer is never stuck, and what they held (descriptors, threads, memory, half
  copies) is given back. A slice by default, 10,000 calls under `MACULA_TORTURE=1`; `MACULA_SEED=n`
  repeats which calls are made, not when they are killed.
  """
  use MaculaStorage.NifCase, async: false

  alias MaculaStorage.SQLite.Sqlite3

  @moduletag timeout: 3_600_000

  @calls if System.get_env("MACULA_TORTURE") == "1", do: 10_000, else: 1_600
  @callers 16
  @per_slice 200
  @kill_us_max 4_000
  # of a resident memory that has seen all kinds of calls already
  @grown_bytes_max 96 * 1_048_576
  # threads of low-level connections end after 10 s without work
  @threads_ms 60_000

  @endless "WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c) SELECT max(n) FROM c"
  @rows "WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c LIMIT 3000) SELECT n, hex(n) FROM c"

  setup do
    app = unique_app()
    :ok = SQLite.execute(app, "CREATE TABLE t (n, v); CREATE TABLE big (n, v)")

    {:ok, 500} =
      SQLite.execute_many(
        app,
        "INSERT INTO big VALUES (?, zeroblob(2000))",
        for(n <- 1..500, do: [n])
      )

    {:ok, app: app, dir: unique_dir("callers"), seed: seed()}
  end

  test "killed at any point of any call", %{app: app, dir: dir, seed: seed} do
    # each kind once to its end, then some killed: what is opened once and stays, is
    for n <- 1..length(kinds()), do: whole(app, dir, n)
    slice(app, dir, seed, -@per_slice..-1)
    # connections that were left are closed by the garbage collector's way
    Wait.until("descriptors", fn -> :erlang.garbage_collect() && few_files?(app) end)
    before = settled()

    1..@calls
    |> Enum.chunk_every(@per_slice)
    |> Enum.each(fn slice ->
      slice(app, dir, seed, slice)
      writes_at_once!(app)
    end)

    afterwards = given_back!(before, app)
    copies_are_whole!(dir)
    assert mailbox() == []

    IO.puts(
      "\nsqlite_callers_test: seed=#{seed} killed_or_given_up=#{@calls} " <>
        "grown_kib=#{div(afterwards.rss - before.rss, 1024)}"
    )

    assert afterwards.rss - before.rss < @grown_bytes_max
    closes!(app)
    assert {:ok, %{rows: [["ok"]]}} = SQLite.query(app, "PRAGMA integrity_check")
  end

  test "a server that gives each call up after a millisecond hears nothing later", context do
    %{app: app, dir: dir, seed: seed} = context
    {:ok, server} = GenServer.start_link(__MODULE__.Server, nil)

    results =
      for n <- 1..div(@calls, 4) do
        :rand.seed(:exsss, {seed, n, 1})
        call = impatient(app, dir, n)
        {result, messages} = GenServer.call(server, {:run, call}, 120_000)
        assert messages == [], "seed=#{seed} call=#{n}"
        if result == {:error, :timeout}, do: :timeout, else: :other
      end

    # both ways of the race were taken, or the test says nothing
    assert Enum.sort(Enum.uniq(results)) == [:other, :timeout]
    writes_at_once!(app)
    assert {:ok, []} = GenServer.call(server, {:run, fn -> :ok end})
  end

  defmodule Server do
    @moduledoc false
    use GenServer

    def init(nil), do: {:ok, nil}

    def handle_call({:run, call}, _from, nil) do
      result = call.()
      {:messages, messages} = Process.info(self(), :messages)
      {:reply, {result, messages}, nil}
    end

    # a late answer ends the server, and with it the test
    def handle_info(message, nil), do: exit({:late, message})
  end

  # So many callers at once, each for one call; half of them are killed, all of them may give up.
  defp slice(app, dir, seed, numbers) do
    numbers
    |> Task.async_stream(&one(app, dir, seed, &1),
      max_concurrency: @callers,
      ordered: false,
      timeout: 120_000
    )
    |> Stream.run()
  end

  defp one(app, dir, seed, n) do
    :rand.seed(:exsss, {seed, n, 0})
    kind = Enum.random(kinds())
    timeout = Enum.random([1, 1, 2, 30_000])
    kill_us = if(timeout == 30_000 or :rand.uniform(2) == 1, do: :rand.uniform(@kill_us_max))
    # an endless call that nobody ends is no call
    {pid, ref} = spawn_monitor(fn -> call(kind, app, dir, n, timeout) end)
    if kill_us, do: kill_after(pid, kill_us)

    receive do
      {:DOWN, ^ref, _, _, reason} when reason in [:normal, :killed] -> :ok
      {:DOWN, ^ref, _, _, reason} -> exit({:call_failed, kind, timeout, seed, n, reason})
    end
  end

  # a timer is too coarse
  defp kill_after(pid, us) do
    spin_until(System.monotonic_time(:microsecond) + us)
    Process.exit(pid, :kill)
  end

  defp spin_until(at) do
    if System.monotonic_time(:microsecond) < at do
      :erlang.yield()
      spin_until(at)
    end
  end

  defp kinds do
    [:query, :query_large, :query_endless, :execute, :execute_endless, :execute_many, :batch] ++
      [:transaction, :stream, :backup, :low_rows, :low_steps, :low_write, :low_endless, :open]
  end

  defp whole(app, dir, n) do
    kind = Enum.at(kinds(), n - 1)
    timeout = if kind in [:query_endless, :execute_endless, :low_endless], do: 1, else: 30_000
    if kind != :low_endless, do: call(kind, app, dir, -1_000 - n, timeout)
  end

  # What a call answers is its own affair here, as long as it is a thing that it may answer.
  defp call(:query, app, _dir, n, timeout),
    do: answered(SQLite.query(app, "SELECT ?, count(*) FROM t", [n], timeout: timeout))

  defp call(:query_large, app, _dir, _n, timeout),
    do: answered(SQLite.query(app, @rows, [], timeout: timeout))

  defp call(:query_endless, app, _dir, _n, timeout),
    do: answered(SQLite.query(app, @endless, [], timeout: timeout))

  defp call(:execute, app, _dir, n, timeout),
    do: answered(SQLite.execute(app, "INSERT INTO t VALUES (?, 'x')", [n], timeout: timeout))

  defp call(:execute_endless, app, _dir, _n, timeout),
    do: answered(SQLite.execute(app, "INSERT INTO t (n) " <> @endless, [], timeout: timeout))

  defp call(:execute_many, app, _dir, n, timeout) do
    rows = for m <- 1..300, do: [n, m]
    answered(SQLite.execute_many(app, "INSERT INTO t VALUES (?, ?)", rows, timeout: timeout))
  end

  defp call(:batch, app, _dir, n, timeout) do
    insert = {"INSERT INTO t VALUES (?, 'batch')", [n]}
    answered(SQLite.batch(app, [insert, "SELECT * FROM t LIMIT 50", insert], timeout: timeout))
  end

  defp call(:transaction, app, _dir, n, timeout) do
    inside = fn tx ->
      with :ok <- SQLite.execute(tx, "INSERT INTO t VALUES (?, 'tx')", [n]),
           {:ok, _} <- SQLite.query(tx, "SELECT count(*) FROM t"),
           {:ok, _} <- SQLite.execute_many(tx, "INSERT INTO t VALUES (?, 2)", [[n], [n]]) do
        :done
      else
        {:error, reason} -> SQLite.rollback(tx, reason)
      end
    end

    answered(SQLite.transaction(app, inside, timeout: timeout))
  end

  defp call(:stream, app, _dir, n, _timeout) do
    taken = app |> SQLite.stream(@rows, [], page_rows: 100) |> Enum.take(rem(abs(n) * 37, 3000))
    true = taken == [] or hd(taken) == [1, "31"]
  end

  defp call(:backup, app, dir, n, timeout) do
    # some to a path of their own, some in the place of what is there
    dest = Path.join(dir, if(rem(n, 2) == 0, do: "copy#{n}", else: "copy"))
    answered(SQLite.backup(app, dest, timeout: timeout, overwrite: true))
  end

  defp call(:low_rows, app, _dir, n, _timeout) do
    {:ok, conn} = Sqlite3.open(SQLite.db_path(app))
    {:ok, stmt} = Sqlite3.prepare(conn, "SELECT n, v FROM big WHERE n > ?")
    :ok = Sqlite3.bind(stmt, [rem(n, 400)])
    {_, [_ | _]} = Sqlite3.multi_step(conn, stmt, 40)
    {:ok, [_ | _]} = Sqlite3.fetch_all(conn, stmt)
    :ok = Sqlite3.release(conn, stmt)
    :ok = Sqlite3.close(conn)
  end

  # left for the garbage collector, statement and all
  defp call(:low_steps, app, _dir, _n, _timeout) do
    {:ok, conn} = Sqlite3.open(SQLite.db_path(app), mode: :readonly)
    {:ok, stmt} = Sqlite3.prepare(conn, @rows)
    for n <- 1..80, do: {:row, [^n, _]} = Sqlite3.step(conn, stmt)
  end

  defp call(:low_write, app, _dir, n, timeout) do
    {:ok, conn} = Sqlite3.open(SQLite.db_path(app))
    :ok = Sqlite3.set_busy_timeout(conn, timeout)
    {:ok, insert} = Sqlite3.prepare(conn, "INSERT INTO t VALUES (?, 'low')")
    :ok = Sqlite3.execute(conn, "BEGIN IMMEDIATE")

    for m <- 1..5 do
      :ok = Sqlite3.bind(insert, [n + m])
      :done = Sqlite3.step(conn, insert)
    end

    if rem(n, 3) != 0, do: :ok = Sqlite3.execute(conn, "COMMIT")
    :ok = Sqlite3.close(conn)
  end

  # ended by a friend, if its caller is not killed before
  defp call(:low_endless, app, _dir, _n, _timeout) do
    {:ok, conn} = Sqlite3.open(SQLite.db_path(app))
    {:ok, stmt} = Sqlite3.prepare(conn, @endless)
    caller = self()
    spawn(fn -> interrupt(conn, Process.monitor(caller)) end)
    {:error, _} = Sqlite3.step(conn, stmt)
  end

  defp call(:open, app, _dir, _n, _timeout) do
    {:ok, conn} = SQLite.open(app)
    {:ok, _} = SQLite.query(conn, "SELECT count(*) FROM big")
    :ok = SQLite.close(conn)
    {:error, :database_open_failed} = Sqlite3.open(Path.join(app, "none/there"))
  end

  # again and again: one that comes before the step does nothing
  defp interrupt(conn, caller) do
    receive do
      {:DOWN, ^caller, _, _, _} -> :ok
    after
      5 ->
        Sqlite3.interrupt(conn)
        interrupt(conn, caller)
    end
  end

  defp answered(:ok), do: :ok
  defp answered({:ok, _}), do: :ok
  # a queue that is full of the dead says so
  defp answered({:error, reason}) when reason in [:timeout, :busy, :closed], do: reason

  # a call of any kind whose `:timeout` is a millisecond
  defp impatient(app, dir, n) do
    kind =
      Enum.random(
        [:query, :query_large, :query_endless, :execute, :execute_endless] ++
          [:execute_many, :batch, :transaction, :backup]
      )

    fn ->
      case call(kind, app, dir, n, 1) do
        :ok -> {:ok, kind}
        reason -> {:error, reason}
      end
    end
  end

  # The queue in front of it holds what callers that are gone had asked for, which is passed over.
  defp writes_at_once!(app) do
    {us, result} =
      :timer.tc(fn ->
        SQLite.execute(app, "INSERT INTO t VALUES (0, 'next')", [], timeout: 10_000)
      end)

    assert result == :ok, "the writer is stuck us=#{us}"
  end

  # of threads those that stay
  defp settled do
    :erlang.garbage_collect()
    threads = length(File.ls!("/proc/self/task")) - low_threads()
    %{rss: rss(), threads: threads, files: open_files()}
  end

  # All but descriptors of the database file itself: SQLite may not close one while another connection has
  # locks on the file, and gives it to the next connection. They are bounded by how many were open at once.
  defp given_back!(before, app) do
    Wait.until("descriptors before=#{inspect(before.files)}", fn ->
      more_than(before, app) == []
    end)

    kept = open_files()[SQLite.db_path(app)]

    for _ <- 1..200 do
      {:ok, conn} = Sqlite3.open(SQLite.db_path(app))
      :ok = Sqlite3.execute(conn, "SELECT count(*) FROM t")
      :ok = Sqlite3.close(conn)
    end

    assert open_files()[SQLite.db_path(app)] <= kept
    Wait.until("low-level threads to end", fn -> low_threads() == 0 end, @threads_ms)
    afterwards = settled()
    assert afterwards.threads <= before.threads
    afterwards
  end

  defp more_than(before, app) do
    :erlang.garbage_collect()

    for {path, n} <- open_files(),
        path != SQLite.db_path(app) and n > Map.get(before.files, path, 0),
        do: {path, n}
  end

  # the writer's, its readers' and those for reads from memory
  defp few_files?(app), do: Map.get(open_files(), SQLite.db_path(app) <> "-wal", 0) <= 5

  # nobody is left to keep it open
  defp closes!(app) do
    assert :ok = MaculaStorage.close_app(app)
    assert [] = for({path, _} <- open_files(), path =~ "/#{app}/", do: path)
  end

  defp open_files do
    for fd <- File.ls!("/proc/self/fd"),
        {:ok, path} <- [File.read_link("/proc/self/fd/" <> fd)],
        reduce: %{},
        do: (seen -> Map.update(seen, path, 1, &(&1 + 1)))
  end

  # named by what they are for
  defp low_threads do
    Enum.count(Path.wildcard("/proc/self/task/*/comm"), fn path ->
      # one that ended meanwhile is none
      match?({:ok, "macula-sql-c" <> _}, File.read(path))
    end)
  end

  defp rss do
    [_, kib] = Regex.run(~r/VmRSS:\s+(\d+) kB/, File.read!("/proc/self/status"))
    String.to_integer(kib) * 1024
  end

  # A copy is there wholly or not at all, and nothing lies beside it.
  defp copies_are_whole!(dir) do
    for name <- File.ls!(dir) do
      assert "copy" <> _ = name
      {:ok, conn} = Sqlite3.open(Path.join(dir, name), mode: :readonly)
      {:ok, stmt} = Sqlite3.prepare(conn, "PRAGMA integrity_check")
      assert {:row, ["ok"]} = Sqlite3.step(conn, stmt)
      :ok = Sqlite3.close(conn)
    end
  end

  defp seed do
    String.to_integer(System.get_env("MACULA_SEED", "#{:erlang.unique_integer([:positive])}"))
  end
end
