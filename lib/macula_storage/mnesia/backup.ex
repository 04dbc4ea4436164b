defmodule MaculaStorage.Mnesia.Backup do
  @moduledoc false
  # Backups of tables: made beside their name, read back, named; and brought back, after a look at all of it.
  #
  # Invariant: a file of that name is a whole backup. A restore changes nothing before each frame was checked.

  alias MaculaStorage.Mnesia.{BackupFile, Copy}
  alias MaculaStorage.Error

  @doc "Writes a backup of tables."
  @spec write([atom], Path.t(), boolean, atom, String.t() | nil) :: :ok | {:error, term}
  def write(tables, path, overwrite, op, app) do
    path = Path.expand(path)
    # opened only when it is new, so that a name that happens to be there is an error and no loss
    temporary = "#{path}.macula-#{System.os_time()}-#{System.unique_integer([:positive])}"

    if not overwrite and File.exists?(path) do
      {:error, :exists}
    else
      with :ok <- checkpoint(tables, temporary, op, app),
           :ok <- read_back(temporary, op, app),
           do: give_name(temporary, path, overwrite, op, app)
    end
  end

  defp checkpoint(tables, temporary, op, app) do
    case :mnesia.activate_checkpoint(max: tables, ram_overrides_dump: true) do
      {:ok, name, _nodes} ->
        result = :mnesia.backup_checkpoint(name, temporary, module: BackupFile)
        :mnesia.deactivate_checkpoint(name)
        written(result, temporary, op, app)

      {:error, reason} ->
        {:error, {:aborted, reason}}
    end
  catch
    :exit, {:aborted, reason} -> {:error, {:aborted, reason}}
  end

  defp written(:ok, _temporary, _op, _app), do: :ok

  # mnesia's words for what the module answered
  defp written({:error, {:EXIT, {:error, reason}}}, temporary, op, app),
    do: written({:error, reason}, temporary, op, app)

  defp written({:error, reason}, temporary, op, app) do
    File.rm(temporary)

    if is_atom(reason),
      do: BackupFile.error(reason, temporary, op, app),
      else: {:error, {:aborted, reason}}
  end

  defp read_back(temporary, op, app) do
    with {:error, reason} <- BackupFile.reduce(temporary, :ok, fn _items, :ok -> :ok end) do
      File.rm(temporary)
      BackupFile.error(reason, temporary, op, app)
    else
      {:ok, :ok} -> :ok
    end
  end

  defp give_name(temporary, path, overwrite, op, app) do
    named = if overwrite, do: File.rename(temporary, path), else: File.ln(temporary, path)
    File.rm(temporary)

    with :ok <- named, :ok <- Copy.sync_dir(Path.dirname(path)) do
      :ok
    else
      # another came between
      {:error, :eexist} -> {:error, :exists}
      {:error, reason} -> BackupFile.error(reason, path, op, app)
    end
  end

  @doc "Makes a table hold what it holds in a backup."
  @spec restore(atom, Path.t(), String.t()) :: :ok | {:error, term}
  def restore(table, path, app) do
    with {:ok, _entries} <- check(table, path, app) do
      options = [module: BackupFile, default_op: :skip_tables, clear_tables: [table]]

      case :mnesia.restore(path, options) do
        {:atomic, _tables} -> :ok
        {:aborted, reason} -> {:error, {:aborted, reason}}
      end
    end
  end

  defp check(table, path, app) do
    arity = :mnesia.table_info(table, :arity)

    case fold(table, path, 0, &fitting(&1, &2, arity)) do
      {:ok, {_count, false}} ->
        invalid("the backup has no table of this app table=#{table} path=#{path}", app)

      {:ok, {count, true}} ->
        {:ok, count}

      {:error, reason} ->
        BackupFile.error(reason, path, :restore, app)
    end
  catch
    :exit, {:aborted, reason} -> {:error, {:aborted, reason}}
    {:other_shape, record} -> invalid(other_shape(record, path), app)
  end

  defp fitting(record, count, arity) do
    if tuple_size(record) == arity, do: count + 1, else: throw({:other_shape, record})
  end

  defp other_shape(record, path) do
    "the table has other attributes than the one in the backup, nothing was changed " <>
      "fields_there=#{tuple_size(record) - 1} path=#{path}"
  end

  defp invalid(message, app),
    do: {:error, %Error{kind: :invalid, op: :restore, app: app, message: message}}

  @doc "Goes through a table's records in a backup; and whether the table is in it at all."
  @spec fold(atom, Path.t(), acc, (tuple, acc -> acc)) ::
          {:ok, {acc, boolean}} | {:error, term}
        when acc: any
  def fold(table, path, acc, fun) do
    BackupFile.reduce(path, {acc, false}, fn items, state ->
      Enum.reduce(items, state, &item(&1, &2, table, fun))
    end)
  end

  # {schema, table, definition}; then records, whose first element is the table; {table, key} is a deletion
  defp item({:schema, table, _definition}, {acc, _known}, table, _fun), do: {acc, true}

  defp item(record, {acc, known}, table, fun)
       when elem(record, 0) == table and tuple_size(record) > 2,
       do: {fun.(record, acc), known}

  defp item(_other, state, _table, _fun), do: state
end
