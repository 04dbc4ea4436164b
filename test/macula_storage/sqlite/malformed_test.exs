defmodule MaculaStorage.SQLite.MalformedTest do
  @moduledoc """
  A database file that is none, or is damaged: an error that says so and what to do, never a crash, and
  nothing is changed. `MACULA_SEED=n` repeats a run.
  """
  use MaculaStorage.Case, async: true

  alias MaculaStorage.{Error, SQLite}
  alias MaculaStorage.SQLite.Sqlite3

  @rounds if System.get_env("MACULA_TORTURE") == "1", do: 2_000, else: 60
  @page 4096

  setup do
    app = unique_app()

    :ok =
      SQLite.execute(
        app,
        "CREATE TABLE t (n INTEGER PRIMARY KEY, v, w); CREATE INDEX i ON t (v); CREATE TABLE u (n)"
      )

    rows =
      for n <- 1..800, do: [n, "value #{rem(n * 37, 800)}", {:blob, :binary.copy(<<n>>, 300)}]

    {:ok, 800} = SQLite.execute_many(app, "INSERT INTO t VALUES (?, ?, ?)", rows)
    :ok = MaculaStorage.close_app(app)
    path = SQLite.db_path(app)
    {:ok, app: app, path: path, sound: File.read!(path), seed: seed()}
  end

  test "what is no database is refused, with a hint, and not touched", context do
    %{app: app, path: path, sound: sound} = context

    for {what, bytes} <- [
          {"noise", :crypto.strong_rand_bytes(20_000)},
          {"text", String.duplicate("this is not a database\n", 500)},
          {"zeros", :binary.copy(<<0>>, 8192)},
          {"a bad header", flip(sound, 3)},
          {"a page size that is none", replace(sound, 16, <<0, 3>>)}
        ] do
      File.write!(path, bytes)

      for run <- [&SQLite.query/2, &SQLite.execute/2] do
        assert {:error, %Error{kind: :corrupt, app: ^app} = error} = run.(app, "SELECT 1"), what
        assert Exception.message(error) =~ "not a sound SQLite database"
        assert error.hint =~ "restore"
      end

      assert {:error, %Error{kind: :corrupt}} = SQLite.open(app)
      assert {:error, %Error{kind: :corrupt}} = SQLite.transaction(app, & &1)
      assert_raise Error, fn -> app |> SQLite.stream("SELECT 1") |> Enum.to_list() end
      assert File.read!(path) == bytes, what
      low_is_none(path)
    end

    good_again(app, path, sound)
  end

  test "a file that ends too early", %{app: app, path: path, sound: sound} do
    for pages <- [1, 2, 5, div(byte_size(sound), @page) - 1], extra <- [0, 17] do
      short = binary_part(sound, 0, pages * @page + extra)
      put(app, path, short)
      results = for run <- uses(), do: run.(app)
      assert Enum.all?(results, &clear?/1), inspect(results)

      assert Enum.any?(
               results,
               &match?({:error, %Error{kind: :corrupt, hint: "restore" <> _}}, &1)
             )

      put(app, path, short)
      assert Enum.any?(low_uses(path), &match?({:error, "database disk image is malformed"}, &1))
    end

    good_again(app, path, sound)
  end

  test "an empty file is a new database", %{app: app, path: path} do
    put(app, path, "")
    assert {:error, %Error{kind: :sql}} = SQLite.query(app, "SELECT * FROM t")
    assert :ok = SQLite.execute(app, "CREATE TABLE t (n)")
  end

  test "flipped bytes anywhere: an answer or a clear error, and the VM and other apps go on",
       %{app: app, path: path, sound: sound, seed: seed} do
    other = unique_app()
    :ok = SQLite.execute(other, "CREATE TABLE t (n)")

    found =
      for n <- 1..@rounds do
        :rand.seed(:exsss, {seed, n, 0})

        bytes =
          Enum.reduce(1..:rand.uniform(30), sound, fn _, bytes ->
            flip(bytes, somewhere(bytes))
          end)

        put(app, path, bytes)
        results = for run <- uses(), do: run.(app)
        unclear = Enum.reject(results, &clear?/1)
        assert unclear == [], "seed=#{seed} round=#{n}: #{inspect(unclear, limit: 50)}"
        put(app, path, bytes)
        lows = low_uses(path)

        assert Enum.all?(lows, &low_clear?/1),
               "seed=#{seed} round=#{n}: #{inspect(lows, limit: 5)}"

        assert :ok = SQLite.execute(other, "INSERT INTO t VALUES (?)", [n])

        if Enum.any?(results, &match?({:error, %Error{kind: :corrupt}}, &1)),
          do: :corrupt,
          else: :sound
      end

    counts = Enum.frequencies(found)
    IO.puts("\nmalformed_test: seed=#{seed} rounds=#{@rounds} told=#{inspect(counts)}")
    # most flips are in contents, which SQLite has no checksum for
    assert Map.get(counts, :corrupt, 0) > @rounds / 20
    good_again(app, path, sound)
  end

  # Left by a crash in the middle of a write, or by another database: without its checksums it is no log.
  test "a write-ahead log of noise, and shared memory of noise", context do
    %{app: app, path: path, sound: sound} = context

    for log <- [
          :crypto.strong_rand_bytes(50_000),
          <<0x377F0682::32>> <> :crypto.strong_rand_bytes(9_000),
          "x"
        ] do
      put(app, path, sound)
      File.write!(path <> "-wal", log)
      File.write!(path <> "-shm", :crypto.strong_rand_bytes(32_768))
      assert {:ok, %{rows: [[800]]}} = SQLite.query(app, "SELECT count(*) FROM t")
      assert :ok = SQLite.execute(app, "INSERT INTO u VALUES (1)")
      assert {:ok, %{rows: [["ok"]]}} = SQLite.query(app, "PRAGMA integrity_check")
      :ok = MaculaStorage.close_app(app)
    end
  end

  defp uses do
    [
      &SQLite.query(&1, "PRAGMA integrity_check", [], timeout: 30_000),
      &SQLite.query(&1, "SELECT * FROM t ORDER BY n"),
      &SQLite.query(&1, "SELECT v FROM t WHERE v > 'value 3' ORDER BY v"),
      &streamed/1,
      &SQLite.execute(&1, "INSERT INTO t VALUES (9999, 'new', zeroblob(5000))"),
      &SQLite.execute(&1, "UPDATE t SET v = v || 'x' WHERE n % 3 = 0"),
      &SQLite.batch(&1, ["DELETE FROM t WHERE n % 2", "INSERT INTO u VALUES (1)"]),
      &SQLite.transaction(&1, fn tx -> SQLite.execute(tx, "DELETE FROM t") end),
      &copied/1
    ]
  end

  defp streamed(app) do
    {:ok, app |> SQLite.stream("SELECT * FROM t") |> Enum.count()}
  rescue
    error in Error -> {:error, error}
  end

  defp copied(app) do
    copy = SQLite.db_path(app) <> ".copy"
    result = SQLite.backup(app, copy, overwrite: true)
    File.rm(copy)
    result
  end

  # what was damaged, or what SQL met in the damage: a constraint, a schema that does not parse, a number in the
  # header by which SQLite does not know how to write the file
  defp clear?(:ok), do: true
  defp clear?({:ok, _}), do: true
  defp clear?({:error, %Error{kind: :corrupt, hint: hint}}), do: hint =~ "restore"

  defp clear?({:error, %Error{kind: :sql, message: message}}), do: message != ""
  defp clear?({:error, %Error{kind: :permission, message: message}}), do: message =~ "readonly"

  # a poisoned handle says so until the app is closed
  defp clear?({:error, reason}), do: reason in [:poisoned, :too_large]

  defp low_uses(path) do
    case Sqlite3.open(path) do
      {:ok, conn} ->
        results =
          for sql <- [
                "PRAGMA integrity_check",
                "SELECT * FROM t ORDER BY n",
                "SELECT v FROM t WHERE v > 'value 3' ORDER BY v",
                "UPDATE t SET v = v || 'x' WHERE n % 3 = 0",
                "DELETE FROM t WHERE n % 2"
              ] do
            with {:ok, stmt} <- Sqlite3.prepare(conn, sql), do: Sqlite3.fetch_all(conn, stmt)
          end

        :ok = Sqlite3.close(conn)
        results

      {:error, _} = error ->
        [error]
    end
  end

  defp low_clear?({:ok, _}), do: true
  defp low_clear?({:error, message}), do: is_binary(message) and message != ""

  defp low_is_none(path) do
    {:ok, conn} = Sqlite3.open(path)
    assert {:error, "file is not a database"} = Sqlite3.execute(conn, "SELECT * FROM t")
    assert {:error, "file is not a database"} = Sqlite3.prepare(conn, "SELECT * FROM t")
    :ok = Sqlite3.close(conn)
  end

  defp put(app, path, bytes) do
    :ok = MaculaStorage.close_app(app)
    for end_ <- ["-wal", "-shm"], do: File.rm(path <> end_)
    File.write!(path, bytes)
  end

  # with the sound bytes in its place the app is as it was, without a restart
  defp good_again(app, path, sound) do
    put(app, path, sound)
    assert {:ok, %{rows: [[800]]}} = SQLite.query(app, "SELECT count(*) FROM t")
    assert :ok = SQLite.execute(app, "INSERT INTO u VALUES (1)")
  end

  # the first pages hold the schema and what leads to all others
  defp somewhere(bytes) do
    most = if :rand.uniform(3) == 1, do: 3 * @page, else: byte_size(bytes)
    :rand.uniform(most) - 1
  end

  defp flip(bytes, at) do
    <<before::binary-size(at), byte, rest::binary>> = bytes
    <<before::binary, Bitwise.bxor(byte, :rand.uniform(255)), rest::binary>>
  end

  defp replace(bytes, at, part) do
    <<before::binary-size(at), _::binary-size(byte_size(part)), rest::binary>> = bytes
    before <> part <> rest
  end

  defp seed,
    do: String.to_integer(System.get_env("MACULA_SEED", "#{:erlang.unique_integer([:positive])}"))
end
