defmodule MaculaStorage.MnesiaNode do
  @moduledoc """
  What the tests of mnesia do with nodes (`MaculaStorage.BeamNode`).
  """
  alias MaculaStorage.{BeamNode, Mnesia, Wait}

  @doc "A function of `MaculaStorage.Mnesia` on a node."
  @spec mnesia(struct, atom, list) :: term
  def mnesia(node, fun, args \\ []), do: BeamNode.call(node, Mnesia, fun, args)

  @doc "Ends the connection of two nodes, as both see it."
  @spec part(struct, struct) :: :ok
  def part(a, b) do
    true = BeamNode.call(a, :erlang, :disconnect_node, [b.name])
    for {one, other} <- [{a, b}, {b, a}], do: until_running_without(one, other)
    :ok
  end

  defp until_running_without(one, other) do
    Wait.until("#{one.name} without #{other.name}", fn ->
      other.name not in mnesia(one, :status).running_nodes
    end)
  end

  @doc "Waits until a node tells of a split from another."
  @spec until_split(struct, struct) :: term
  def until_split(one, other) do
    Wait.until("a split of #{one.name} from #{other.name}", fn ->
      mnesia(one, :status).inconsistent == [other.name]
    end)
  end
end
