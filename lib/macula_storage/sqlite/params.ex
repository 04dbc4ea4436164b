defmodule MaculaStorage.SQLite.Params do
  @moduledoc false
  # Parameters as they cross to Rust. What SQLite has no type for is refused here.

  @int64_min -0x8000_0000_0000_0000
  @int64_max 0x7FFF_FFFF_FFFF_FFFF

  @doc false
  def encode!(params) when is_map(params) and not is_struct(params),
    do: {:named, Enum.map(params, fn {name, value} -> {name!(name), value!(value)} end)}

  def encode!([{name, _} | _] = params) when is_atom(name) and name != :blob do
    unless Keyword.keyword?(params) do
      raise ArgumentError, "expected parameters all by name or all by position"
    end

    {:named, Enum.map(params, fn {name, value} -> {name!(name), value!(value)} end)}
  end

  def encode!(params) when is_list(params), do: {:positional, Enum.map(params, &value!/1)}

  def encode!(other) do
    raise ArgumentError,
          "expected parameters as a list, keyword list or map, got: #{inspect(other, limit: 5)}"
  end

  @doc false
  def values!(values) when is_list(values), do: Enum.map(values, &value!/1)

  def values!(other),
    do:
      raise(ArgumentError, "expected a row as a list of values, got: #{inspect(other, limit: 5)}")

  @large_bytes 65_536

  @doc false
  def large?(sql, {_by, values}), do: byte_size(sql) > @large_bytes or large(values, 0)

  defp large(_values, bytes) when bytes > @large_bytes, do: true
  defp large([value | values], bytes), do: large(values, bytes + 64 + bytes(value))
  defp large([], _bytes), do: false

  defp bytes(value) when is_binary(value), do: byte_size(value)
  defp bytes({:blob, value}), do: byte_size(value)
  defp bytes({name, value}), do: byte_size(name) + bytes(value)
  defp bytes(_value), do: 0

  defp name!(name) when is_atom(name), do: Atom.to_string(name)
  defp name!(name) when is_binary(name), do: name
  defp name!(name), do: raise(ArgumentError, "expected a parameter's name, got: #{inspect(name)}")

  defp value!(value) when is_integer(value) and value >= @int64_min and value <= @int64_max,
    do: value

  defp value!(value) when is_float(value) or is_binary(value) or is_nil(value), do: value
  defp value!(true), do: 1
  defp value!(false), do: 0
  defp value!({:blob, bytes}) when is_binary(bytes), do: {:blob, bytes}

  defp value!(other) do
    raise ArgumentError,
          "expected an integer of 64 bits, float, binary, {:blob, binary}, boolean or nil, " <>
            "got: #{inspect(other, limit: 5, printable_limit: 80)}"
  end
end
