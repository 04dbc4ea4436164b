defmodule MaculaStorage.SQLite.Bind do
  @moduledoc false
  # Values that callers of the low-level floor bind, as exqlite takes them.

  alias MaculaStorage.Native

  @int64_min -0x8000_0000_0000_0000
  @int64_max 0x7FFF_FFFF_FFFF_FFFF

  @type value ::
          NaiveDateTime.t()
          | DateTime.t()
          | Date.t()
          | Time.t()
          | number
          | iodata
          | {:blob, iodata}
          | atom

  @doc false
  def int64?(value), do: is_integer(value) and value >= @int64_min and value <= @int64_max

  @doc false
  def value!(value) when is_integer(value) and value >= @int64_min and value <= @int64_max,
    do: value

  def value!(value) when is_integer(value),
    do: raise(ArgumentError, "argument error: #{inspect(value)}")

  def value!(value) when is_float(value) or is_binary(value) or is_nil(value), do: value
  def value!(:undefined), do: nil
  def value!(value) when is_atom(value), do: Atom.to_string(value)
  def value!(value) when is_list(value), do: IO.iodata_to_binary(value)
  def value!({:blob, blob}) when is_binary(blob), do: {:blob, blob}
  def value!({:blob, blob}) when is_list(blob), do: {:blob, IO.iodata_to_binary(blob)}
  def value!(%Date{} = date), do: Date.to_iso8601(date)
  def value!(%Time{} = time), do: Time.to_iso8601(time)
  def value!(%NaiveDateTime{} = time), do: NaiveDateTime.to_iso8601(time)

  def value!(%DateTime{time_zone: "Etc/UTC"} = time),
    do: time |> DateTime.to_naive() |> NaiveDateTime.to_iso8601()

  def value!(%DateTime{} = time), do: raise(ArgumentError, "#{inspect(time)} is not in UTC")
  def value!(value), do: raise(ArgumentError, "unsupported type: #{inspect(value)}")

  # what is copied on a scheduler at once
  @large_bytes 65_536

  @doc false
  # to the parameters of a statement, in their order
  def all(stmt, values) do
    if sum(values, 0) > @large_bytes,
      do: Native.sqlite3_bind_all_large(stmt, values),
      else: Native.sqlite3_bind_all(stmt, values)
  end

  @doc false
  # to one of them
  def one(stmt, index, value) do
    if bytes(value) > @large_bytes,
      do: Native.sqlite3_bind_large(stmt, index, value),
      else: Native.sqlite3_bind(stmt, index, value)
  end

  defp sum([value | values], sum), do: sum(values, sum + 16 + bytes(value))
  defp sum([], sum), do: sum

  defp bytes(value) when is_binary(value), do: byte_size(value)
  defp bytes({:blob, value}), do: byte_size(value)
  defp bytes(_value), do: 0
end
