defmodule MaculaStorage.Cluster.MeshFSEventsTest do
  @moduledoc """
  What those hear who subscribe to replicated files of several nodes, and what operators ask nodes.
  """
  use MaculaStorage.Case, async: false

  import MaculaStorage.BeamNode
  import MaculaStorage.Cluster.Meshes
  alias MaculaStorage.Wait
  alias MaculaStorage.Cluster.MeshEar

  @moduletag timeout: 300_000

  defp listen(node, name, options \\ [], deaf? \\ false),
    do: assert(:ok = call(node, MeshEar, :start, [name, options, deaf?]))

  defp heard(node, name), do: call(node, MeshEar, :heard, [name])

  defp eventually_heard(node, name, expected) do
    Wait.until("#{inspect(expected)}", fn -> heard(node, name) == expected end)
  end

  test "what comes from elsewhere, what is deleted there, and what rots" do
    [a, b] = cluster(2)
    listen(b, :all)
    listen(b, :below, prefix: "d/", kinds: [:changed])
    large = :crypto.strong_rand_bytes(1_000_000)
    assert {:ok, one} = mesh(a, :write, ["d/large", large, [ack: :all, return: :info]])
    assert {:ok, two} = mesh(a, :write, ["small", "s", [ack: :all, return: :info]])

    changed = %{
      kind: :changed,
      name: "d/large",
      version: one.version,
      size: 1_000_000,
      here: true
    }

    other = %{changed | name: "small", version: two.version, size: 1}
    eventually_heard(b, :all, [changed, other])
    eventually_heard(b, :below, [changed])
    # it is there when it is told
    assert tree(b) == %{"d/large" => large, "small" => "s"}

    assert {:ok, gone} = mesh(a, :delete, ["small", [ack: :all, return: :info]])
    deleted = %{kind: :deleted, name: "small", version: gone.version}
    eventually_heard(b, :all, [changed, other, deleted])

    rot(file(b, "d/large"), 500_000)
    assert {:ok, %{mended: 1}} = mesh(b, :scrub, [[pause_us: 1]])
    rotten = %{kind: :rotten, name: "d/large"}
    all = [changed, other, deleted, rotten, %{rotten | kind: :mended}]
    eventually_heard(b, :all, all)

    # what is done here is told to nobody
    assert :ok = mesh(b, :write, ["own", "own", [ack: :all]])
    assert heard(b, :all) == all
    assert heard(b, :below) == [changed]

    assert :ok = call(b, MaculaStorage.Apps, :close_state, [])
    eventually_heard(b, :below, [changed, :closed])
  end

  test "a version that lost is told on both sides, and waits for an end" do
    [a, b] = all = cluster(2)
    for node <- all, do: listen(node, :conflicts, kinds: [:conflict])

    assert {:ok, %{version: written}} = mesh(a, :write, ["f", "by a", [ack: :all, return: :info]])
    assert heard(a, :conflicts) == []

    # an edit by hand of what is replaced meanwhile
    File.write!(file(b, "f"), "edited on b")
    assert {:ok, %{version: second}} = mesh(a, :write, ["f", "again", [return: :info]])
    same_trees(all)
    assert {:ok, [%{version: winner}, %{version: loser}]} = mesh(a, :versions, ["f"])
    assert second in [winner, loser] and written not in [winner, loser]

    for node <- all do
      eventually_heard(node, :conflicts, [
        %{kind: :conflict, name: "f", winner: winner, loser: loser}
      ])

      assert {:ok, ["f"]} = mesh(node, :conflicts)
      assert {:ok, []} = mesh(node, :conflicts, [[prefix: "g"]])
    end

    # as an operator asks, whose terminal is elsewhere
    ask = &call(b, MeshEar, :printed, [&1, &2])
    assert ask.(:mesh_conflicts, [app()]) == "f\n"
    conflicts = ~s({"app":"#{app()}","conflicts":["f"]}\n)
    assert ask.(:mesh_conflicts, [app(), [json: true]]) == conflicts
    assert ask.(:mesh_status, []) =~ ~r/^can be asked +#{a.name}$/m
    assert ask.(:mesh_scrub, [[pause_us: 1]]) =~ ~r/^\d+ files, .*, 0 mended, 0 rotten$/

    assert :ok = mesh(a, :resolve, ["f", winner, [ack: :all]])
    for node <- all, do: assert({:ok, []} = mesh(node, :conflicts))
  end

  test "one that does not read costs no more than a short queue, and is told what it missed" do
    [a, b] = all = cluster(2)
    listen(b, :deaf, [kinds: [:changed]], true)
    count = 2_500

    for n <- 1..count, do: :ok = mesh(a, :write, ["#{n}", "#{n}", [ack: :local]])
    same_trees(all)
    assert call(b, MeshEar, :unread, [:deaf]) in 1_000..1_063
    assert :ok = call(b, MeshEar, :hear, [:deaf])

    Wait.until("all of it", fn ->
      heard = heard(b, :deaf)
      {missed, told} = Enum.split_with(heard, &match?({:missed, _}, &1))
      # some names may be told in the order of their arrival only
      length(told) + (missed |> Enum.map(&elem(&1, 1)) |> Enum.sum()) == count and missed != []
    end)

    heard = heard(b, :deaf)
    assert {:missed, _} = List.last(heard)
    assert :ok = mesh(a, :write, ["after", "x", [ack: :all]])
    Wait.until("it goes on", fn -> match?(%{name: "after"}, List.last(heard(b, :deaf))) end)
  end
end
