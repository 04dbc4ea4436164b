defmodule MaculaStorage.MeshFS.CareTest do
  @moduledoc "How replicated files are, as one node alone tells it. See also test/cluster."
  use MaculaStorage.Case, async: false

  alias MaculaStorage.MeshFS

  setup do
    %{app: unique_app()}
  end

  test "status of a node alone" do
    assert {:ok, status} = MeshFS.status()
    assert %{replica: replica, peers: [], untold: 0, files: _, under_replicated: _} = status
    # those of apps that other tests removed wait for somebody who has them
    assert replica > 0 and status.fetching >= 0 and status.bytes_here >= 0
    assert map_size(status) == 14

    assert status.failed <= status.fetching and status.sent_bytes == 0 and
             status.received_bytes == 0

    # a week after the first opening
    assert %{now: nil, last: nil, due_ms: due_ms} = status.scrub
    assert_in_delta due_ms, System.os_time(:millisecond) + 7 * 24 * 3_600_000, 3_600_000
    assert {:ok, %{replica: ^replica}} = MeshFS.status(timeout: 60_000)
  end

  test "how far a scrub is", %{app: app} do
    for n <- 1..3, do: assert(:ok = MeshFS.write(app, "#{n}", :crypto.strong_rand_bytes(600_000)))
    test = self()
    assert {:ok, %{files: files, bytes: bytes}} = MeshFS.scrub(pause_us: 1, progress: test)
    told = progress([])
    assert length(told) >= 6
    assert %{entries_done: ^files, bytes_done: ^bytes, bytes_total: _} = List.last(told)
    assert told == Enum.sort_by(told, & &1.bytes_done)
  end

  defp progress(told) do
    receive do
      {:macula_progress, progress} -> progress([progress | told])
    after
      0 -> Enum.reverse(told)
    end
  end
end
