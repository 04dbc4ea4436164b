defmodule CubDB do
  @moduledoc """
  Stands in for the CubDB library where the import of its databases is tested: the few functions that
  are used, over a file that holds a list of entries as one term.
  """

  @doc "Refuses options that would write to the database, or make one."
  def start(options) do
    [auto_compact: false, auto_file_sync: false, data_dir: dir] = Enum.sort(options)
    bytes = File.read!(Path.join(dir, "0.cub"))

    if bytes == "busy",
      do: {:error, :busy},
      else: Agent.start(fn -> :erlang.binary_to_term(bytes) end)
  end

  def stop(db), do: Agent.stop(db)

  def with_snapshot(db, fun), do: fun.(Agent.get(db, & &1))
end

defmodule CubDB.Snapshot do
  @moduledoc "As `CubDB`. An entry `{:lost, _}` is counted and not selected, as of a damaged database."

  def size(entries), do: length(entries)

  def select(entries), do: Stream.reject(entries, &match?({:lost, _}, &1))
end
