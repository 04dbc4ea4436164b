defmodule MaculaStorage.MeshFS.StatusTest do
  @moduledoc "How the replicated files of a node alone are, and how far what it does in the background."
  use MaculaStorage.Case, async: true

  alias MaculaStorage.MeshFS

  test "status of a node alone" do
    assert {:ok, status} = MeshFS.status()
    assert %{replica: replica, peers: [], untold: 0, files: _, under_replicated: _} = status
    # those of apps that other tests removed wait for somebody who has them
    assert replica > 0 and status.fetching >= 0 and status.bytes_here >= 0
    assert map_size(status) == 13

    assert status.failed <= status.fetching and status.sent_bytes == 0 and
             status.received_bytes == 0

    # a week after the first opening
    assert %{now: nil, last: nil, due_ms: due_ms} = status.scrub
    assert_in_delta due_ms, System.os_time(:millisecond) + 7 * 24 * 3_600_000, 3_600_000
    assert {:ok, %{replica: ^replica}} = MeshFS.status(timeout: 60_000)
  end

  test "how far a scrub is" do
    app = unique_app()
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
