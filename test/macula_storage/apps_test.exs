defmodule MaculaStorage.AppsTest do
  @moduledoc "The owner of the apps: stopped and started again, crashed, and asked when it is not there."
  use MaculaStorage.Case, async: true

  alias MaculaStorage.{Apps, Call, Files, Native, SQLite}

  # In VMs of their own: there is one owner per VM.
  defp run(code) do
    child =
      ChildVM.start(
        """
        Logger.configure(level: :emergency)
        {:ok, _} = Application.ensure_all_started(:macula_storage)
        alias MaculaStorage.{CubDB, SQLite}
        :ok = CubDB.put(:app, :a, 1)
        :ok = SQLite.execute(:app, "CREATE TABLE t (n)")
        #{code}
        IO.puts("done")
        """,
        base: unique_dir(),
        stderr: true
      )

    assert {["done"], 0} = ChildVM.rest(child)
  end

  test "without the application every function says closed, and after a start it goes on" do
    run("""
    {:ok, conn} = SQLite.open(:app)
    snapshot = CubDB.snapshot(:app, :infinity)
    :ok = Application.stop(:macula_storage)
    {:error, :closed} = CubDB.put(:app, :b, 2)
    {:error, :closed} = CubDB.start_link(:app)
    {:error, :closed} = CubDB.start_link(:app, name: "name")
    {:error, :closed} = SQLite.execute(:app, "SELECT 1")
    {:error, :closed} = SQLite.query(conn, "SELECT 1")
    {:error, :closed} = MaculaStorage.file_write(:app, "a", "a")
    {:error, :closed} = MaculaStorage.app_usage(:app)
    {:error, :closed} = MaculaBackup.backup_app(:app)
    {:error, :closed} = MaculaStorage.close_app(:app)

    for read <- [fn -> CubDB.get(:app, :a) end, fn -> CubDB.Snapshot.size(snapshot) end] do
      try do
        read.()
        raise "it answered"
      rescue
        error in MaculaStorage.Error -> :closed = error.kind
      end
    end

    :ok = Application.start(:macula_storage)
    1 = CubDB.get(:app, :a)
    {:ok, %{rows: [[0]]}} = SQLite.query(:app, "SELECT count(*) FROM t")
    """)
  end

  # A caller that opened the app just before `close_app/1` puts its handle, closed by then, into the table
  # after it was cleaned. Opening a connection or a file's stream answered `:closed` from then on, each time.
  test "a closed handle that a race left in the table is closed once" do
    app = unique_app()
    :ok = MaculaStorage.file_write(app, "a", "content")
    {:ok, base} = Apps.base()

    uses = [
      fn -> with {:ok, conn} <- SQLite.open(app), do: SQLite.execute(conn, "SELECT 1") end,
      fn -> with ["content"] <- Enum.to_list(MaculaStorage.file_stream!(app, "a")), do: :ok end,
      fn -> with %Files.Stream{} <- Enum.into(["b"], Files.stream!(app, "b")), do: :ok end,
      fn -> MaculaStorage.file_write(app, "c", "c") end
    ]

    for use <- uses, _twice <- 1..2 do
      {:ok, _handle} = Apps.app(app)
      # beneath the table
      :ok = Call.run(&Native.app_close(base, &1, app), op: :close)
      assert use.() == :ok
    end
  end

  test "a crash of the owner loses nothing and leaves nothing locked" do
    run("""
    for n <- 1..3 do
      pid = Process.whereis(MaculaStorage.Apps)
      ref = Process.monitor(pid)
      Process.exit(pid, :kill)
      receive do: ({:DOWN, ^ref, _, _, :killed} -> :ok)
      # which_children answers when the restart is over
      Supervisor.which_children(MaculaStorage.Supervisor)
      :ok = CubDB.put(:app, n, n)
      :ok = SQLite.execute(:app, "INSERT INTO t VALUES (1)")
    end

    4 = CubDB.size(:app)
    {:ok, %{rows: [[3]]}} = SQLite.query(:app, "SELECT count(*) FROM t")
    """)
  end

  test "stopped and started many times" do
    run("""
    for n <- 1..20 do
      :ok = Application.stop(:macula_storage)
      :ok = Application.start(:macula_storage)
      :ok = CubDB.put(:app, n, n)
    end

    21 = CubDB.size(:app)
    """)
  end
end
