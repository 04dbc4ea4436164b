defmodule MaculaStorage.Load do
  @moduledoc """
  Processes that write and read everything an app has, until they are stopped or the VM ends.

  Invariant: an operation that does not answer as it should ends its process, and with it whoever
  started the load.
  """
  alias MaculaStorage.{CubDB, Error, SQLite}

  @kinds [:put, :get, :select, :sql, :query, :write, :read, :update, :dir]

  @doc "Starts `count` linked processes; each sends `{:done_one, kind}` to the caller for each operation."
  @spec start(String.t(), pos_integer) :: [pid]
  def start(app, count) do
    :ok = SQLite.execute(app, "CREATE TABLE IF NOT EXISTS load (n INTEGER, t TEXT)")
    beside = "load-#{System.unique_integer([:positive])}"
    dir = Path.join(System.fetch_env!("MACULA_STORAGE_BASE"), beside)
    # not linked: it ends with the application, its user by what it answers then
    {:ok, _} = CubDB.start(data_dir: dir, name: beside)
    caller = self()

    for {kind, n} <- @kinds |> Stream.cycle() |> Stream.with_index() |> Enum.take(count) do
      spawn_link(fn -> forever(caller, if(kind == :dir, do: beside, else: app), kind, n, 0) end)
    end
  end

  @doc "What each of them does."
  @spec kinds([pid]) :: %{pid => atom}
  def kinds(pids), do: pids |> Enum.zip(Stream.cycle(@kinds)) |> Map.new()

  @doc "Ends them."
  @spec stop([pid]) :: :ok
  def stop(pids) do
    for pid <- pids do
      Process.unlink(pid)
      ref = Process.monitor(pid)
      Process.exit(pid, :kill)
      receive do: ({:DOWN, ^ref, _, _, _} -> :ok)
    end

    flush()
  end

  @doc "Takes messages until each kind of operation was done `times` times."
  @spec await(pos_integer) :: :ok
  def await(times), do: await(times, %{})

  defp await(times, seen) do
    if map_size(seen) == length(@kinds) and Enum.all?(seen, fn {_, n} -> n >= times end) do
      :ok
    else
      receive do
        {:done_one, kind} -> await(times, Map.update(seen, kind, 1, &(&1 + 1)))
      end
    end
  end

  defp flush do
    receive do
      {:done_one, _} -> flush()
    after
      0 -> :ok
    end
  end

  defp forever(caller, app, kind, n, i) do
    case one(kind, app, n, i) do
      {:error, reason} -> refused(reason)
      _done -> send(caller, {:done_one, kind})
    end

    forever(caller, app, kind, n, i + 1)
  end

  # The application is being stopped; how that goes on is for who stops it to see.
  defp refused(:closed), do: receive(do: (:never -> :ok))
  defp refused(reason), do: exit({:load_refused, reason})

  defp one(:put, app, n, i), do: CubDB.put(app, {n, rem(i, 500)}, {i, "some value"})
  defp one(:update, app, _n, i), do: CubDB.update(app, :update, 0, &max(&1, i))
  defp one(:dir, name, n, i), do: CubDB.put(name, {n, rem(i, 500)}, i)
  defp one(:get, app, n, i), do: reading(fn -> CubDB.get(app, {n, rem(i, 500)}) end)

  defp one(:select, app, _n, _i),
    do: reading(fn -> app |> CubDB.select() |> Enum.take(600) end)

  defp one(:sql, app, n, i),
    do: SQLite.execute(app, "INSERT INTO load VALUES (?, ?)", [i, "text #{n}"])

  defp one(:query, app, _n, _i),
    do: SQLite.query(app, "SELECT * FROM load ORDER BY rowid DESC LIMIT 100")

  defp one(:write, app, n, i),
    do: MaculaStorage.file_write(app, "load/#{n}/#{rem(i, 20)}", :binary.copy("x", 10_000))

  # what the process before this one writes, which may not have come to it yet
  defp one(:read, app, n, i) do
    case MaculaStorage.file_read(app, "load/#{n - 1}/#{rem(i, 20)}") do
      {:ok, bytes} -> 10_000 = byte_size(bytes)
      {:error, :not_found} -> :ok
      {:error, _} = error -> error
    end
  end

  defp reading(read) do
    read.()
  rescue
    error in Error -> {:error, error.kind}
  end
end
