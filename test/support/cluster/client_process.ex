defmodule MaculaStorage.Cluster.ClientProcess do
  @moduledoc "What processes of a node that is a client of a cluster do there, and what they saw."

  alias MaculaStorage.{Cache, Khepri}
  alias MaculaStorage.Khepri.Tx

  @doc false
  def lease_of_one_who_dies(path) do
    {pid, monitor} =
      spawn_monitor(fn ->
        {:ok, lease} = Khepri.lease(self())
        :ok = Khepri.put(path, 1, lease: lease)
        {:ok, 1} = Khepri.get(path)
      end)

    receive do
      {:DOWN, ^monitor, :process, ^pid, reason} -> reason
    end
  end

  @doc false
  def watched(pattern, put) do
    {:ok, ref, revision} = Khepri.watch(pattern)
    for {path, value} <- put, do: :ok = Khepri.put(path, value)
    told = for _ <- put, do: next(ref)
    :ok = Khepri.unwatch(ref)
    # and from where it was, as one that comes back does
    {:ok, again, ^revision} = Khepri.watch(pattern, from: revision)
    true = told == for(_ <- put, do: next(again))
    told
  end

  defp next(ref) do
    receive do
      {Khepri, ^ref, _revision, [%{path: path, value: value}]} -> {path, value}
    after
      20_000 -> :nothing
    end
  end

  @doc false
  def counted(path, times) do
    for _ <- 1..times do
      {:ok, _} =
        Khepri.transaction(fn tx ->
          n =
            case Tx.get(tx, path) do
              {:ok, n} -> n
              {:error, :not_found} -> 0
            end

          Tx.put(tx, path, n + 1)
        end)
    end

    :ok
  end

  @doc false
  def cached(prefix, path) do
    {:ok, cache} = Cache.start_link(prefix: prefix, name: :client_cache)
    :ok = Cache.wait(:client_cache, 20_000)
    Process.unlink(cache)
    Khepri.get(path, consistency: :cached)
  end
end
