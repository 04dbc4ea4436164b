defmodule MaculaStorage.Khepri.Op do
  @moduledoc false
  # Operations of a transaction as callers write them, and their results.

  alias MaculaStorage.Options
  alias MaculaStorage.Khepri.Wire

  @write_options [
    ttl: {:infinity, :ttl},
    keep_while: {[], :any},
    lease: {nil, :any},
    timeout: {5_000, :timeout}
  ]

  @doc false
  @spec put!(term, term, keyword) :: {tuple, map}
  def put!(path, value, options) do
    options = Options.validate!(options, @write_options)
    ttl = if options.ttl != :infinity, do: options.ttl
    keep_while = Wire.watched!(options.keep_while)
    {{:put, Wire.path!(path), Wire.value(value), ttl, options.lease, keep_while}, options}
  end

  @doc false
  @spec of!(tuple) :: tuple
  def of!({:put, path, value}), do: of!({:put, path, value, []})
  def of!({:put, path, value, options}), do: path |> put!(value, options) |> elem(0)
  def of!({:delete, path}), do: {:delete, Wire.path!(path)}
  def of!({:get, path}), do: {:get, Wire.path!(path)}
  def of!(other), do: raise(ArgumentError, "expected an operation, got: #{inspect(other)}")

  @doc false
  @spec result(term) :: :ok | {:ok, term} | {:error, :not_found}
  def result({:get, nil}), do: {:error, :not_found}
  def result({:get, {nil, _, _, _, _, _, _}}), do: {:error, :not_found}
  def result({:get, {value, _, _, _, _, _, _}}), do: {:ok, Wire.term(value)}
  def result(_put_or_delete), do: :ok
end
