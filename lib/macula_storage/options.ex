defmodule MaculaStorage.Options do
  @moduledoc false
  # One way to look at what callers pass: app names and option lists. Misuse raises ArgumentError
  # here, before Rust is reached.

  # what `receive after` takes
  @ms_max 4_294_967_295

  @type check ::
          :boolean
          | :positive
          | :timeout
          | :ttl
          | :path
          | :progress
          | {:one_of, [term]}
          | {:consistency, [atom]}
          | :any

  @doc false
  @spec app!(term) :: String.t()
  def app!(app) when is_atom(app) and app not in [nil, true, false], do: app!(Atom.to_string(app))

  # each call of a store comes through here: a tenth of what a regex takes
  def app!(<<first, rest::binary>> = app)
      when (first in ?a..?z or first in ?0..?9) and byte_size(rest) < 64 do
    if app_rest?(rest), do: app, else: bad_app!(app)
  end

  def app!(app), do: bad_app!(app)

  defp app_rest?(<<char, rest::binary>>)
       when char in ?a..?z or char in ?0..?9 or char in [?_, ?-],
       do: app_rest?(rest)

  defp app_rest?(rest), do: rest == ""

  defp bad_app!(app) do
    raise ArgumentError,
          "expected an app name (an atom or string of 1 to 64 of [a-z0-9_-], beginning with a " <>
            "letter or digit), got: #{inspect(app, limit: 10, printable_limit: 80)}"
  end

  # What every function that writes entries takes.
  @doc false
  @spec ttl!(keyword) :: pos_integer | :infinity
  def ttl!([]), do: :infinity
  def ttl!(options), do: validate!(options, ttl: {:infinity, :ttl}).ttl

  # What those take that are a write by themselves: time to live, and how durable (`nil`: as the store is).
  @doc false
  @spec write!(keyword) :: {pos_integer | :infinity, :sync | :async | :none | nil}
  def write!([]), do: {:infinity, nil}

  def write!(options) do
    durabilities = {:one_of, [:sync, :async, :none, nil]}
    known = [ttl: {:infinity, :ttl}, durability: {nil, durabilities}]
    %{ttl: ttl, durability: durability} = validate!(options, known)
    {ttl, durability}
  end

  # `known`: option => {default, check}. The result has every known option.
  @doc false
  @spec validate!(keyword, [{atom, {term, check}}]) :: map
  def validate!(options, known) do
    unless Keyword.keyword?(options) do
      raise ArgumentError, "expected a keyword list of options, got: #{inspect(options)}"
    end

    for {name, value} <- options,
        reduce: Map.new(known, fn {name, {default, _}} -> {name, default} end) do
      validated ->
        case List.keyfind(known, name, 0) do
          nil ->
            names = Enum.map_join(known, ", ", fn {name, _} -> inspect(name) end)
            raise ArgumentError, "unknown option #{inspect(name)}, expected one of: #{names}"

          {_, {_default, check}} ->
            Map.put(validated, name, check!(name, value, check))
        end
    end
  end

  defp check!(_name, value, :any), do: value
  defp check!(_name, value, :boolean) when is_boolean(value), do: value
  defp check!(_name, value, :positive) when value in 1..0x7FFF_FFFF_FFFF_FFFF//1, do: value
  defp check!(_name, :infinity, :ttl), do: :infinity
  defp check!(_name, value, :ttl) when value in 1..0x7FFF_FFFF_FFFF_FFFF//1, do: value
  defp check!(_name, nil, :progress), do: nil
  defp check!(_name, value, :progress) when is_function(value, 1) or is_pid(value), do: value
  defp check!(_name, :infinity, :timeout), do: :infinity
  defp check!(_name, value, :timeout) when value in 1..@ms_max//1, do: value
  defp check!(_name, value, :path) when is_binary(value) and value != "", do: value

  defp check!(_name, {:stale, age_ms} = value, {:consistency, _}) when age_ms in 1..@ms_max//1,
    do: value

  defp check!(name, value, {:consistency, values}) do
    if value in values,
      do: value,
      else: bad!(name, value, "one of #{inspect(values)}, or {:stale, milliseconds}")
  end

  defp check!(name, value, {:one_of, values}) do
    if value in values, do: value, else: bad!(name, value, "one of #{inspect(values)}")
  end

  defp check!(name, value, :timeout),
    do: bad!(name, value, "milliseconds from 1 to #{@ms_max}, or :infinity")

  defp check!(name, value, :ttl), do: bad!(name, value, "milliseconds from 1, or :infinity")

  defp check!(name, value, :progress),
    do: bad!(name, value, "a function of one argument or a pid")

  defp check!(name, value, check), do: bad!(name, value, "a #{check}")

  defp bad!(name, value, expected) do
    raise ArgumentError,
          "expected option #{inspect(name)} to be #{expected}, got: #{inspect(value)}"
  end
end
