defmodule MaculaStorage.Cluster.MeshFSLinksTest do
  @moduledoc "The contract of replicated files over links of ours."
  use ExUnit.Case, async: false
  use MaculaStorage.Cluster.MeshContract, over: MaculaStorage.Cluster.OverLinks
end

defmodule MaculaStorage.Cluster.MeshFSLoopbackTest do
  @moduledoc "The same contract over a transport of the application."
  use ExUnit.Case, async: false
  use MaculaStorage.Cluster.MeshContract, over: MaculaStorage.Cluster.OverLoopback

  alias MaculaStorage.BeamNode
  alias MaculaStorage.Cluster.{Loopback, OverLoopback}

  test "it is the transport that carries", %{members: {_, members}} do
    for node <- OverLoopback.nodes(members) do
      assert {asked, answered} = BeamNode.call(node, Loopback, :counted, [])
      assert asked > 0 and answered > 0
    end
  end
end
