defmodule MaculaStorage.Cache.Table do
  @moduledoc false
  # What a cache holds: one writer, its process, and any readers.
  #
  # Invariant: while the state says ready, what is not in the table is not in the replicated state, unless the table
  # says that it is not complete. It is set to ready after the last row of a filling, and away from it before the first of
  # the next; a reader looks at it before it looks for a row.

  alias MaculaStorage.Khepri.Wire

  # places in the atomics
  @state 1
  @revision 2
  @bytes 3
  @left_out 4
  @fills 5
  @places 5
  @states %{0 => :empty, 1 => :ready, 2 => :stale, 3 => :stopped}
  @ready 1
  @stale 2
  @stopped 3
  # places in the counters
  @hits 1
  @misses 2
  # what a row takes beside its terms, about
  @row_bytes 120

  @doc false
  def new(options) do
    %{
      name: options.name,
      prefix: options.prefix,
      table: :ets.new(__MODULE__, [:set, :protected, read_concurrency: true]),
      figures: :atomics.new(@places, signed: true),
      counters: :counters.new(2, [:write_concurrency]),
      max_bytes: options.max_bytes,
      persistent: Map.new(options.persistent, &{&1, {MaculaStorage.Cache, options.name, &1}})
    }
  end

  ## Readers

  @doc "`:elsewhere`: it may be there, and is not held; `:empty`, `:gone`: nothing is."
  @spec get(map, term, boolean) ::
          {:ok, term} | {:error, :not_found | :stale} | :elsewhere | :empty | :gone
  def get(cache, path, stale?) do
    case :atomics.get(cache.figures, @state) do
      @ready -> held(cache, path)
      @stale when stale? -> held(cache, path)
      @stale -> missed(cache, {:error, :stale})
      @stopped -> missed(cache, :gone)
      _empty -> missed(cache, :empty)
    end
  end

  defp held(cache, path) do
    case look_up(cache, path) do
      {:ok, value} ->
        :counters.add(cache.counters, @hits, 1)
        {:ok, value}

      nil ->
        not_held(cache)
    end
  rescue
    # its process was killed
    ArgumentError -> missed(cache, :gone)
  end

  defp look_up(%{persistent: persistent} = cache, path) when is_map_key(persistent, path) do
    # terms outlive a process that is killed: raises when the table is gone
    _ = :ets.member(cache.table, path)
    :persistent_term.get(Map.fetch!(persistent, path), nil)
  end

  defp look_up(cache, path) do
    case :ets.lookup(cache.table, path) do
      [{_, value, _, _}] -> {:ok, value}
      [] -> nil
    end
  end

  defp not_held(cache) do
    cond do
      not complete?(cache) ->
        missed(cache, :elsewhere)

      # it is being stopped, which takes its terms away
      :atomics.get(cache.figures, @state) == @stopped ->
        missed(cache, :gone)

      true ->
        :counters.add(cache.counters, @hits, 1)
        {:error, :not_found}
    end
  end

  defp missed(cache, answer) do
    :counters.add(cache.counters, @misses, 1)
    answer
  end

  @doc false
  @spec children(map, list, boolean) :: {:ok, [term]} | {:error, :stale} | :elsewhere
  def children(cache, path, stale?) do
    before = filling(cache)
    paths = :ets.select(cache.table, [{{:"$1", :_, :_, :_}, [], [:"$1"]}])
    names = for found <- paths, name <- name(path, found), do: name

    cond do
      not (stale? or (elem(before, 0) == @ready and before == filling(cache))) -> {:error, :stale}
      complete?(cache) -> {:ok, names |> Enum.uniq() |> Enum.sort()}
      true -> :elsewhere
    end
  rescue
    ArgumentError -> {:error, :stale}
  end

  defp filling(cache),
    do: {:atomics.get(cache.figures, @state), :atomics.get(cache.figures, @fills)}

  defp name([], [name | _]), do: [name]
  defp name([part | path], [part | found]), do: name(path, found)
  defp name(_path, _found), do: []

  defp complete?(cache), do: :atomics.get(cache.figures, @left_out) == 0

  @doc false
  def stats(%{figures: figures, counters: counters} = cache) do
    entries = :ets.info(cache.table, :size)

    %{
      state: if(entries == :undefined, do: :stale, else: @states[:atomics.get(figures, @state)]),
      revision: :atomics.get(figures, @revision),
      entries: if(entries == :undefined, do: 0, else: entries),
      bytes: :atomics.get(figures, @bytes),
      max_bytes: cache.max_bytes,
      complete: complete?(cache),
      fills: :atomics.get(figures, @fills),
      hits: :counters.get(counters, @hits),
      misses: :counters.get(counters, @misses)
    }
  end

  ## The writer

  @doc "Takes all rows that `fold` gives, and lets go of those that it does not."
  @spec fill(map, non_neg_integer, (term, fun -> {:ok, term} | {:error, term})) ::
          :ok | {:error, term}
  def fill(cache, revision, fold) do
    filling = :atomics.add_get(cache.figures, @fills, 1)

    take = fn path_etfs, node, {whole?, persistent} ->
      {path, etf} = {Wire.path(path_etfs), elem(node, 0)}
      bytes = byte_size(etf) + IO.iodata_length(path_etfs) + @row_bytes
      held? = put(cache, path, Wire.term(etf), bytes, filling)
      {:cont, {whole? and held?, Map.delete(persistent, path)}}
    end

    with {:ok, {whole?, gone}} <- fold.({true, cache.persistent}, take) do
      old = [{{:"$1", :_, :_, :"$2"}, [{:"/=", :"$2", filling}], [:"$1"]}]
      for path <- :ets.select(cache.table, old), do: delete(cache, path)
      # also what a cache that was killed left
      for {_path, key} <- gone, do: :persistent_term.erase(key)
      :atomics.put(cache.figures, @left_out, if(whole?, do: 0, else: 1))
      :atomics.put(cache.figures, @revision, revision)
    end
  end

  @doc false
  def apply_events(cache, revision, events) do
    filling = :atomics.get(cache.figures, @fills)

    for event <- events do
      case event do
        %{kind: :put, path: path, value: value} ->
          bytes = :erlang.external_size(value) + :erlang.external_size(path) + @row_bytes
          put(cache, path, value, bytes, filling)

        %{path: path} ->
          delete(cache, path)
      end
    end

    :atomics.put(cache.figures, @revision, revision)
  end

  @doc false
  def ready(cache), do: :atomics.put(cache.figures, @state, @ready)

  @doc "What was never filled stays empty."
  def stale(cache) do
    _ = :atomics.compare_exchange(cache.figures, @state, @ready, @stale)
    :ok
  end

  @doc false
  def forget(cache) do
    :atomics.put(cache.figures, @state, @stopped)
    for {_path, key} <- cache.persistent, do: :persistent_term.erase(key)
    :ok
  end

  # Whether it is held. `:infinity` is greater than any number.
  defp put(cache, path, value, bytes, filling) do
    with %{^path => key} <- cache.persistent, do: :persistent_term.put(key, {:ok, value})

    if :atomics.get(cache.figures, @bytes) - held_bytes(cache, path) + bytes <= cache.max_bytes do
      :atomics.add(cache.figures, @bytes, bytes - held_bytes(cache, path))
      :ets.insert(cache.table, {path, value, bytes, filling})
    else
      # before the row goes: who misses it must know that it may be there
      :atomics.put(cache.figures, @left_out, 1)
      remove(cache, path)
      false
    end
  end

  defp delete(cache, path) do
    with %{^path => key} <- cache.persistent, do: :persistent_term.erase(key)
    remove(cache, path)
  end

  defp remove(cache, path) do
    :atomics.sub(cache.figures, @bytes, held_bytes(cache, path))
    :ets.delete(cache.table, path)
  end

  defp held_bytes(cache, path) do
    if :ets.member(cache.table, path), do: :ets.lookup_element(cache.table, path, 3), else: 0
  end
end
