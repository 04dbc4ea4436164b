# An Ecto Repo of ecto_sqlite3 on our copy of SQLite. Runs when MACULA_BENCH_PEERS names a directory with the
# compiled modules of ecto_sqlite3, ecto_sql, ecto, exqlite, db_connection, decimal and telemetry; this project
# needs none of them.
peers = Path.wildcard("#{System.get_env("MACULA_BENCH_PEERS", "none")}/*/ebin")
Enum.each(peers, &Code.append_path/1)

if Code.ensure_loaded?(Ecto.Adapters.SQLite3) do
  # Mix consolidated these without the peers' implementations
  Code.delete_path(Mix.Project.consolidation_path())

  for protocol <- [Enumerable, Inspect, String.Chars] do
    :code.purge(protocol)
    {:module, ^protocol} = :code.load_file(protocol)
  end

  defmodule MaculaStorage.SQLite.EctoTest.Repo do
    use Ecto.Repo, otp_app: :macula_storage, adapter: Ecto.Adapters.SQLite3
  end

  defmodule MaculaStorage.SQLite.EctoTest.Team do
    use Ecto.Schema

    schema "teams" do
      field(:name, :string)
      has_many(:players, MaculaStorage.SQLite.EctoTest.Player)
    end
  end

  defmodule MaculaStorage.SQLite.EctoTest.Player do
    use Ecto.Schema

    schema "players" do
      field(:name, :string)
      field(:points, :integer, default: 0)
      field(:active, :boolean, default: true)
      field(:price, :decimal)
      field(:photo, :binary)
      belongs_to(:team, MaculaStorage.SQLite.EctoTest.Team)
      timestamps(type: :utc_datetime_usec)
    end

    def changeset(player, changes) do
      player
      |> Ecto.Changeset.cast(changes, [:name, :points, :team_id])
      |> Ecto.Changeset.unique_constraint(:name)
      |> Ecto.Changeset.check_constraint(:points, name: :points_not_negative)
    end
  end

  defmodule MaculaStorage.SQLite.EctoTest.Tables do
    use Ecto.Migration

    def change do
      create table(:teams) do
        add(:name, :string, null: false)
      end

      create table(:players) do
        add(:name, :string, null: false)

        add(:points, :integer, check: %{name: "points_not_negative", expr: "points >= 0"})

        add(:active, :boolean)
        add(:price, :decimal)
        add(:photo, :binary)
        add(:team_id, references(:teams))
        timestamps(type: :utc_datetime_usec)
      end

      create(unique_index(:players, [:name]))
    end
  end

  defmodule MaculaStorage.SQLite.EctoTest do
    use MaculaStorage.Case, async: false

    import Ecto.Query
    import ExUnit.CaptureLog
    alias MaculaStorage.SQLite
    alias MaculaStorage.SQLite.EctoTest.{Player, Repo, Tables, Team}

    @moduletag capture_log: true
    @endless "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT count(*) FROM n"

    setup_all do
      {:ok, _} = Application.ensure_all_started(:ecto_sqlite3)
      :ok
    end

    setup context do
      app = unique_app("ecto")

      options =
        Keyword.merge(
          [
            database: SQLite.db_path(app),
            pool: SQLite.Pool,
            pool_size: 5,
            journal_mode: :wal,
            log: false
          ],
          context[:repo] || []
        )

      start_supervised!({Repo, options})
      :ok = Ecto.Migrator.up(Repo, 1, Tables, log: false)
      {:ok, app: app}
    end

    defp count(app) do
      {:ok, %{rows: [[count]]}} = SQLite.query(app, "SELECT count(*) FROM players")
      count
    end

    test "it is our copy of SQLite, the app's log, and synced", %{app: app} do
      assert %{rows: [["wal"]]} = Repo.query!("PRAGMA journal_mode")
      assert %{rows: [[2]]} = Repo.query!("PRAGMA synchronous")
      assert %{rows: [[0]]} = Repo.query!("PRAGMA wal_autocheckpoint")
      assert %{rows: [[1]]} = Repo.query!("PRAGMA foreign_keys")
      {:ok, %{rows: ours}} = SQLite.query(app, "SELECT sqlite_source_id()")
      assert Repo.query!("SELECT sqlite_source_id()").rows == ours
      assert {:error, %Exqlite.Error{}} = Repo.query("PRAGMA wal_checkpoint(TRUNCATE)")
      assert MaculaStorage.app_owner(app) == {:ok, String.to_integer(System.pid())}
    end

    test "a migration ran once and is undone" do
      assert :already_up = Ecto.Migrator.up(Repo, 1, Tables, log: false)
      assert [1] = Ecto.Migrator.migrated_versions(Repo)
      :ok = Ecto.Migrator.down(Repo, 1, Tables, log: false)
      assert %{rows: []} = Repo.query!("SELECT name FROM sqlite_schema WHERE name = 'players'")
    end

    test "schemas: insert, read, update, delete, preload", %{app: app} do
      team = Repo.insert!(%Team{name: "Red"})
      photo = :crypto.strong_rand_bytes(100_000)
      price = Decimal.new("1.25")

      ada = Repo.insert!(%Player{name: "Ada", price: price, photo: photo, team_id: team.id})

      assert Repo.get!(Player, ada.id) == Repo.reload!(ada)
      read = Repo.get!(Player, ada.id)
      assert {read.photo, read.active, read.inserted_at} == {photo, true, ada.inserted_at}
      assert Decimal.equal?(read.price, price)
      assert {3, nil} = Repo.insert_all(Player, for(n <- 1..3, do: row("p#{n}", team.id)))

      assert [%{name: "Red", players: [_, _, _, _]}] = Repo.all(from(Team, preload: :players))
      assert {:ok, %{points: 7}} = ada |> Player.changeset(%{points: 7}) |> Repo.update()
      assert {4, nil} = Repo.update_all(Player, inc: [points: 1])
      assert Repo.aggregate(Player, :sum, :points) == 14
      assert {:ok, _} = Repo.delete(ada)
      assert Repo.one(from(p in Player, select: count(p.id))) == 3
      assert count(app) == 3

      upsert = %Player{name: "p1", points: 50}
      opts = [on_conflict: {:replace, [:points]}, conflict_target: :name]
      Repo.insert!(upsert, opts)
      assert Repo.get_by!(Player, name: "p1").points == 50
    end

    defp row(name, team_id) do
      now = DateTime.utc_now()
      %{name: name, points: 1, team_id: team_id, inserted_at: now, updated_at: now}
    end

    test "constraints are changeset errors, or raise with SQLite's words" do
      Repo.insert!(%Player{name: "Ada"})
      assert {:error, changeset} = insert(%{name: "Ada"})
      assert [name: {"has already been taken", _}] = changeset.errors
      assert {:error, changeset} = insert(%{name: "Eve", points: -1})
      assert [points: {"is invalid", _}] = changeset.errors
      # SQLite names no foreign key that failed
      assert_raise Ecto.ConstraintError, ~r/foreign_key/, fn ->
        insert(%{name: "Bo", team_id: 9})
      end

      assert_raise Exqlite.Error, ~r/NOT NULL/, fn -> insert(%{}) end
      assert {:error, %Exqlite.Error{} = error} = Repo.query("SELECT * FROM nowhere")
      assert Exception.message(error) =~ "no such table: nowhere"
    end

    defp insert(changes), do: %Player{} |> Player.changeset(changes) |> Repo.insert()

    test "transactions: commit, rollback, raise, nested, savepoints", %{app: app} do
      assert {:ok, 1} =
               Repo.transaction(fn ->
                 Repo.insert!(%Player{name: "a"})
                 Repo.aggregate(Player, :count)
               end)

      assert {:error, :no} =
               Repo.transaction(fn ->
                 Repo.insert!(%Player{name: "b"})
                 Repo.rollback(:no)
               end)

      assert_raise RuntimeError, fn ->
        Repo.transaction(fn ->
          Repo.insert!(%Player{name: "b"})
          raise "no"
        end)
      end

      assert {:error, :rollback} =
               Repo.transaction(fn ->
                 Repo.insert!(%Player{name: "b"})
                 {:error, :inner} = Repo.transaction(fn -> Repo.rollback(:inner) end)
               end)

      assert count(app) == 1

      # a failed statement by itself, its savepoint undone, and the transaction goes on
      assert {:ok, _} =
               Repo.transaction(fn ->
                 changeset = Player.changeset(%Player{}, %{name: "a"})
                 {:error, _} = Repo.insert(changeset, mode: :savepoint)
                 Repo.insert!(%Player{name: "c"}, mode: :savepoint)
               end)

      assert count(app) == 2

      multi =
        Ecto.Multi.new()
        |> Ecto.Multi.insert(:one, %Player{name: "d"})
        |> Ecto.Multi.insert(:two, Player.changeset(%Player{}, %{name: "a"}))

      assert {:error, :two, _changeset, _} = Repo.transaction(multi)
      assert count(app) == 2
    end

    test "a stream, halted and whole, beside statements of the same SQL" do
      Repo.insert_all(Player, for(n <- 1..1000, do: row("p#{n}", nil)))
      query = from(p in Player, order_by: p.id, select: p.name)

      read = fn ->
        assert ["p1", "p2"] = query |> Repo.stream(max_rows: 7) |> Enum.take(2)

        for name <- Repo.stream(query, max_rows: 300) do
          assert length(Repo.all(query)) == 1000
          name
        end
      end

      assert {:ok, names} = Repo.transaction(read, mode: :deferred)
      assert names == for(n <- 1..1000, do: "p#{n}")
      assert {:ok, ^names} = Repo.transaction(read)
    end

    test "writers of the Repo and ours take turns: none is told `database is locked`", %{app: app} do
      read_then_write = fn name ->
        Repo.transaction(fn ->
          seen = Repo.aggregate(Player, :count)
          Repo.insert!(%Player{name: name, points: seen})
        end)
      end

      tasks =
        for writer <- 1..10 do
          Task.async(fn ->
            for n <- 1..20 do
              {:ok, _} = read_then_write.("t#{writer}-#{n}")
              Repo.insert!(%Player{name: "i#{writer}-#{n}", points: -0})

              :ok =
                SQLite.execute(
                  app,
                  "INSERT INTO teams (name) VALUES (?)",
                  ["#{writer}-#{n}"]
                )
            end
          end)
        end

      Task.await_many(tasks, 60_000)
      assert count(app) == 400
      assert Repo.aggregate(Team, :count) == 200
      # each transaction saw all that were committed before
      seen = Repo.all(from(p in Player, where: like(p.name, "t%"), select: p.points))
      assert length(Enum.uniq(seen)) == 200
    end

    test "a query past its time is interrupted, and the pool goes on" do
      log =
        capture_log(fn ->
          for _ <- 1..6 do
            assert {:error, %{}} = Repo.query(@endless, [], timeout: 50)
          end
        end)

      assert log =~ "timed out"
      assert Repo.aggregate(Player, :count) == 0
      Repo.insert!(%Player{name: "after"})

      # in a transaction that wrote: undone, and the turn given back
      undone = fn ->
        Repo.insert!(%Player{name: "undone"})
        Repo.query!(@endless, [])
      end

      # "interrupted", or that the connection was closed: whichever the caller sees first
      assert %name{} = catch_error(Repo.transaction(undone, timeout: 200))
      assert name in [Exqlite.Error, DBConnection.ConnectionError]
      assert Repo.all(from(p in Player, select: p.name)) == ["after"]
      Repo.insert!(%Player{name: "undone"})
    end

    test "a transaction whose process dies is undone", %{app: app} do
      test = self()

      {pid, ref} =
        spawn_monitor(fn ->
          Repo.transaction(fn ->
            Repo.insert!(%Player{name: "undone"})
            send(test, :inserted)
            Process.sleep(:infinity)
          end)
        end)

      assert_receive :inserted
      Process.exit(pid, :kill)
      assert_receive {:DOWN, ^ref, _, _, _}
      Repo.insert!(%Player{name: "after"})
      assert count(app) == 1
    end

    test "an idle transaction is told that it was undone, and nothing more of it is done", %{
      app: app
    } do
      waited = "INSERT INTO teams (name) VALUES ('waited')"

      assert_raise DBConnection.ConnectionError, fn ->
        Repo.transaction(fn ->
          Repo.insert!(%Player{name: "undone"})
          # what waits for the turn gets it, after the five seconds
          :ok = SQLite.execute(app, waited)

          assert_raise Exqlite.Error, ~r/rolled back: it was idle/, fn ->
            Repo.insert!(%Player{name: "late"})
          end

          Repo.insert!(%Player{name: "later"})
        end)
      end

      # at its commit, the same
      assert_raise Exqlite.Error, ~r/rolled back: it was idle/, fn ->
        Repo.transaction(fn ->
          Repo.insert!(%Player{name: "undone"})
          :ok = SQLite.execute(app, waited)
        end)
      end

      assert count(app) == 0
      assert Repo.aggregate(Team, :count) == 2
    end

    test "a backup while the Repo writes is one instant, and is restored", %{app: app} do
      writer =
        Task.async(fn ->
          Enum.reduce_while(Stream.iterate(1, &(&1 + 1)), 0, fn n, _ ->
            {:ok, _} =
              Repo.transaction(fn ->
                Repo.insert!(%Player{name: "x#{n}"})
                Repo.insert!(%Player{name: "y#{n}"})
              end)

            receive do
              :stop -> {:halt, n}
            after
              0 -> {:cont, n}
            end
          end)
        end)

      assert {:ok, path} = MaculaBackup.backup_app(app)
      send(writer.pid, :stop)
      written = 2 * Task.await(writer)
      assert Repo.aggregate(Player, :count) == written

      :ok = stop_supervised(Repo)
      assert :ok = MaculaBackup.restore_app(app, path)
      restored = count(app)
      assert rem(restored, 2) == 0 and restored <= written
      File.rm!(path)
    end

    test "named statements are bounded, and others see a changed table at once" do
      for n <- 1..250 do
        query = from(p in Player, select: fragment("? + ?", p.id, ^1), limit: ^n)
        assert [] = Repo.all(query)

        assert %{num_rows: 0} =
                 Repo.query!("SELECT id AS id#{n} FROM players", [], cache_statement: "s#{n}")
      end

      # the same SQL with and without a name, on each connection
      for _ <- 1..10, named <- [[cache_statement: "one"], []] do
        assert %{rows: [[1]]} = Repo.query!("SELECT 1", [], named)
      end

      Repo.insert!(%Team{name: "Red"})
      assert %{columns: ["id", "name"]} = Repo.query!("SELECT * FROM teams")
      Repo.query!("ALTER TABLE teams ADD COLUMN city TEXT")

      for _ <- 1..10 do
        assert %{columns: ["id", "name", "city"], rows: [[1, "Red", nil]]} =
                 Repo.query!("SELECT * FROM teams")
      end
    end

    test "what would take the log or durability out of the app's hands is refused", %{app: app} do
      for refused <- [
            [journal_mode: :delete],
            [locking_mode: :exclusive],
            [synchronous: :off],
            [key: "secret"],
            [load_extensions: ["nowhere.so"]],
            [cache_size: "64"]
          ] do
        options = [database: SQLite.db_path(app)] ++ refused
        assert {:error, error} = SQLite.Connection.connect(options)

        word =
          if refused[:load_extensions], do: "nowhere.so", else: inspect(hd(Keyword.keys(refused)))

        assert Exception.message(error) =~ word
      end

      assert_raise ArgumentError, ~r/asked for: Postgrex/, fn ->
        SQLite.Pool.child_spec({Postgrex.Protocol, []})
      end
    end

    test "beside the line for the bridge, which then means nothing", %{app: app} do
      :ok = stop_supervised(Repo)

      start_supervised!(
        {Repo,
         database: SQLite.db_path(app),
         pool: SQLite.Pool,
         load_extensions: [SQLite.bridge_path()],
         wal_auto_check_point: 0}
      )

      assert Repo.aggregate(Player, :count) == 0
      assert SQLite.bridge_status() == :not_loaded
    end

    # Its connections had the old file open, which is no longer in any directory: what they wrote was
    # acknowledged and gone.
    test "a restore or a close of the app beneath a running Repo loses no write", %{app: app} do
      Repo.insert!(%Player{name: "before"})
      assert {:ok, path} = MaculaBackup.backup_app(app)
      for n <- 1..10, do: Repo.insert!(%Player{name: "gone#{n}"})
      assert :ok = MaculaBackup.restore_app(app, path)
      File.rm!(path)

      for n <- 1..10, do: Repo.insert!(%Player{name: "a#{n}"})
      assert Repo.aggregate(Player, :count) == 11
      assert count(app) == 11

      :ok = MaculaStorage.close_app(app)
      {:ok, _} = Repo.transaction(fn -> Repo.insert!(%Player{name: "b"}) end)
      assert MaculaStorage.app_owner(app) == {:ok, String.to_integer(System.pid())}
      assert count(app) == 12

      # in the middle of a transaction
      assert_raise Exqlite.Error, ~r/rolled back|meanwhile/, fn ->
        Repo.transaction(fn ->
          Repo.insert!(%Player{name: "c"})
          :ok = MaculaStorage.close_app(app)
        end)
      end

      assert count(app) == 12
    end

    test "an idle connection of a closed app lets go of its file, and opens it when it is used" do
      app = unique_app("ecto")
      path = SQLite.db_path(app)
      alias SQLite.Connection
      assert {:ok, conn} = Connection.connect(database: path)
      assert {:ok, ^conn} = Connection.ping(conn)
      assert path in open_files()
      :ok = MaculaStorage.close_app(app)
      assert {:ok, conn} = Connection.ping(conn)
      refute path in open_files()
      assert MaculaStorage.app_owner(app) == {:ok, nil}

      query = Exqlite.Query.build(statement: "SELECT 1")
      assert {:ok, ^query, %{rows: [[1]]}, conn} = Connection.handle_execute(query, [], [], conn)
      assert :ok = Connection.disconnect(:normal, conn)
    end

    defp open_files do
      for link <- Path.wildcard("/proc/self/fd/*"),
          {:ok, file} <- [File.read_link(link)],
          do: file
    end

    # exqlite had the file that it made still open, and no connection of ours came up
    test "after `mix ecto.create` in the same VM" do
      :ok = stop_supervised(Repo)
      database = SQLite.db_path(unique_app("ecto"))
      options = [database: database, pool: SQLite.Pool, pool_size: 5, log: false]
      assert :ok = Repo.__adapter__().storage_up(options)
      assert {:error, :already_up} = Repo.__adapter__().storage_up(options)
      {:ok, repo} = Repo.start_link(options)
      :ok = Ecto.Migrator.up(Repo, 1, Tables, log: false)
      Repo.insert!(%Player{name: "Ada"})
      :ok = Supervisor.stop(repo)
    end

    test "any other file, as exqlite would have it" do
      :ok = stop_supervised(Repo)
      path = Path.join([unique_dir("ecto"), "new", "other.db"])
      start_supervised!({Repo, database: path, pool: SQLite.Pool, pool_size: 2, log: false})
      :ok = Ecto.Migrator.up(Repo, 1, Tables, log: false)
      assert %{rows: [["wal"]]} = Repo.query!("PRAGMA journal_mode")
      assert %{rows: [[1]]} = Repo.query!("PRAGMA synchronous")
      Repo.insert!(%Player{name: "Ada"})
      assert Repo.aggregate(Player, :count) == 1
    end
  end
else
  defmodule MaculaStorage.SQLite.EctoTest do
    use ExUnit.Case, async: true

    @tag skip: "MACULA_BENCH_PEERS names no directory with ecto_sqlite3 and what it needs"
    test "an Ecto Repo of ecto_sqlite3 on our copy of SQLite" do
    end
  end
end
