defmodule MaculaStorage.Nif.SQLiteCallersTest do
  @moduledoc """
  Callers of every SQLite function that are killed at any point of it, half of them with a deadline of a
  millisecond: the VM goes on, the writer is never stuck, and what they held (descriptors, threads, memory,
  half copies) is given back. A slice by default, 10,000 killed callers under `MACULA_TORTURE=1`;
  `MACULA_SEED=n` repeats which calls are made, not when they are killed.
  """
  use MaculaStorage.NifCase, async: false

  alias MaculaStorage.Native
  alias MaculaStorage.SQLite.Sqlite3
  alias MaculaStorage.SQLite.Sqlite3.{Blob, Session}

  @moduletag timeout: 3_600_000

  @killed if System.get_env("MACULA_TORTURE") == "1", do: 10_000, else: 800
  @callers 16
  @per_slice 200
  # of those of each kind, one in so many at least
  @killed_share 4
  @kill_us 300..20_000
  # of a resident memory that has seen all kinds of calls already
  @grown_bytes_max 96 * 1_048_576
  # of what was allocated, with the app closed before and after, and what each thread has for its next
  # allocations: the full count sees 200 bytes that a call keeps, and a statement takes 2 KiB
  @kept_bytes_max 2 * 1_048_576
  # threads of low-level connections end after 10 s without work
  @threads_ms 60_000

  @endless "WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c) SELECT max(n) FROM c"
  @rows "WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c LIMIT 3000) SELECT n, hex(n) FROM c"

  setup do
    app = unique_app()

    tables =
      "CREATE TABLE t (n, v); CREATE TABLE big (n, v); CREATE TABLE changed (n INTEGER PRIMARY KEY, v)"

    :ok = SQLite.execute(app, tables)

    {:ok, 500} =
      SQLite.execute_many(
        app,
        "INSERT INTO big VALUES (?, zeroblob(2000))",
        for(n <- 1..500, do: [n])
      )

    {:ok, app: app, dir: unique_dir("callers"), seed: seed()}
  end

  test "killed at any point of any call", %{app: app, dir: dir, seed: seed} do
    run = %{app: app, dir: dir, seed: seed, took_us: took_us(app, dir)}
    # some killed before: what is opened once and stays, is
    slice(run, -@per_slice..-1)
    heap = heap_closed(app)
    slice(run, (-2 * @per_slice)..(-@per_slice - 1))
    # connections that were left are closed by the garbage collector's way
    Wait.until("descriptors", fn -> :erlang.garbage_collect() && few_files?(app) end)
    before = settled()
    ends = until_killed(run, 1, %{})
    afterwards = given_back!(before, app)
    copies_are_whole!(dir)
    assert mailbox() == []
    kept = heap_closed(app) - heap
    killed = for {{kind, :killed}, n} <- ends, into: %{}, do: {kind, n}

    IO.puts(
      "\nsqlite_callers_test: seed=#{seed} killed=#{count(ends, :killed)} given_up=#{count(ends, :timeout)} " <>
        "to_their_end=#{count(ends, :other)} kept_kib=#{div(kept, 1024)} " <>
        "grown_kib=#{div(afterwards.rss - before.rss, 1024)}\n  #{inspect(killed)}"
    )

    least = div(@killed, @killed_share * length(kinds()))
    for kind <- kinds(), do: assert(Map.get(killed, kind, 0) >= least, "#{kind} #{inspect(ends)}")
    assert afterwards.rss - before.rss < @grown_bytes_max
    assert kept < @kept_bytes_max
    assert {:ok, %{rows: [["ok"]]}} = SQLite.query(app, "PRAGMA integrity_check")
  end

  test "a server that gives each call up after a millisecond hears nothing later", context do
    %{app: app, dir: dir, seed: seed} = context
    {:ok, server} = GenServer.start_link(__MODULE__.Server, nil)

    results =
      for n <- 1..div(@killed, 3) do
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

  # Microseconds that a call of each kind takes to its end.
  defp took_us(app, dir) do
    for {kind, n} <- Enum.with_index(kinds(), 1), into: %{} do
      # of a process that ends, and what it holds with it
      call = fn n -> Task.await(Task.async(fn -> whole(app, dir, n) end), 60_000) end
      # had one to wait for a processor, most of its kind would be killed behind their end
      times = for round <- 0..2, do: :timer.tc(call, [n + round * length(kinds())])
      us = times |> Enum.map(&elem(&1, 0)) |> Enum.min()
      {kind, us |> max(@kill_us.first) |> min(@kill_us.last)}
    end
  end

  # Until so many were killed: how often calls of each kind ended how.
  defp until_killed(run, n, ends) do
    if count(ends, :killed) >= @killed do
      ends
    else
      ends =
        Enum.reduce(
          slice(run, n..(n + @per_slice - 1)),
          ends,
          &Map.update(&2, &1, 1, fn n -> n + 1 end)
        )

      writes_at_once!(run.app)
      until_killed(run, n + @per_slice, ends)
    end
  end

  defp count(ends, how), do: Enum.sum(for {{_kind, ^how}, n} <- ends, do: n)

  # So many callers at once, each for one call: the kind and how it ended of each.
  defp slice(run, numbers) do
    numbers
    |> Task.async_stream(&one(run, &1),
      max_concurrency: @callers,
      ordered: false,
      timeout: 120_000
    )
    |> Enum.map(fn {:ok, ended} -> ended end)
  end

  defp one(%{app: app, dir: dir, seed: seed, took_us: took_us}, n) do
    :rand.seed(:exsss, {seed, n, 0})
    kind = Enum.random(kinds())
    timeout = Enum.random([1, 30_000])
    {pid, ref} = spawn_monitor(fn -> exit({:ended, call(kind, app, dir, n, timeout)}) end)
    # alone it took so long; beside the others it takes longer
    kill_after(pid, :rand.uniform(3 * took_us[kind]))

    receive do
      {:DOWN, ^ref, _, _, :killed} -> {kind, :killed}
      {:DOWN, ^ref, _, _, {:ended, :timeout}} -> {kind, :timeout}
      {:DOWN, ^ref, _, _, {:ended, _}} -> {kind, :other}
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
      [:transaction, :stream, :backup, :subscribe, :vacuum, :check, :open] ++
      [:low_rows, :low_steps, :low_write, :low_returning, :low_endless, :low_cached] ++
      [:low_blob, :low_changes, :low_bytes, :low_copy, :low_listen]
  end

  defp whole(app, dir, n) do
    kind = Enum.at(kinds(), rem(n - 1, length(kinds())))
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

  defp call(:subscribe, app, _dir, n, timeout) do
    {:ok, _subscription, _revision} = SQLite.subscribe(app, "t", images: rem(n, 2) == 0)
    answered(SQLite.execute(app, "INSERT INTO t VALUES (?, 'told')", [n], timeout: timeout))
  end

  defp call(:vacuum, app, _dir, _n, timeout), do: answered(SQLite.vacuum(app, timeout: timeout))

  defp call(:check, app, _dir, _n, _timeout), do: answered(SQLite.integrity_check(app))

  # a write that has rows left, reset, dropped or stepped to its end
  defp call(:low_returning, app, _dir, n, _timeout) do
    {:ok, conn} = Sqlite3.open(SQLite.db_path(app))
    {:ok, stmt} = Sqlite3.prepare(conn, "INSERT INTO t VALUES (1, 'a'), (2, 'b') RETURNING n")
    {:row, [1]} = Sqlite3.step(conn, stmt)

    case rem(n, 3) do
      0 -> :ok = Sqlite3.reset(stmt)
      1 -> :ok = Sqlite3.release(conn, stmt)
      _ -> {:done, [[2]]} = Sqlite3.multi_step(conn, stmt)
    end
  end

  defp call(:low_cached, app, _dir, n, _timeout) do
    {:ok, conn} = Sqlite3.open(SQLite.db_path(app))

    for m <- 1..20 do
      {:ok, stmt} = Sqlite3.prepare_cached(conn, "SELECT ? + #{rem(n + m, 3)}")
      :ok = Sqlite3.bind(stmt, [m])
      {:row, [_]} = Sqlite3.step(conn, stmt)
      :ok = Sqlite3.release(conn, stmt)
    end
  end

  defp call(:low_blob, app, _dir, n, _timeout) do
    {:ok, conn} = Sqlite3.open(SQLite.db_path(app))
    {:ok, blob} = Blob.open(conn, "big", "v", rem(abs(n), 500) + 1, write: true)
    {:ok, _} = Blob.read(blob, 0, 100)
    :ok = Blob.write(blob, 50, <<n::32>>)
    if rem(n, 2) == 0, do: :ok = Blob.close(blob)
  end

  # recorded in memory, applied to the app's file
  defp call(:low_changes, app, _dir, n, _timeout) do
    {:ok, conn} = Sqlite3.open(":memory:")
    :ok = Sqlite3.execute(conn, "CREATE TABLE changed (n INTEGER PRIMARY KEY, v)")
    {:ok, session} = Session.create(conn)
    :ok = Session.attach(session, "changed")
    :ok = Sqlite3.execute(conn, "INSERT INTO changed VALUES (#{n + 1_000_000}, 'changed')")
    {:ok, changes} = Session.changeset(session)
    {:ok, own} = Sqlite3.open(SQLite.db_path(app))
    :ok = Session.apply(own, changes)
  end

  defp call(:low_bytes, _app, _dir, _n, _timeout) do
    {:ok, conn} = Sqlite3.open(":memory:")
    :ok = Sqlite3.execute(conn, "CREATE TABLE t (v); INSERT INTO t VALUES (zeroblob(300000))")
    {:ok, bytes} = Sqlite3.serialize(conn)
    :ok = Sqlite3.deserialize(conn, bytes)
    {:ok, _} = Sqlite3.wal_checkpoint(conn)
    :ok
  end

  defp call(:low_copy, app, _dir, _n, _timeout) do
    {:ok, conn} = Sqlite3.open(SQLite.db_path(app))
    {:ok, copy} = Sqlite3.open(":memory:")
    :ok = Sqlite3.backup(conn, copy)
  end

  defp call(:low_listen, app, _dir, n, _timeout) do
    {:ok, conn} = Sqlite3.open(SQLite.db_path(app))
    {:ok, _} = Sqlite3.listen(conn, [:update, :commit, :rollback, :wal, :preupdate])
    :ok = Sqlite3.execute(conn, "INSERT INTO t VALUES (#{n}, 'heard')")
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
      more_than(before, app) == [] and few_files?(app)
    end)

    kept = open_files()[SQLite.db_path(app)]

    for _ <- 1..200 do
      {:ok, conn} = Sqlite3.open(SQLite.db_path(app))
      :ok = Sqlite3.execute(conn, "SELECT count(*) FROM t")
      :ok = Sqlite3.close(conn)
    end

    assert open_files()[SQLite.db_path(app)] <= kept
    Wait.until("low-level threads to end", fn -> low_threads() == 0 end, @threads_ms)
    # one that ended is still listed for a moment
    Wait.until("threads to end", fn -> settled().threads <= before.threads end)
    settled()
  end

  # What our side has allocated while the app is closed, and with it all that belongs to it.
  defp heap_closed(app) do
    closes!(app)
    Wait.until("low-level threads to end", fn -> low_threads() == 0 end, @threads_ms)
    :erlang.garbage_collect()
    heap = Native.probe_heap()
    assert {:ok, _} = SQLite.query(app, "SELECT count(*) FROM t")
    heap
  end

  defp more_than(before, app) do
    :erlang.garbage_collect()

    for {path, n} <- open_files(),
        not String.starts_with?(path, SQLite.db_path(app)) and n > Map.get(before.files, path, 0),
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
