defmodule MaculaStorage.Cache.Covers do
  @moduledoc false
  # Which caches there are, for readers: in persistent terms, because they change with caches and not with
  # what these hold.

  alias MaculaStorage.Cache

  @all {Cache, :covers}

  @doc false
  @spec named(atom) :: map | nil
  def named(name), do: :persistent_term.get({Cache, :named, name}, nil)

  @doc "The cache of the longest prefix of a path."
  @spec covering(term) :: map | nil
  def covering(path), do: find(:persistent_term.get(@all, []), path)

  defp find([{prefix, cache} | rest], path),
    do: if(prefix?(prefix, path), do: cache, else: find(rest, path))

  defp find([], _path), do: nil

  @doc false
  @spec prefix?(list, term) :: boolean
  def prefix?([], _path), do: true
  def prefix?([name | prefix], [name | path]), do: prefix?(prefix, path)
  def prefix?(_prefix, _path), do: false

  @doc false
  @spec add(map) :: :ok
  def add(cache) do
    change(fn all -> [{cache.prefix, cache} | others(all, cache)] end)
    :persistent_term.put({Cache, :named, cache.name}, cache)
  end

  @doc false
  @spec remove(map) :: :ok
  def remove(cache) do
    change(&others(&1, cache))
    :persistent_term.erase({Cache, :named, cache.name})
    :ok
  end

  # those that were killed could not say goodbye
  defp others(all, cache) do
    Enum.reject(all, fn {_prefix, other} ->
      other.name == cache.name or :ets.info(other.table, :size) == :undefined
    end)
  end

  # one at a time, without a process: caches start from many supervisors
  defp change(fun) do
    :global.trans({@all, self()}, fn -> put(fun.(:persistent_term.get(@all, []))) end, [node()])
  end

  defp put(all), do: :persistent_term.put(@all, Enum.sort_by(all, &(-length(elem(&1, 0)))))
end
