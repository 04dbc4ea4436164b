defmodule MaculaStorage.SQLite.Stream do
  @moduledoc false
  # Rows as they are asked for, on a low-level connection that reads only.
  #
  # Invariant: the connection and its snapshot end with the enumeration, also one that is halted or raises;
  # with a process that is killed they are garbage, and closed when they are collected.

  alias MaculaStorage.Apps
  alias MaculaStorage.SQLite.{Params, Sqlite3}

  @doc false
  @spec new(String.t(), String.t(), list | map, map) :: Enumerable.t()
  def new(app, sql, params, options) do
    params = Params.encode!(params)
    Stream.resource(fn -> open(app, sql, params) end, &next(&1, options), &close/1)
  end

  defp open(app, sql, params) do
    # the app is opened, and its database there, before a connection of its own is
    path = MaculaStorage.SQLite.db_path(app)
    ok!(Apps.with_conn(app, fn _conn -> :ok end), app)
    conn = ok!(Sqlite3.open(path, mode: :readonly), app)

    try do
      # it is one app's, as any other of the app's connections
      :ok = Sqlite3.set_authorizer(conn, [:attach, :detach])
      stmt = ok!(Sqlite3.prepare(conn, sql), app)
      ok!(bind(stmt, params), app)
      {conn, stmt, app}
    catch
      kind, reason ->
        Sqlite3.close(conn)
        :erlang.raise(kind, reason, __STACKTRACE__)
    end
  end

  defp bind(stmt, {:positional, values}), do: Sqlite3.bind(stmt, values)

  defp bind(stmt, {:named, values}) do
    names = Sqlite3.parameter_names(stmt)
    Sqlite3.bind(stmt, Map.new(values, fn {name, value} -> {full_name(name, names), value} end))
  end

  # without its prefix a name fits any
  defp full_name(name, names),
    do:
      Enum.find(
        names,
        name,
        &(&1 == name or (&1 && binary_part(&1, 1, byte_size(&1) - 1) == name))
      )

  defp next({conn, stmt, app} = state, options) do
    case Sqlite3.multi_step(conn, stmt, options.page_rows, options.timeout) do
      {:rows, rows} -> {rows, state}
      {:done, rows} -> {rows, {:done, state}}
      :busy -> fail!("database is locked", app)
      {:error, reason} -> fail!(reason, app)
    end
  end

  defp next({:done, _} = state, _options), do: {:halt, state}

  defp close({:done, state}), do: close(state)
  defp close({conn, _stmt, _app}), do: Sqlite3.close(conn)

  defp ok!(:ok, _app), do: :ok
  defp ok!({:ok, found}, _app), do: found
  defp ok!({:error, reason}, app), do: fail!(reason, app)

  defp fail!(%MaculaStorage.Error{} = error, _app), do: raise(error)

  defp fail!(reason, app) when is_atom(reason),
    do: MaculaStorage.Error.raise!(reason, :stream, app)

  defp fail!(message, app) do
    raise %MaculaStorage.Error{kind: :sql, op: :stream, app: app, message: message, hint: nil}
  end
end
