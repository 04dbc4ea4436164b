defmodule MaculaStorage.IdleChild do
  @moduledoc """
  The child of the test of idle stores: opens so many apps' stores, and says what this VM has more than
  before, as lines `rss BYTES`, `threads N`, `descriptors N`.
  """

  @doc "Open `count` stores, each with an entry, and keep them."
  def open(count) do
    before = figures()
    {:ok, _} = Application.ensure_all_started(:macula_storage)
    for n <- 1..count, do: :ok = MaculaStorage.data_put("idle#{n}", :key, "value")
    for {what, n} <- figures(), do: IO.puts("#{what} #{n - before[what]}")
    IO.puts("open")
    receive do: (:never -> :ok)
  end

  defp figures do
    [_, kib] = Regex.run(~r/VmRSS:\s+(\d+) kB/, File.read!("/proc/self/status"))

    %{
      rss: String.to_integer(kib) * 1024,
      threads: length(File.ls!("/proc/self/task")),
      descriptors: length(File.ls!("/proc/self/fd"))
    }
  end
end
