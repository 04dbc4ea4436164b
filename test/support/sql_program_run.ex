defmodule MaculaStorage.SQLProgramRun do
  @moduledoc """
  Runs a program of `MaculaStorage.SQLProgram` here and by SQLite's own command line, and tells of each step
  what it gave, type and bits of every value included.

  Invariant: the two tell in the same words, so that what is equal is equal.
  """
  alias MaculaStorage.SQLite
  alias MaculaStorage.SQLite.Sqlite3

  # through each of them rows come
  @ways [:query, :query_again, :batch, :stream, :transaction, :low, :low_pages]

  @doc "What each step gave here: `:ok` or `:failed` of a statement, encoded rows of a select."
  @spec ours(String.t(), [tuple], Sqlite3.db()) :: [term]
  def ours(app, program, conn), do: Enum.flat_map(program, &step(app, conn, &1))

  defp step(app, _conn, {:run, {sql, params, _}}), do: [run(app, sql, params)]

  defp step(app, _conn, {:batch, statements}) do
    case SQLite.batch(app, for({sql, params, _} <- statements, do: {sql, params})) do
      {:ok, results} -> Enum.map(results, fn _ -> :ok end)
      {:error, _} -> Enum.map(statements, fn _ -> :failed end)
    end
  end

  defp step(app, _conn, {:transaction, statements, ending}) do
    run = fn tx -> for {sql, params, _} <- statements, do: run(tx, sql, params) end

    case ending do
      :commit ->
        {:ok, outcomes} = SQLite.transaction(app, run)
        outcomes

      :rollback ->
        {:error, {:undone, outcomes}} =
          SQLite.transaction(app, fn tx -> SQLite.rollback(tx, {:undone, run.(tx)}) end)

        outcomes
    end
  end

  defp step(app, conn, {:select, sql, width}) do
    names = names(width)
    columns = Enum.map_join(names, ", ", &"#{&1}, typeof(#{&1})")
    rows = rows(Enum.random(@ways), app, conn, ordered(sql, names, columns))
    [Enum.map(rows, &encode/1)]
  end

  defp run(target, sql, params) do
    case SQLite.execute(target, sql, params) do
      :ok -> :ok
      {:error, %MaculaStorage.Error{kind: :sql}} -> :failed
    end
  end

  defp rows(:query, app, _conn, sql) do
    {:ok, %{rows: rows}} = SQLite.query(app, sql)
    rows
  end

  # the third time on, memory answers on the caller's thread
  defp rows(:query_again, app, conn, sql) do
    [rows] = Enum.uniq(for _ <- 1..4, do: rows(:query, app, conn, sql))
    rows
  end

  defp rows(:batch, app, _conn, sql) do
    {:ok, [_, %{rows: rows}]} = SQLite.batch(app, ["SELECT 1", {sql, []}])
    rows
  end

  defp rows(:stream, app, _conn, sql),
    do: app |> SQLite.stream(sql, [], page_rows: :rand.uniform(5)) |> Enum.to_list()

  defp rows(:transaction, app, conn, sql) do
    {:ok, rows} = SQLite.transaction(app, &rows(:query, &1, conn, sql))
    rows
  end

  defp rows(:low, _app, conn, sql) do
    {:ok, stmt} = Sqlite3.prepare(conn, sql)
    rows = stepped(conn, stmt)
    :ok = Sqlite3.release(conn, stmt)
    rows
  end

  defp rows(:low_pages, _app, conn, sql) do
    {:ok, stmt} = Sqlite3.prepare(conn, sql)
    {:ok, rows} = Sqlite3.fetch_all(conn, stmt, :rand.uniform(5))
    :ok = Sqlite3.release(conn, stmt)
    rows
  end

  defp stepped(conn, stmt) do
    case Sqlite3.step(conn, stmt) do
      {:row, row} -> [row | stepped(conn, stmt)]
      :done -> []
    end
  end

  defp encode(row), do: row |> Enum.chunk_every(2) |> Enum.map_join("|", &cell/1)

  defp cell([nil, "null"]), do: "n"
  defp cell([value, "integer"]) when is_integer(value), do: "i#{value}"
  # one zero: -0.0 is of a version
  defp cell([value, "real"]) when is_float(value), do: "r#{Base.encode16(<<value + 0.0::float>>)}"
  defp cell([value, "text"]) when is_binary(value), do: "t#{Base.encode16(value)}"
  defp cell([value, "blob"]) when is_binary(value), do: "b#{Base.encode16(value)}"

  @doc "The same of the command line, and the text that it ran, in files at `path`."
  @spec theirs(Path.t(), [tuple]) :: {[term], String.t()}
  def theirs(path, program) do
    lines = Enum.flat_map(program, &lines/1)
    File.write!(path, ["PRAGMA foreign_keys=ON;\n" | for({_, sql} <- lines, do: [sql, ";\n"])])
    # a statement that fails is told with its line
    shell = "exec sqlite3 -batch :memory: \".read $0\" 2> \"$0.errors\""
    {out, _status} = System.cmd("sh", ["-c", shell, path])

    failed =
      for [_, line] <- Regex.scan(~r/near line (\d+):/, File.read!(path <> ".errors")),
          into: MapSet.new(),
          do: String.to_integer(line)

    {told, []} =
      lines
      |> Enum.with_index(2)
      |> Enum.flat_map_reduce(String.split(out, "\n", trim: true), &told(&1, &2, failed))

    {told, File.read!(path)}
  end

  defp told({{:statement, _}, at}, out, failed),
    do: {[if(at in failed, do: :failed, else: :ok)], out}

  defp told({{:control, _}, _at}, out, _failed), do: {[], out}

  defp told({{:select, sql}, at}, out, failed) do
    if at in failed, do: raise("the command line refuses a select: #{sql}")
    {rows, ["end" | rest]} = Enum.split_while(out, &(&1 != "end"))
    {[rows], rest}
  end

  defp lines({:run, {_, _, literal}}), do: [{:statement, literal}]
  defp lines({:batch, statements}), do: lines({:transaction, statements, :commit})

  defp lines({:transaction, statements, ending}) do
    [{:control, "BEGIN"}] ++
      for({_, _, literal} <- statements, do: {:statement, literal}) ++
      [{:control, ending |> Atom.to_string() |> String.upcase()}]
  end

  defp lines({:select, sql, width}) do
    names = names(width)
    columns = Enum.map_join(names, " || '|' || ", &encoded/1)
    [{:select, ordered(sql, names, columns) <> "; SELECT 'end'"}]
  end

  defp encoded(name) do
    "CASE typeof(#{name}) WHEN 'integer' THEN 'i' || #{name} " <>
      "WHEN 'real' THEN 'r' || hex(ieee754_to_blob(#{name} + 0.0)) " <>
      "WHEN 'text' THEN 't' || hex(CAST(#{name} AS BLOB)) WHEN 'blob' THEN 'b' || hex(#{name}) ELSE 'n' END"
  end

  defp names(width), do: for(n <- 1..width, do: "c#{n}")

  # an order that is total but for rows that are the same
  defp ordered(sql, names, columns) do
    order = Enum.map_join(names, ", ", &"#{&1} COLLATE BINARY, typeof(#{&1})")
    "WITH q(#{Enum.join(names, ", ")}) AS (#{sql}) SELECT #{columns} FROM q ORDER BY #{order}"
  end
end
