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
  def put(key, value, ttl \\ :infinity)
  def put(key, value, :infinity), do: {:put, key(key), :erlang.term_to_binary(value)}
  def put(key, value, ttl), do: {:put, key(key), :erlang.term_to_binary(value), ttl}

  @doc false
  def delete(key), do: {:delete, key(key)}

  @doc false
  def value({:ok, value}), do: value
  # a large value: decoded by the BIF, which yields
  def value({:etf, bytes}), do: :erlang.binary_to_term(bytes)

  @doc "Whether writes and their conditions are more than a normal scheduler may copy."
  def large?(ops, conditions \\ []), do: over?(ops, over(conditions, 0))

  defp over(conditions, bytes) do
    Enum.reduce_while(conditions, bytes, fn condition, bytes ->
      {if(bytes > @large_bytes, do: :halt, else: :cont), bytes + condition_bytes(condition)}
    end)
  end

  defp condition_bytes({:absent, key}), do: @op_bytes + @key_factor * byte_size(key)
  defp condition_bytes({:is, key, nil}), do: condition_bytes({:absent, key})
  defp condition_bytes({:is, key, value}), do: condition_bytes({:absent, key}) + byte_size(value)

  defp over?(_ops, bytes) when bytes > @large_bytes, do: true

  defp over?([{:put, key, value} | ops], n),
    do: over?(ops, n + @op_bytes + @key_factor * byte_size(key) + byte_size(value))

  defp over?([{:put, key, value, _ttl} | ops], n), do: over?([{:put, key, value} | ops], n)

  defp over?([{:delete, key} | ops], n),
    do: over?(ops, n + @op_bytes + @key_factor * byte_size(key))

  defp over?([:clear | ops], n), do: over?(ops, n)
  defp over?([], _n), do: false
end
