defmodule MaculaStorage.Nif.MailboxTest do
  @moduledoc """
  A process that gives its calls up after a millisecond, thousands of times, never finds a late answer
  in its mailbox.
  """
  use MaculaStorage.NifCase, async: true

  @rounds if System.get_env("MACULA_TORTURE"), do: 50_000, else: 1_500

  defmodule Impatient do
    @moduledoc false
    use GenServer

    def init(calls), do: {:ok, calls}

    def handle_call(:round, _from, [call | calls]) do
      result = call.()
      {:messages, messages} = Process.info(self(), :messages)
      {:reply, {result, messages}, calls ++ [call]}
    end

    # a late answer that slipped past would end the server
    def handle_info(message, _calls), do: exit({:late, message})
  end

  test "short timeouts of every kind of call" do
    app = unique_app()
    :ok = CubDB.put(app, :a, 1)
    :ok = SQLite.execute(app, "CREATE TABLE t (n)")
    :ok = MaculaStorage.file_write(app, "a.txt", "a")
    {:ok, handle} = MaculaStorage.Apps.app(app)
    {:ok, conn} = SQLite.open(app)
    base = own_base()
    {:ok, server} = GenServer.start_link(Impatient, calls(app, handle, conn, base))

    results =
      for _ <- 1..@rounds do
        {result, messages} = GenServer.call(server, :round, 120_000)
        assert messages == []
        if result == {:error, :timeout}, do: :timeout, else: :other
      end

    # both ways of the race were taken, or the test says nothing
    counts = Enum.frequencies(results)
    assert Map.get(counts, :timeout, 0) > @rounds / 50
    assert Map.get(counts, :other, 0) > @rounds / 50

    # after these, nothing older is under way
    assert :ok = CubDB.put(app, :end, 1)
    assert :ok = SQLite.execute(app, "INSERT INTO t VALUES (0)")
    assert {_, []} = GenServer.call(server, :round, 120_000)
    assert Process.alive?(server)
  end

  # The public timeout options where there are, the machinery under them for the rest.
  defp calls(app, handle, conn, base) do
    etf = :erlang.term_to_binary(:key)
    put = &Native.kv_write(handle, &1, [{:put, etf, etf}], [], nil)
    sql = &Native.sqlite_run(conn, &1, "INSERT INTO t VALUES (1)", {:positional, []}, :execute, 0)
    probe = fn ms -> &Native.probe(base, &1, ms, false) end

    [
      fn -> Call.run(put, timeout: 1) end,
      fn -> Call.run(put, timeout: 0) end,
      fn -> Call.run(sql, timeout: 1) end,
      fn -> Call.run(sql, timeout: 0) end,
      fn -> Call.run(probe.(1), timeout: 1) end,
      fn -> Call.run(probe.(2), timeout: 1) end,
      fn -> MaculaStorage.file_write(app, "a.txt", "b", timeout: 1) end,
      fn -> MaculaStorage.file_read(app, "a.txt", timeout: 1) end,
      fn -> MaculaStorage.file_list(app, timeout: 1) end,
      fn -> SQLite.query(app, "SELECT count(*) FROM t", [], timeout: 1) end,
      fn -> Call.run(&Native.kv_begin(handle, &1, 5), timeout: 1) end,
      fn -> MaculaStorage.app_usage(app, fresh: true, timeout: 1) end
    ]
  end
end
