defmodule MaculaStorage.MnesiaListener do
  @moduledoc "A subscriber on another node, that keeps what it was sent until it is asked."

  use GenServer

  @doc false
  def start(_args), do: GenServer.start(__MODULE__, nil, name: __MODULE__)

  @doc "What came so far."
  @spec events() :: [term]
  def events, do: GenServer.call(__MODULE__, :events)

  @impl true
  def init(nil) do
    {:ok, ref} = MaculaStorage.Mnesia.subscribe()
    {:ok, {ref, []}}
  end

  @impl true
  def handle_call(:events, _from, {_ref, events} = state),
    do: {:reply, Enum.reverse(events), state}

  @impl true
  def handle_info({MaculaStorage.Mnesia, ref, event}, {ref, events}),
    do: {:noreply, {ref, [event | events]}}
end
