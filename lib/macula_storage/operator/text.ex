defmodule MaculaStorage.Operator.Text do
  @moduledoc false
  # Figures, tables and the progress line, as a person at a terminal reads them.
  #
  # Invariant: a progress line is only ever written to a terminal, and is gone before anything else is
  # printed.

  @line_every_ms 100

  @doc "Bytes in three digits and a decimal unit: `12.3 MB`."
  @spec bytes(number) :: String.t()
  def bytes(bytes) when bytes < 1000, do: "#{round(bytes)} B"

  def bytes(bytes) do
    {value, unit} =
      Enum.reduce_while(~w(kB MB GB TB PB), {bytes, "B"}, fn unit, {value, _} ->
        value = value / 1000
        if value < 999.5, do: {:halt, {value, unit}}, else: {:cont, {value, unit}}
      end)

    "#{:erlang.float_to_binary(value / 1, decimals: if(value < 99.95, do: 1, else: 0))} #{unit}"
  end

  @doc "A whole number with its thousands apart: `1,234,567`."
  @spec count(integer) :: String.t()
  def count(number) do
    number
    |> Integer.to_string()
    |> String.graphemes()
    |> Enum.reverse()
    |> Enum.chunk_every(3)
    |> Enum.join(",")
    |> String.reverse()
  end

  @doc "Rows of strings in columns, the first to the left, the others to the right."
  @spec table([[String.t()]]) :: String.t()
  def table(rows) do
    widths =
      Enum.zip_with(rows, fn column -> column |> Enum.map(&String.length/1) |> Enum.max() end)

    Enum.map_join(rows, "\n", fn [first | rest] ->
      [first_width | rest_widths] = widths
      rest = Enum.zip_with(rest, rest_widths, &["  ", String.pad_leading(&1, &2)])
      IO.iodata_to_binary([String.pad_trailing(first, first_width) | rest])
    end)
  end

  @doc "A progress line for a long step, `nil` when standard error is no terminal of this node."
  @spec line(String.t()) :: {String.t(), :counters.counters_ref()} | nil
  def line(label) do
    if terminal?() do
      next = :counters.new(1, [])
      # The VM's own clock begins far below zero.
      :counters.put(next, 1, System.monotonic_time(:millisecond))
      {label, next}
    end
  end

  @doc "Shows how far a step is; at most ten times a second."
  @spec show({String.t(), :counters.counters_ref()} | nil, map) :: :ok
  def show(nil, _progress), do: :ok

  def show({label, next}, progress) do
    now = System.monotonic_time(:millisecond)

    if now >= :counters.get(next, 1) do
      :counters.put(next, 1, now + @line_every_ms)
      IO.write(:stderr, ["\r\e[K", label, ": ", progress_text(progress)])
    end

    :ok
  end

  @doc "Removes the progress line."
  @spec clear({String.t(), :counters.counters_ref()} | nil) :: :ok
  def clear(nil), do: :ok
  def clear({_label, _next}), do: IO.write(:stderr, "\r\e[K")

  defp progress_text(%{entries_done: entries, bytes_done: done, bytes_total: total}) do
    of =
      if total > 0, do: " of #{bytes(total)}, #{div(100 * min(done, total), total)} %", else: ""

    "#{bytes(done)}#{of}, #{count(entries)} entries"
  end

  # Captured output and a shell on another node have a group leader of their own.
  defp terminal? do
    with true <- Process.group_leader() == Process.whereis(:user),
         {:ok, device} <- File.read_link("/proc/self/fd/2") do
      String.starts_with?(device, ["/dev/pts/", "/dev/tty", "/dev/console"])
    else
      _ -> false
    end
  end
end
