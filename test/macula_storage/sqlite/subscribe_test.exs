defmodule MaculaStorage.SQLite.SubscribeTest do
  @moduledoc "Committed changes, and only those, in order, to who asked."
  use MaculaStorage.Case, async: true

  alias MaculaStorage.SQLite

  setup do
    app = unique_app()

    :ok =
      SQLite.execute(
        app,
        "CREATE TABLE t (id INTEGER PRIMARY KEY, v); CREATE TABLE u (id INTEGER PRIMARY KEY)"
      )

    %{app: app}
  end

  test "what is committed, with its images, and nothing that was undone", %{app: app} do
    {:ok, ref, revision} = SQLite.subscribe(app, "t", images: true)
    :ok = SQLite.execute(app, "INSERT INTO t VALUES (1, 'a'), (2, x'00ff')")
    assert_receive {SQLite, ^ref, first, changes}
    assert changes == [{:insert, "t", 1, nil, [1, "a"]}, {:insert, "t", 2, nil, [2, <<0, 255>>]}]
    assert first > revision

    :ok =
      SQLite.execute(
        app,
        "UPDATE t SET v = 1.5 WHERE id = 1; DELETE FROM t WHERE id = 2; INSERT INTO u VALUES (1)"
      )

    assert_receive {SQLite, ^ref, second, changes}

    assert changes == [
             {:update, "t", 1, [1, "a"], [1, 1.5]},
             {:delete, "t", 2, [2, <<0, 255>>], nil}
           ]

    assert second > first

    {:error, _} = SQLite.execute(app, "INSERT INTO t VALUES (3, NULL), (1, NULL)")

    {:error, _} =
      SQLite.execute(app, "INSERT INTO t VALUES (4, NULL); INSERT INTO nowhere VALUES (1)")

    :ok = SQLite.execute(app, "INSERT INTO u VALUES (2)")

    {:error, :no} =
      SQLite.transaction(app, fn tx ->
        :ok = SQLite.execute(tx, "DELETE FROM t")
        SQLite.rollback(tx, :no)
      end)

    {:ok, _} =
      SQLite.transaction(app, fn tx ->
        :ok = SQLite.execute(tx, "INSERT INTO t VALUES (5, NULL)")
        {:error, _} = SQLite.execute(tx, "INSERT OR FAIL INTO t VALUES (6, NULL), (1, NULL)")
        :ok = SQLite.execute(tx, "INSERT INTO t VALUES (7, NULL)")
      end)

    assert_receive {SQLite, ^ref, _,
                    [{:insert, "t", 5, nil, [5, nil]}, {:insert, "t", 7, nil, [7, nil]}]}

    # all at once, each of them told
    :ok = SQLite.execute(app, "DELETE FROM t")
    assert_receive {SQLite, ^ref, _, deleted}
    assert Enum.map(deleted, &elem(&1, 2)) == [1, 5, 7]
    :ok = SQLite.unsubscribe(ref)
    :ok = SQLite.execute(app, "INSERT INTO t VALUES (8, NULL)")
    refute_received _
  end

  # It was prepared already, for a connection whose rows nobody wanted to hear of: SQLite then removes all
  # at once, and it told nothing.
  test "a table that is emptied by a statement from before the subscription is told row by row",
       %{app: app} do
    empty = fn -> SQLite.execute(app, "DELETE FROM t") end
    :ok = empty.()
    {:ok, ref, _} = SQLite.subscribe(app, "t")
    :ok = SQLite.execute(app, "INSERT INTO t VALUES (1, NULL), (2, NULL)")
    assert_receive {SQLite, ^ref, _, [{:insert, "t", 1}, {:insert, "t", 2}]}
    :ok = empty.()
    assert_receive {SQLite, ^ref, _, [{:delete, "t", 1}, {:delete, "t", 2}]}
  end

  test "requests that share a commit are told one by one, those that fail are not", %{app: app} do
    {:ok, all, _} = SQLite.subscribe(app, :all)
    {:ok, ref, _} = SQLite.subscribe(app, "T")

    1..60
    |> Enum.map(fn n ->
      Task.async(fn ->
        second =
          if rem(n, 3) == 0,
            do: "INSERT INTO nowhere VALUES (1)",
            else: "INSERT INTO u VALUES (#{n})"

        SQLite.batch(app, ["INSERT INTO t VALUES (#{n}, 1)", second])
      end)
    end)
    |> Task.await_many()

    ids = for n <- 1..60, rem(n, 3) != 0, do: n
    {revisions, of_t} = Enum.unzip(for _ <- ids, do: told(ref))
    assert Enum.sort(of_t) == for(n <- ids, do: [{:insert, "t", n}])
    assert revisions == Enum.uniq(Enum.sort(revisions))
    of_all = for _ <- ids, do: elem(told(all), 1)
    assert Enum.sort(of_all) == for(n <- ids, do: [{:insert, "t", n}, {:insert, "u", n}])
    refute_received _
  end

  test "what a low-level connection commits is told, in the order of commits", %{app: app} do
    {:ok, ref, _} = SQLite.subscribe(app, "t")
    {:ok, conn} = SQLite.Sqlite3.open(SQLite.db_path(app))

    :ok =
      SQLite.Sqlite3.execute(
        conn,
        "BEGIN; INSERT INTO t VALUES (1, 1); INSERT INTO t VALUES (2, 2)"
      )

    writer = Task.async(fn -> SQLite.execute(app, "INSERT INTO t VALUES (3, 3)") end)
    refute_received _
    :ok = SQLite.Sqlite3.execute(conn, "DELETE FROM t WHERE v = 1; COMMIT")
    :ok = Task.await(writer)
    assert {first, [{:insert, "t", 1}, {:insert, "t", 2}, {:delete, "t", 1}]} = told(ref)
    assert {second, [{:insert, "t", 3}]} = told(ref)
    assert second > first
    :ok = SQLite.Sqlite3.close(conn)
  end

  test "a transaction of very many changes, an end by closing, an end by death", %{app: app} do
    {:ok, ref, _} = SQLite.subscribe(app, "t")

    {:ok, 20_000} =
      SQLite.execute_many(app, "INSERT INTO t VALUES (?, 1)", Stream.map(1..20_000, &[&1]))

    assert_receive {SQLite, ^ref, _, :many}
    {pid, down} = spawn_monitor(fn -> {:ok, _, _} = SQLite.subscribe(app, :all) end)
    assert_receive {:DOWN, ^down, _, ^pid, :normal}
    :ok = MaculaStorage.close_app(app)
    assert_receive {SQLite, ^ref, :closed}
    :ok = SQLite.execute(app, "INSERT INTO t VALUES (30000, 1)")
    refute_received _
  end

  defp told(ref) do
    assert_receive {SQLite, ^ref, revision, changes}, 10_000
    {revision, changes}
  end
end
