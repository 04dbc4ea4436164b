defmodule MaculaStorage.Operator.Import do
  @moduledoc false
  # An existing CubDB database into the key-value store of an app, read by the CubDB that the
  # application has.
  #
  # Invariant: the source is only read. CubDB is started on it without compaction, and only where there
  # is a database, because it would make one.

  alias MaculaStorage.{CubDB, Error}

  @batch_entries_max 1_000
  @batch_bytes_max 1_048_576

  @doc """
  Imports, and answers `{:ok, %{entries: n, changed: boolean}}`: whether somebody wrote to the source
  meanwhile. `reader` is CubDB itself.
  """
  @spec run(Path.t(), String.t(), map, module) :: {:ok, map} | {:error, term}
  def run(dir, app, options, reader \\ :"Elixir.CubDB") do
    with :ok <- readable(reader),
         {:ok, before} <- files(dir),
         {:ok, there} <- room(app, options.merge),
         {:ok, entries} <- read(reader, dir, &copy(&1, app, there, options)),
         {:ok, afterwards} <- files(dir),
         do: {:ok, %{entries: entries, changed: before != afterwards}}
  rescue
    # reads of the app's store raise what writes answer
    error in Error ->
      {:error, if(error.message == to_string(error.kind), do: error.kind, else: error)}
  end

  # CubDB before version 2 has no snapshots.
  defp readable(reader) do
    cond do
      not Code.ensure_loaded?(reader) ->
        {:error,
         error(
           :unsupported,
           "CubDB is not there to read the database with",
           ~s(add {:cubdb, "~> 2.0"} to the deps of your mix.exs for the import, and run it there)
         )}

      not function_exported?(reader, :with_snapshot, 2) ->
        {:error,
         error(:unsupported, "this CubDB is older than version 2", "update it for the import")}

      true ->
        :ok
    end
  end

  # Name, size and time of each file.
  defp files(dir) do
    with {:ok, names} <- File.ls(dir),
         true <- Enum.any?(names, &String.ends_with?(&1, ".cub")) do
      {:ok, for(name <- Enum.sort(names), do: {name, stat(Path.join(dir, name))})}
    else
      _ -> {:error, error(:not_found, "no CubDB database there: #{dir}", nil)}
    end
  end

  defp stat(path) do
    case File.stat(path) do
      {:ok, stat} -> {stat.size, stat.mtime}
      {:error, reason} -> reason
    end
  end

  defp room(app, merge?) do
    case CubDB.size(app) do
      there when there > 0 and not merge? ->
        {:error,
         error(
           :exists,
           "the app's store is not empty: app=#{app} entries=#{there}",
           "import into another app, or with --merge, which replaces entries of the same key"
         )}

      there ->
        {:ok, there}
    end
  end

  defp read(reader, dir, copy) do
    options = [data_dir: dir, auto_compact: false, auto_file_sync: false]

    case apply(reader, :start, [options]) do
      {:ok, db} ->
        try do
          apply(reader, :with_snapshot, [db, &copy.({Module.concat(reader, Snapshot), &1})])
        after
          apply(reader, :stop, [db])
        end

      {:error, reason} ->
        message = "CubDB does not open the database: #{inspect(reason, limit: 20)}"
        {:error, error(:invalid, message, "is it open in another process of this VM?")}
    end
  end

  defp copy({module, snapshot}, app, there, options) do
    expected = apply(module, :size, [snapshot])

    with {:ok, done} <- put_all(apply(module, :select, [snapshot]), app, options),
         do: compare(expected, done, app, there)
  end

  defp put_all(entries, app, options) do
    tell = options.progress || fn _ -> :ok end

    entries
    |> Stream.chunk_while({[], 0, 0}, &batch/2, &last/1)
    |> Enum.reduce_while({:ok, {0, 0}}, fn {batch, bytes}, {:ok, {entries_done, bytes_done}} ->
      case CubDB.put_multi(app, batch) do
        :ok ->
          done = {entries_done + length(batch), bytes_done + bytes}
          tell.(%{entries_done: elem(done, 0), bytes_done: elem(done, 1), bytes_total: 0})
          {:cont, {:ok, done}}

        {:error, :too_large} ->
          {:halt, {:error, too_large(entries_done)}}

        {:error, _} = error ->
          {:halt, error}
      end
    end)
    |> case do
      {:ok, {entries_done, _bytes}} -> {:ok, entries_done}
      error -> error
    end
  end

  defp batch({_key, _value} = entry, {batch, count, bytes}) do
    {batch, count, bytes} = {[entry | batch], count + 1, bytes + :erlang.external_size(entry)}

    if count >= @batch_entries_max or bytes >= @batch_bytes_max,
      do: {:cont, {Enum.reverse(batch), bytes}, {[], 0, 0}},
      else: {:cont, {batch, count, bytes}}
  end

  defp last({[], _count, _bytes}), do: {:cont, nil}
  defp last({batch, _count, bytes}), do: {:cont, {Enum.reverse(batch), bytes}, nil}

  defp compare(expected, done, app, there) do
    size = CubDB.size(app)

    cond do
      expected != done ->
        {:error, differ("the source has #{expected} entries, #{done} were read")}

      # nothing was there: what is there now is what was imported
      there == 0 and size != done ->
        {:error, differ("#{done} entries were imported, the app's store has #{size}")}

      true ->
        {:ok, done}
    end
  end

  defp differ(message),
    do: error(:conflict, message, "see that nobody else writes, then import into an empty app")

  defp too_large(done) do
    error(
      :too_large,
      "a key over 64 KiB or a value over 1 GiB, among the #{@batch_entries_max} entries behind the first #{done}",
      "the entries before were imported; change that one in the source"
    )
  end

  defp error(kind, message, hint),
    do: %Error{kind: kind, op: :import, app: nil, message: message, hint: hint}
end
