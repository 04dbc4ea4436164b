defmodule MaculaStorage.Khepri.Watches do
  @moduledoc false
  # The feeders of watches (MaculaStorage.Khepri.Watch), one each; see MaculaStorage.Feeders.

  alias MaculaStorage.{Apps, Feeders, Khepri, Options}
  alias MaculaStorage.Khepri.{Watch, Wire}

  @revision {nil, :any}

  @doc false
  def child_spec(_options),
    do: %{id: __MODULE__, start: {Feeders, :start_link, [__MODULE__, Khepri, Watch]}}

  @doc false
  @spec watch(term, keyword) :: {:ok, reference, non_neg_integer} | {:error, term}
  def watch(pattern, options) do
    %{from: from} = Options.validate!(options, from: @revision)
    wire = Wire.watched_pattern!(pattern)

    unless from == nil or from in 0..0x7FFF_FFFF_FFFF_FFFF//1,
      do: raise(ArgumentError, "expected from: to be a revision, got: #{inspect(from)}")

    # opened here: the feeders' server waits for no disk
    with {:ok, _state} <- Apps.with_state(&{:ok, &1}),
         do: Feeders.begin(__MODULE__, {wire, from})
  end

  @doc false
  @spec stop(reference) :: :ok
  def stop(ref), do: Feeders.stop(__MODULE__, Khepri, ref)
end
