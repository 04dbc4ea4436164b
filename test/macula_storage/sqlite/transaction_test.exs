defmodule MaculaStorage.SQLite.TransactionTest do
  @moduledoc "A SQLite transaction is there wholly or not at all, however its function ends."
  use MaculaStorage.Case, async: true

  alias MaculaStorage.{Error, SQLite}

  setup do
    app = unique_app()
    :ok = SQLite.execute(app, "CREATE TABLE t (n INTEGER PRIMARY KEY)")
    %{app: app}
  end

  defp all(target) do
    {:ok, %{rows: rows}} = SQLite.query(target, "SELECT n FROM t ORDER BY n")
    List.flatten(rows)
  end

  defp insert(target, n), do: SQLite.execute(target, "INSERT INTO t VALUES (?)", [n])

  test "commit; it reads its own writes, nobody else does before", %{app: app} do
    {:ok, conn} = SQLite.open(app)

    for {target, n} <- [{app, 1}, {conn, 2}] do
      assert {:ok, :result} =
               SQLite.transaction(target, fn tx ->
                 :ok = insert(tx, n)
                 assert n in all(tx)
                 refute n in all(app)
                 :result
               end)
    end

    assert all(app) == [1, 2]
  end

  test "rollback, also from deep inside", %{app: app} do
    assert {:error, :why} =
             SQLite.transaction(app, fn tx ->
               :ok = insert(tx, 1)
               Enum.each([1], fn _ -> SQLite.rollback(tx, :why) end)
             end)

    assert all(app) == []
  end

  test "raise, throw and exit undo and go on to the caller", %{app: app} do
    ending = fn ending ->
      SQLite.transaction(app, fn tx ->
        :ok = insert(tx, 1)
        ending.()
      end)
    end

    assert_raise RuntimeError, "oops", fn -> ending.(fn -> raise "oops" end) end
    assert catch_throw(ending.(fn -> throw(:ball) end)) == :ball
    assert catch_exit(ending.(fn -> exit(:left) end)) == :left
    assert all(app) == []
    assert :ok = insert(app, 2)
  end

  test "an error that the function handles does not end it", %{app: app} do
    :ok = insert(app, 1)

    assert {:ok, :done} =
             SQLite.transaction(app, fn tx ->
               :ok = insert(tx, 2)
               assert {:error, %Error{kind: :sql}} = insert(tx, 1)
               :ok = insert(tx, 3)
               :done
             end)

    assert all(app) == [1, 2, 3]
  end

  test "several statements inside, the failing one undone wholly", %{app: app} do
    assert {:ok, _} =
             SQLite.transaction(app, fn tx ->
               :ok = SQLite.execute(tx, "INSERT INTO t VALUES (1); INSERT INTO t VALUES (2)")
               assert {:error, _} = SQLite.execute(tx, "INSERT INTO t VALUES (3), (1)")
             end)

    assert all(app) == [1, 2]
  end

  test "they take turns", %{app: app} do
    :ok = insert(app, 0)

    add = fn _ ->
      SQLite.transaction(app, fn tx ->
        [n] = all(tx)
        :ok = SQLite.execute(tx, "UPDATE t SET n = ?", [n + 1])
      end)
    end

    1..100
    |> Task.async_stream(add, max_concurrency: 10)
    |> Enum.each(&assert &1 == {:ok, {:ok, :ok}})

    assert all(app) == [100]
  end

  test "the deadline: undone, every use says so, and the next writer goes on", %{app: app} do
    answer =
      SQLite.transaction(
        app,
        fn tx ->
          :ok = insert(tx, 1)
          assert :ok = Task.await(Task.async(fn -> insert(app, 2) end), 60_000)
          assert {:error, reason} = insert(tx, 3)
          assert reason in [:timeout, :closed]
          :committed
        end,
        # 50 ms passed on a busy machine before the first statement was through
        timeout: 2_000
      )

    assert answer in [{:error, :timeout}, {:error, :closed}]
    assert all(app) == [2]
  end

  test "a killed owner, with a writer waiting", %{app: app} do
    test = self()

    {pid, ref} =
      spawn_monitor(fn ->
        SQLite.transaction(app, fn tx ->
          :ok = insert(tx, 1)
          send(test, :in)
          receive do: (:never -> :ok)
        end)
      end)

    assert_receive :in, 60_000
    waiting = Task.async(fn -> insert(app, 2) end)
    Process.exit(pid, :kill)
    assert_receive {:DOWN, ^ref, _, _, :killed}, 60_000
    assert :ok = Task.await(waiting, 60_000)
    assert all(app) == [2]
  end

  test "a killed owner in the middle of an endless statement", %{app: app} do
    test = self()

    {pid, ref} =
      spawn_monitor(fn ->
        SQLite.transaction(app, fn tx ->
          :ok = insert(tx, 1)
          send(test, :in)

          SQLite.query(
            tx,
            "WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c) SELECT max(n) FROM c",
            [],
            timeout: 3_600_000
          )
        end)
      end)

    assert_receive :in, 60_000
    Process.exit(pid, :kill)
    assert_receive {:DOWN, ^ref, _, _, :killed}, 60_000
    assert :ok = insert(app, 2)
    assert all(app) == [2]
  end

  test "the transaction's target outside, and misuse", %{app: app} do
    {:ok, tx} = SQLite.transaction(app, & &1)
    assert {:error, :closed} = insert(tx, 1)

    assert_raise ArgumentError, ~r/unknown option/, fn ->
      SQLite.transaction(app, & &1, mode: 1)
    end

    assert_raise ArgumentError, fn -> SQLite.transaction(app, & &1, timeout: 0) end
  end
end
