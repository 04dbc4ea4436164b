defmodule MaculaStorage.Nif.SQLiteLockedTest do
  @moduledoc """
  Another OS process holds the write lock of an app's database, and of a file of somebody's own. Twelve
  callers of each wait, more than the VM has threads for file work: nobody else does, they are told who
  holds it, and they go on when it is given up.
  """
  use MaculaStorage.NifCase, async: false

  alias MaculaStorage.SQLite.Sqlite3

  @moduletag timeout: 300_000

  @callers 12
  @short_ms 1_500
  @long_ms 120_000
  # a machine that is busy elsewhere stalls some of them, a VM whose threads for files wait each of them
  @read_us_max 5_000
  @reads_ms 2_000
  @slow_share_max 0.01

  setup do
    app = unique_app()
    :ok = SQLite.execute(app, "CREATE TABLE t (n)")
    plain = Path.join(unique_dir("locked"), "plain.db")
    conns = for _ <- 1..@callers, do: opened(plain)
    :ok = Sqlite3.execute(hd(conns), "CREATE TABLE t (n)")
    small = Path.join(unique_dir("small"), "small.txt")
    File.write!(small, "small")
    on_exit(fn -> Enum.each(conns, &Sqlite3.close/1) end)
    {:ok, app: app, conns: conns, small: small, holder: holder([SQLite.db_path(app), plain])}
  end

  test "they wait, an unrelated File.read! does not, and all go through when it ends", context do
    %{app: app, conns: conns, small: small, holder: holder} = context
    before = reads(small)
    waiting = waiting(app, conns, @long_ms)
    Wait.until("24 that wait", fn -> Enum.all?(waiting, &waits?/1) end)
    beside = reads(small)
    assert Enum.all?(waiting, &Process.alive?(&1.pid))
    # reads of the database itself go on, too
    assert {:ok, %{rows: [[0]]}} = SQLite.query(app, "SELECT count(*) FROM t")
    assert beside.slow <= before.slow + @slow_share_max * beside.count
    assert beside.median_us < @read_us_max

    ChildVM.tell(holder, "end")
    ChildVM.wait_for(holder, "ended")
    assert Enum.uniq(Task.await_many(waiting, @long_ms)) == [:ok]
    assert {:ok, %{rows: [[@callers]]}} = SQLite.query(app, "SELECT count(*) FROM t")
    assert {:ok, [[@callers]]} = all(hd(conns), "SELECT count(*) FROM t")

    IO.puts(
      "\nsqlite_locked_test: callers=#{2 * @callers} reads=#{inspect(beside)} without=#{inspect(before)}"
    )
  end

  test "low-level calls end after their busy timeout, in SQLite's words", %{conns: conns} do
    for conn <- conns, do: :ok = Sqlite3.set_busy_timeout(conn, 100)

    steps =
      for conn <- conns do
        Task.async(fn ->
          {:ok, stmt} = Sqlite3.prepare(conn, "INSERT INTO t VALUES (1)")
          {Sqlite3.step(conn, stmt), Sqlite3.execute(conn, "BEGIN IMMEDIATE")}
        end)
      end

    assert Enum.uniq(Task.await_many(steps, @long_ms)) ==
             [{:busy, {:error, "database is locked"}}]
  end

  test "the app's callers end by their deadline, and the writer goes on", context do
    %{app: app, conns: conns, holder: holder} = context
    results = app |> waiting([], @short_ms) |> Task.await_many(@long_ms)
    assert Enum.all?(results, &match?({:error, _}, &1))
    ChildVM.tell(holder, "end")
    ChildVM.wait_for(holder, "ended")
    assert :ok = SQLite.execute(app, "INSERT INTO t VALUES (2)")
    assert {:ok, %{rows: [[2]]}} = SQLite.query(app, "SELECT n FROM t")
    assert :ok = Sqlite3.execute(hd(conns), "INSERT INTO t VALUES (2)")
  end

  test "the app's callers are told who holds the lock", %{app: app, holder: holder} do
    for result <- app |> waiting([], @short_ms) |> Task.await_many(@long_ms) do
      assert {:error, %Error{message: message, hint: hint}} = result
      assert message =~ "another program holds the database lock"
      assert message =~ "#{holder.os_pid}"
      assert hint =~ "transaction"
    end
  end

  defp opened(path) do
    {:ok, conn} = Sqlite3.open(path)
    :ok = Sqlite3.set_busy_timeout(conn, @long_ms)
    conn
  end

  # A VM of its own, because locks are between OS processes.
  defp holder(paths) do
    code = """
    alias MaculaStorage.SQLite.Sqlite3
    {:ok, _} = Application.ensure_all_started(:macula_storage)
    conns = for path <- #{inspect(paths)} do
      {:ok, conn} = Sqlite3.open(path)
      :ok = Sqlite3.execute(conn, "BEGIN IMMEDIATE")
      conn
    end
    IO.puts("held")
    IO.gets("")
    for conn <- conns, do: :ok = Sqlite3.execute(conn, "COMMIT")
    IO.puts("ended")
    IO.gets("")
    """

    child = ChildVM.start(code, base: unique_dir("holder"))
    ChildVM.wait_for(child, "held")
    child
  end

  defp waiting(app, conns, timeout_ms) do
    apps =
      for n <- 1..@callers do
        Task.async(fn ->
          SQLite.execute(app, "INSERT INTO t VALUES (?)", [n], timeout: timeout_ms)
        end)
      end

    lows =
      for conn <- conns do
        Task.async(fn -> Sqlite3.execute(conn, "INSERT INTO t VALUES (1)") end)
      end

    apps ++ lows
  end

  defp waits?(task), do: Process.info(task.pid, :status) == {:status, :waiting}

  # Reads one after the other for some time: how many, how many of them were slow.
  defp reads(path) do
    until = System.monotonic_time(:millisecond) + @reads_ms

    us =
      Stream.repeatedly(fn -> elem(:timer.tc(fn -> "small" = File.read!(path) end), 0) end)
      |> Enum.reduce_while([], fn us, all ->
        if System.monotonic_time(:millisecond) < until,
          do: {:cont, [us | all]},
          else: {:halt, [us | all]}
      end)

    sorted = Enum.sort(us)
    count = length(us)

    %{
      count: count,
      slow: Enum.count(us, &(&1 >= @read_us_max)),
      median_us: Enum.at(sorted, div(count, 2))
    }
  end

  defp all(conn, sql) do
    {:ok, stmt} = Sqlite3.prepare(conn, sql)
    Sqlite3.fetch_all(conn, stmt)
  end
end
