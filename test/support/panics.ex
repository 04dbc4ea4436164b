defmodule MaculaStorage.Nif.Panics do
  @moduledoc "What a VM does that asks our threads to panic; ends it with an error when one is not answered."

  alias MaculaStorage.{Call, Error, Native}

  @workers 8

  @doc "Threads of a base's pool."
  @spec workers() :: pos_integer
  def workers, do: @workers

  @doc "Panics twice on each thread, then holds them all at once."
  @spec run() :: :ok
  def run do
    {:ok, base} =
      Native.base_open(System.fetch_env!("MACULA_STORAGE_BASE"), 1_048_576, 0, :full, 60_000)

    probe = fn ms, panics -> Call.run(&Native.probe(base, &1, ms, panics), timeout: 60_000) end

    for _ <- 1..(2 * @workers) do
      {:error, %Error{kind: :internal, message: message}} = probe.(0, true)
      true = message =~ "panicked"
    end

    held = for _ <- 1..@workers, do: Task.async(fn -> probe.(50, false) end)
    [{:ok, :done}] = held |> Task.await_many(60_000) |> Enum.uniq()
    {:messages, []} = Process.info(self(), :messages)
    :ok = Call.run(&Native.base_close(base, &1), timeout: 60_000)
    IO.puts("all answered")
  end
end
