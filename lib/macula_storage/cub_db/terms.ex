defmodule MaculaStorage.CubDB.Terms do
  @moduledoc false
  # Terms as they cross to Rust: external term format, made here because the BIF yields.

  # what one crossing on a normal scheduler copies and encodes at most: turning a key into ordered
  # bytes costs several times a copy, and each operation something of its own
  @large_bytes 65_536
  @key_factor 16
  @op_bytes 256

  @doc false
  def key(key), do: :erlang.term_to_binary(key)

  @doc false
  def put(key, value), do: {:put, key(key), :erlang.term_to_binary(value)}

  @doc false
  def delete(key), do: {:delete, key(key)}

  @doc false
  def value({:ok, value}), do: value
  # a large value: decoded by the BIF, which yields
  def value({:etf, bytes}), do: :erlang.binary_to_term(bytes)

  @doc false
  def large?(ops), do: large?(ops, 0)

  defp large?(_ops, bytes) when bytes > @large_bytes, do: true

  defp large?([{:put, key, value} | ops], n),
    do: large?(ops, n + @op_bytes + @key_factor * byte_size(key) + byte_size(value))

  defp large?([{:delete, key} | ops], n),
    do: large?(ops, n + @op_bytes + @key_factor * byte_size(key))

  defp large?([:clear | ops], n), do: large?(ops, n)
  defp large?([], _n), do: false
end
