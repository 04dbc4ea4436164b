defmodule MaculaStorage.Khepri.Wire do
  @moduledoc false
  # Paths, patterns, conditions and nodes as they cross to Rust and back (native/nif/src/state/terms.rs).
  #
  # Invariant: what is misuse raises ArgumentError here; terms cross in the External Term Format, so
  # that Rust sees bytes only, and are made again in the process that asked.

  alias MaculaStorage.Khepri.Node

  @compare %{==: :eq, !=: :ne, <: :lt, <=: :le, >: :gt, >=: :ge}
  @figures [:version, :created, :modified, :children]

  @doc false
  @spec path!(term) :: [binary]
  def path!([_ | _] = path) do
    Enum.map(path, fn
      part when part in [:*, :**] ->
        raise ArgumentError, "a path here names one node: #{inspect(path)}"

      part ->
        :erlang.term_to_binary(part)
    end)
  end

  def path!(path) do
    raise ArgumentError,
          "expected a path (a list of terms, not empty), got: #{inspect(path, limit: 10)}"
  end

  @doc false
  @spec pattern!(term, keyword) :: {list, term}
  def pattern!([_ | _] = pattern, conditions \\ []) do
    {Enum.map(pattern, &part!/1), all_or_nil!(conditions)}
  end

  # Names and wildcards only: what is gone has nothing that a condition could ask for.
  @doc false
  @spec watched_pattern!(term) :: {list, nil}
  def watched_pattern!([_ | _] = pattern) do
    if Enum.any?(pattern, &match?({:*, _}, &1)),
      do: raise(ArgumentError, "expected a pattern without conditions: #{inspect(pattern)}")

    pattern!(pattern)
  end

  def watched_pattern!(other),
    do: raise(ArgumentError, "expected a pattern (a list, not empty), got: #{inspect(other)}")

  defp part!(:*), do: {:any, nil}
  defp part!(:**), do: :many
  defp part!({:*, conditions}), do: {:any, all_or_nil!(conditions)}
  defp part!(name), do: {:exact, :erlang.term_to_binary(name)}

  defp all_or_nil!([]), do: nil
  defp all_or_nil!(conditions), do: condition!(conditions)

  @doc false
  @spec condition!(term) :: term
  def condition!(conditions) when is_list(conditions) do
    unless Keyword.keyword?(conditions), do: bad!(conditions)

    case Enum.map(conditions, &one!/1) do
      [condition] -> condition
      several -> {:all, several}
    end
  end

  def condition!(condition), do: bad!(condition)

  defp one!({:exists, true}), do: :exists
  defp one!({:exists, false}), do: {:not, :exists}
  defp one!({:has_data, true}), do: :has_data
  defp one!({:has_data, false}), do: {:not, :has_data}
  defp one!({:value, value}), do: {:value, :erlang.term_to_binary(value)}
  defp one!({:matches, pattern}), do: {:matches, :erlang.term_to_binary(pattern)}

  defp one!({figure, n}) when figure in @figures and is_integer(n) and n >= 0,
    do: {figure, :eq, n}

  defp one!({figure, {by, n}})
       when figure in @figures and is_map_key(@compare, by) and is_integer(n) and n >= 0,
       do: {figure, Map.fetch!(@compare, by), n}

  defp one!({:not, conditions}), do: {:not, condition!(conditions)}
  defp one!({:all, several}) when is_list(several), do: {:all, Enum.map(several, &condition!/1)}
  defp one!({:any, several}) when is_list(several), do: {:any, Enum.map(several, &condition!/1)}
  defp one!(condition), do: bad!(condition)

  defp bad!(condition) do
    raise ArgumentError,
          "expected conditions (see MaculaStorage.Khepri), got: #{inspect(condition, limit: 10)}"
  end

  @doc false
  @spec watched!(term) :: [{[binary], term}]
  def watched!(conditions) when is_list(conditions) or is_map(conditions) do
    Enum.map(conditions, fn
      {path, condition} -> {path!(path), condition!(condition)}
      other -> bad!(other)
    end)
  end

  # More than a scheduler may copy while others wait: 64 KiB, of which an operation or a guard counts some.
  @large_bytes 65_536
  @part_bytes 512

  @doc "Whether a command is for a dirty scheduler to copy."
  @spec large?(tuple) :: boolean
  def large?({:txn, guards, then, otherwise}) do
    parts = length(guards) + length(then) + length(otherwise)
    parts * @part_bytes + values(then) + values(otherwise) > @large_bytes
  end

  def large?({:import, _entries}), do: true
  def large?(_of_leases), do: false

  defp values(ops), do: Enum.reduce(ops, 0, &(value_bytes(&1) + &2))

  defp value_bytes({:put, _, value, _, _, _}), do: byte_size(value)
  defp value_bytes({:put_many, _, value}), do: byte_size(value)
  defp value_bytes(_), do: 0

  @doc false
  @spec value(term) :: binary
  def value(term), do: :erlang.term_to_binary(term)

  @doc false
  @spec term(binary) :: term
  def term(etf), do: :erlang.binary_to_term(etf)

  @doc false
  @spec path([binary]) :: [term]
  def path(etfs), do: Enum.map(etfs, &:erlang.binary_to_term/1)

  @doc false
  @spec node(tuple) :: Node.t()
  def node({value, version, created, modified, children, expires_ms, lease}) do
    %Node{
      value: if(value, do: term(value)),
      has_data: value != nil,
      version: version,
      created: created,
      modified: modified,
      children: children,
      expires_ms: expires_ms,
      lease: lease
    }
  end
end
