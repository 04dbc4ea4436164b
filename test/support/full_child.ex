defmodule MaculaStorage.FullChild do
  @moduledoc """
  What the children of the full disk tests do, told by lines: fill an app's store until the disk is
  full, and look at all that is there.

  Invariant: `ack N` is printed for the last write that was acknowledged before `full`; what is looked
  at is 1..N without a gap, each whole.
  """
  alias MaculaStorage.CubDB

  @app "full"
  # writes are tried again for so long before the disk counts as full
  @patience_ms 3_000

  @doc "Fill, then do as told."
  def fill do
    {:ok, _} = Application.ensure_all_started(:macula_storage)
    refill()
    serve()
  end

  @doc "Look, then do as told."
  def look do
    {:ok, _} = Application.ensure_all_started(:macula_storage)
    whole()
    serve()
  end

  defp serve do
    case IO.gets("") do
      "fill\n" -> refill()
      "look\n" -> whole()
      "delete\n" -> delete()
    end

    serve()
  end

  defp refill do
    n = put_on(count() + 1, now())
    # none of them is there by half, and the store still reads
    ^n = count()
    IO.puts("ack #{n}")
    IO.puts("full")
  end

  defp put_on(n, since) do
    case CubDB.put(@app, n, content(n)) do
      :ok ->
        put_on(n + 1, now())

      {:error, :disk_full} ->
        # what waits in memory may make room yet
        if now() - since < @patience_ms, do: put_on(n, since), else: n - 1
    end
  end

  # without any room made by others
  defp delete do
    n = count()
    :ok = CubDB.delete_multi(@app, Enum.to_list((n - 49)..n))
    :ok = CubDB.delete(@app, n - 50)
    IO.puts("deleted to #{n - 51}")
  end

  defp whole do
    IO.puts("whole #{count()}")
    IO.puts("looked")
  end

  defp count do
    Enum.reduce(CubDB.select(@app), 0, fn {n, value}, before ->
      true = n == before + 1
      true = value == content(n)
      n
    end)
  end

  # noise, the same each time: what compresses would not fill a disk
  defp content(n) do
    {noise, _} = :rand.bytes_s(500 + rem(n * 37, 2500), :rand.seed_s(:exsss, n))
    noise
  end

  defp now, do: System.monotonic_time(:millisecond)
end
