defmodule MaculaStorage.MeshFS.Refusals do
  @moduledoc false
  # Writes to the log what other members sent or said that was refused, so that somebody looks: a member with a broken
  # disk or memory, with another release, or in bad hands. Rust bounds how often it tells (refusals.rs).

  use GenServer

  require Logger

  alias MaculaStorage.{Apps, Native}
  alias MaculaStorage.MeshFS.Care

  def start_link(_options), do: GenServer.start_link(__MODULE__, nil, name: __MODULE__)

  @doc "The replicated files were opened."
  @spec look() :: :ok
  def look, do: GenServer.cast(__MODULE__, :look)

  @impl true
  def init(nil), do: {:ok, nil, {:continue, :look}}

  @impl true
  def handle_continue(:look, nil), do: {:noreply, listen()}

  @impl true
  def handle_cast(:look, nil), do: {:noreply, listen()}

  @impl true
  def handle_info({:refused, told}, nil) do
    %{member: member, count: count, why: why} = Care.refusal(told)

    Logger.warning(
      "replicated files: refused what #{member} sent or said, #{count} times since they were opened, " <>
        "the last time: #{inspect(why)}"
    )

    {:noreply, nil}
  end

  def handle_info(_message, nil), do: {:noreply, nil}

  # not open, or closed meanwhile: the next opening tells
  defp listen do
    with {:ok, mesh} <- Apps.opened_mesh(), do: Native.mesh_hear_refusals(mesh)
    nil
  end
end
