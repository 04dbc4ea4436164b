defmodule MaculaStorage.CubDB.Pages do
  @moduledoc false
  # Reading from an app, a snapshot or a transaction: single keys, and ranges page by page.
  #
  # What a dirty scheduler must not wait for, because it is large, is asked for again from a thread
  # of ours. Functions that can fail return `{:error, _}` as Rust gave it; streams raise.

  alias MaculaStorage.CubDB.Terms
  alias MaculaStorage.{Call, Error, Native}

  @entries_max 512

  @doc false
  def fetch(source, key) do
    key = Terms.key(key)

    case get(source, key) do
      {:ok, _} = found -> found
      {:error, :not_found} -> :error
      {:error, _} = error -> error
      found -> {:ok, Terms.value(found)}
    end
  end

  # By this scheduler when it is in memory, else where waiting is allowed.
  defp get(source, key) do
    with :cold <- Native.kv_get_hot(source, key),
         do: long(Native.kv_get(source, key), &Native.kv_get_long(source, &1, key), :get)
  end

  defp long({:error, :too_large}, again, op), do: Call.run(again, op: op)
  defp long(answer, _again, _op), do: answer

  @doc false
  def has_key?(source, key), do: Native.kv_has(source, Terms.key(key))

  @doc false
  def ttl(source, key) do
    with {:error, :not_found} <- Native.kv_ttl(source, Terms.key(key)), do: :error
  end

  @doc false
  def get_multi(source, keys) do
    encoded = Enum.map(keys, &Terms.key/1)
    again = &Native.kv_get_many_long(source, &1, encoded)

    with {:ok, values} <- long(Native.kv_get_many(source, encoded), again, :get_multi) do
      {:ok,
       for(
         {key, found} <- Enum.zip(keys, values),
         found,
         into: %{},
         do: {key, Terms.value(found)}
       )}
    end
  end

  @doc "The bytes that are stored of each key, of one instant; nil where there is none."
  def get_multi_raw(source, keys) do
    again = &Native.kv_get_many_long(source, &1, keys)

    with {:ok, values} <- long(Native.kv_get_many_raw(source, keys), again, :get_multi) do
      {:ok, Enum.map(values, fn found -> found && elem(found, 1) end)}
    end
  end

  @range [
    min_key: {:none, :any},
    max_key: {:none, :any},
    min_key_inclusive: {true, :boolean},
    max_key_inclusive: {true, :boolean},
    prefix: {:none, :any},
    tuple_size: {nil, :any}
  ]

  @doc "The options that say which keys, for those who have more."
  def range_options, do: @range

  @doc false
  def bounds!(options) do
    options =
      MaculaStorage.Options.validate!(options, @range ++ [reverse: {false, :boolean}])
      |> Map.put(:given, Keyword.keys(options))

    within = prefix!(options)

    {within ++ bound(options, :min_key, :min_key_inclusive),
     within ++ bound(options, :max_key, :max_key_inclusive), options.reverse}
  end

  defp bound(options, key, inclusive) do
    cond do
      key not in options.given -> []
      Map.fetch!(options, inclusive) -> [{:incl, Terms.key(Map.fetch!(options, key))}]
      true -> [{:excl, Terms.key(Map.fetch!(options, key))}]
    end
  end

  defp prefix!(%{given: given, prefix: prefix, tuple_size: size}) do
    case {:prefix in given, prefix, size} do
      {false, _, nil} ->
        []

      {true, prefix, nil} when is_binary(prefix) ->
        [{:prefix, Terms.key(prefix), nil}]

      {true, [_ | _] = prefix, nil} ->
        if(List.improper?(prefix),
          do: bad_prefix!(prefix, nil),
          else: [{:prefix, Terms.key(prefix), nil}]
        )

      {true, prefix, size} when is_tuple(prefix) and size in tuple_size(prefix)..0xFF_FFFF//1 ->
        [{:prefix, Terms.key(prefix), size}]

      {_, prefix, size} ->
        bad_prefix!(prefix, size)
    end
  end

  defp bad_prefix!(prefix, size) do
    raise ArgumentError,
          "expected option :prefix to be a binary, a list that is not empty, or a tuple together with " <>
            "option :tuple_size, the number of elements of the keys (tuples are ordered by size first), " <>
            "got: prefix: #{inspect(prefix, limit: 5)}, tuple_size: #{inspect(size)}"
  end

  @doc "How many entries are in bounds."
  def count(source, {min, max, _reverse}),
    do: Call.run(&Native.kv_count(source, &1, min, max), op: :count, timeout: :infinity)

  @doc "How many entries there are."
  def size(source), do: count(source, {:none, :none, false})

  # `open` gives the source when the first entry is asked for; it ends with the stream.
  @doc false
  def stream(open, {min, max, reverse}) do
    Stream.resource(
      fn -> {open.(), min, max} end,
      &next(&1, reverse),
      &close/1
    )
  end

  # As `stream/2` over a source that somebody else ends.
  @doc false
  def stream_of(source, {min, max, reverse}) do
    Stream.resource(fn -> {source, min, max} end, &next(&1, reverse), fn _ -> :ok end)
  end

  defp next({source, :done}, _reverse), do: {:halt, {source, :done}}

  defp next({source, min, max}, reverse) do
    page = Native.kv_page(source, min, max, reverse, @entries_max)

    case long(page, &Native.kv_page_long(source, &1, min, max, reverse), :select) do
      {:ok, entries, nil} -> {entries, {source, :done}}
      {:ok, entries, next} when reverse -> {entries, {source, min, {:raw, next}}}
      {:ok, entries, next} -> {entries, {source, {:raw, next}, max}}
      {:error, _} = error -> raise_error(error, {source, min, max})
    end
  end

  defp raise_error(error, _state) do
    {:error, reason} = Error.wrap(error, :select, nil)
    Error.raise!(reason, :select, nil)
  end

  defp close({source, :done}), do: Native.kv_snapshot_release(source)
  defp close({source, _min, _max}), do: Native.kv_snapshot_release(source)
end
