# How fast are transactions of one row, durable and not?
#
#     mix run --no-start bench/sqlite_put.exs [--keys 100000] [--rounds 3] [--seconds 2] [--only ours,exqlite]
#                                             [--synchronous full] [--update]
#
# One INSERT (`--update`: an UPDATE of a random row) of 100 bytes is one transaction, by 1, 8 and 64 processes
# that each wait for its end, into a table that holds `--keys` rows; WAL, synchronous FULL, then NORMAL.
# A call that failed is not in the rate, and the time that it took is in the percentiles. Beside FULL stands the
# disk's own rate, one process: the row's bytes appended and fdatasync; 4 KiB overwritten and fdatasync.
Code.require_file("sqlite.exs", __DIR__)

defmodule MaculaStorage.Bench.SqlitePut do
  @moduledoc false

  alias MaculaStorage.Bench.{Measure, Sqlite}

  @clients [1, 8, 64]
  @append "append + fdatasync"
  @overwrite "overwrite 4 KiB + fdatasync"
  @update "UPDATE kv SET name = ?, value = ? WHERE id = ?"
  @page_bytes 4096
  @overwritten_pages 16

  def main(args) do
    settings = [
      seconds: 2,
      fill: true,
      synchronous: [:full, :normal],
      update: false,
      strict: [update: :boolean]
    ]

    Sqlite.main(args, ~w(ours low_level exqlite pool p1), settings, &run/1)
  end

  defp run(bench) do
    verb = if bench.options.update, do: "update", else: "insert"
    disk = if bench.synchronous == :full, do: [:append, :overwrite], else: []

    measured =
      for clients <- @clients, into: %{} do
        measured = Measure.rounds(bench, disk ++ bench.stores, &asked(bench, clients, &1))
        rows = for side <- disk ++ bench.stores, do: {name(side), measured[side]}
        title = "#{verb}, #{String.upcase("#{bench.synchronous}")}, #{Measure.clients(clients)}"
        Sqlite.print(title, "transactions/s", rows, Sqlite.side("ours").name())
        {clients, Map.new(rows)}
      end

    Sqlite.goals(goals(bench.synchronous, measured))
  end

  defp name(:append), do: @append
  defp name(:overwrite), do: @overwrite
  defp name({side, _store}), do: side.name()

  defp asked(bench, _clients, :append), do: Measure.syncs(bench, Sqlite.row_bytes(), 1)

  defp asked(bench, _clients, :overwrite) do
    page = :crypto.strong_rand_bytes(@page_bytes)

    prepare = fn ->
      {:ok, io} = :file.open(Path.join(bench.base, "pages"), [:read, :write, :raw, :binary])

      fn n ->
        :ok = :file.pwrite(io, rem(n, @overwritten_pages) * @page_bytes, page)
        :ok = :file.datasync(io)
      end
    end

    {1, @page_bytes, 1, prepare}
  end

  defp asked(bench, clients, {side, store}) do
    prepare =
      if bench.options.update do
        Sqlite.client(side, store, @update, fn client, statement ->
          fn n -> side.write(client, statement, Sqlite.row(n) ++ [n + 1]) end
        end)
      else
        Sqlite.client(side, store, Sqlite.insert(), fn client, statement ->
          fn n -> side.write(client, statement, Sqlite.row(n)) end
        end)
      end

    {clients, Sqlite.row_bytes(), 1, prepare}
  end

  defp goals(:full, measured) do
    disk = Enum.reject([to(measured[1], @append), to(measured[1], @overwrite)], &is_nil/1)

    [
      {"FULL, 1 client, of the faster of the disk's two rates", Enum.min(disk, fn -> nil end),
       0.9}
    ] ++
      rivals("FULL", measured, exqlite: 32, pool: 60)
  end

  defp goals(:normal, measured), do: rivals("NORMAL", measured, exqlite: 2, pool: 15)

  defp rivals(level, measured, goals) do
    for {rival, goal} <- goals, name = Sqlite.side("#{rival}").name() do
      {"#{level}, 64 clients, of #{name}", to(measured[64], name), goal}
    end ++ [errors(level, measured[64][Sqlite.side("ours").name()])]
  end

  defp errors(level, nil), do: {level, nil, nil}

  defp errors(level, figures) do
    errors = figures.errors |> Map.values() |> Enum.sum()
    {"#{level}, 64 clients, errors of ours", errors, {:under, 1}, &"#{&1}"}
  end

  defp to(measured, name), do: Sqlite.ratio(measured, Sqlite.side("ours").name(), name)
end

MaculaStorage.Bench.SqlitePut.main(System.argv())
