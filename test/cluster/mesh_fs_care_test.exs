defmodule MaculaStorage.Cluster.MeshFSCareTest do
  @moduledoc """
  What replicated files on several nodes do by themselves: what other programs did reaches all, what rotted or was lost
  comes from elsewhere, and one name that is written all the time keeps no other waiting.
  """
  use MaculaStorage.Case, async: false

  import MaculaStorage.BeamNode
  import MaculaStorage.Cluster.Meshes
  alias MaculaStorage.{Error, Wait}
  alias MaculaStorage.Cluster.MeshProcess

  @moduletag timeout: 300_000

  setup do
    %{seed: MaculaStorage.Scenario.seed()}
  end

  defp fill(node, count, bytes) do
    content = for n <- 1..count, into: %{}, do: {"d/#{n}", :rand.bytes(n * bytes)}

    for {name, content} <- content,
        do: assert(:ok = mesh(node, :write, [name, content, [ack: :all]]))

    content
  end

  test "copies and other names reach all" do
    [a, b, c] = all = cluster(3)
    large = :crypto.strong_rand_bytes(3_000_000)

    for {name, content} <- [{"l", large}, {"s", "small"}],
        do: assert(:ok = mesh(a, :write, [name, content, [ack: :all]]))

    assert :ok = mesh(b, :copy, ["l", "copied/l", [ack: :all]])

    assert {:ok, %{replicas: 2}} =
             mesh(c, :rename, ["l", "renamed/l", [ack: :all, return: :info]])

    assert :ok = mesh(a, :rename, ["s", "renamed/s"])
    same_trees(all)

    for node <- all do
      assert tree(node) == %{"copied/l" => large, "renamed/l" => large, "renamed/s" => "small"}
      assert {:ok, ["copied/l", "renamed/l", "renamed/s"]} = mesh(node, :list)
      for name <- ["l", "s"], do: assert({:error, :not_found} = mesh(node, :read, [name]))
    end
  end

  test "one that has no copy cannot make one of it" do
    [a, b] = cluster(2, mesh_copies: 0)
    assert :ok = mesh(a, :write, ["a", "a"])
    eventually_replicas(b, "a", [a.name])

    for {verb, arguments} <- [copy: ["a", "b"], rename: ["a", "b"]] do
      assert {:error, %Error{kind: :unreachable} = error} = mesh(b, verb, arguments)
      assert Exception.message(error) =~ to_string(a.name)
    end

    assert {:ok, ["a"]} = mesh(b, :list)
    # a deletion needs none
    assert :ok = mesh(b, :delete, ["a"])
    Wait.until("the deletion", fn -> tree(a) == %{} end)
  end

  test "what other programs do is found at once, and reaches all" do
    [a, b] = all = cluster(2)
    content = fill(a, 12, 100)
    same_trees(all)
    for node <- all, do: watched(node, 2)
    # the scan that each begins with is over when this was found
    for node <- all, do: found_first(node, all)
    other = Path.join(unique_dir(), "other")
    File.write!(other, :binary.copy("new", 200_000))

    run("cp", [other, file(b, "d/new")])
    both(a, "d/new", File.read!(other))
    run("sed", ["-i", "s/first/second/", file(b, "first/#{b.name}")])
    both(a, "first/#{b.name}", "second")
    run("mv", [file(b, "d/7"), file(b, "d/moved")])
    both(a, "d/moved", content["d/7"])
    run("rm", [file(b, "d/3")])
    run("cp", ["-r", files(b) <> "/first", file(b, "deep")])
    both(a, "deep/#{b.name}", "second")
    for name <- ["d/7", "d/3"], do: gone(a, name)
    same_trees(all)
    assert {:ok, %{watched_dirs: 4, unwatched_apps: 0}} = watched(b, 4)
    assert {:ok, %{found: 0, changed: 0, deleted: 0, lost: 0}} = mesh(b, :scan)
  end

  defp run(program, arguments), do: assert({"", 0} = System.cmd(program, arguments))

  defp watched(node, dirs) do
    Wait.until("#{dirs} directories are watched", fn ->
      match?({:ok, %{watched_dirs: ^dirs}}, mesh(node, :status))
    end)

    mesh(node, :status)
  end

  defp found_first(node, all) do
    name = "first/#{node.name}"
    File.mkdir_p!(Path.dirname(file(node, name)))
    File.write!(file(node, name), "first")
    for other <- all, do: both(other, name, "first")
  end

  defp both(node, name, content),
    do: Wait.until("#{name} is there", fn -> mesh(node, :read, [name]) == {:ok, content} end)

  defp gone(node, name),
    do: Wait.until("#{name} went", fn -> mesh(node, :read, [name]) == {:error, :not_found} end)

  test "what other programs did is seen by a scan, and reaches all" do
    [a, b, c] = all = cluster(3, mesh_watch: false)
    content = fill(a, 12, 10_000)
    # beside the own look of each
    for node <- all, do: Wait.until("the first look", fn -> looked?(node, 12) end)
    File.write!(file(b, "d/1"), "rewritten")
    File.rm!(file(b, "d/2"))
    new = :crypto.strong_rand_bytes(700_000)
    File.write!(file(b, "new"), new)
    assert {:ok, scanned} = mesh(b, :scan)
    assert scanned == %{known: 12, found: 1, changed: 1, deleted: 1, lost: 0}
    expected = content |> Map.delete("d/2") |> Map.merge(%{"d/1" => "rewritten", "new" => new})
    for node <- all, do: Wait.until("it on #{node.name}", fn -> tree(node) == expected end)
    for node <- all, do: assert({:ok, [_one]} = mesh(node, :versions, ["d/1"]))

    # a file of one member that is rewritten by hand on another
    File.write!(file(c, "d/3"), "by c")
    assert {:ok, %{changed: 1}} = mesh(c, :scan)

    for node <- [a, b],
        do: Wait.until("it", fn -> mesh(node, :read, ["d/3"]) == {:ok, "by c"} end)

    # half of them are gone: nobody did that
    for n <- 4..9, do: File.rm!(file(c, "d/#{n}"))
    assert {:ok, %{lost: 6, deleted: 0}} = mesh(c, :scan)
    expected = Map.put(expected, "d/3", "by c")
    for node <- all, do: Wait.until("all of it", fn -> tree(node) == expected end)
    # in their place a moment before it is known that they are
    for n <- 4..9, do: Wait.until("its row", fn -> here?(c, "d/#{n}") end)
    # unless somebody says so
    for n <- 4..9, do: File.rm!(file(c, "d/#{n}"))
    assert {:ok, %{lost: 0, deleted: 6}} = mesh(c, :scan, [[deletions: true]])
    expected = Map.drop(expected, for(n <- 4..9, do: "d/#{n}"))
    for node <- all, do: Wait.until("all of it", fn -> tree(node) == expected end)
  end

  defp here?(node, name), do: match?({:ok, %{here: true}}, mesh(node, :stat, [name]))

  defp looked?(node, count),
    do: match?({:ok, %{files: files}} when files >= count, mesh(node, :status))

  test "what rotted on one comes from another" do
    [a, b, _c] = cluster(3)
    content = fill(a, 8, 100_000)

    # by reading it
    rot(file(b, "d/8"), 300_000)
    refute tree(b) == content
    assert mesh(b, :read, ["d/8"]) == {:ok, content["d/8"]}
    Wait.until("it is mended", fn -> tree(b) == content end)

    # by looking for it
    for n <- [1, 5], do: rot(file(b, "d/#{n}"), n * 1_000)
    assert {:ok, %{files: 8, mended: 2, rotten: 0}} = mesh(b, :scrub, [[pause_us: 1]])
    Wait.until("it is mended", fn -> tree(b) == content end)

    assert {:ok, %{files: 8, mended: 0, rotten: 0, bytes: bytes}} =
             mesh(b, :scrub, [[pause_us: 1]])

    assert bytes == content |> Map.values() |> Enum.map(&byte_size/1) |> Enum.sum()
  end

  test "what rotted is found and mended without anybody, but of apps that are closed" do
    [a, b] = cluster(2, mesh_scrub_every: 20)
    content = fill(a, 4, 50_000)
    for node <- [a, b], do: Wait.until("the first look", fn -> looked?(node, 4) end)
    rot(file(b, "d/2"), 70_000)
    Wait.until("it is mended", fn -> tree(b) == content end)
    bytes = content |> Map.values() |> Enum.map(&byte_size/1) |> Enum.sum()

    last = fn ->
      {:ok, %{scrub: %{last: last}}} = mesh(b, :status)
      last && Map.drop(last, [:began_ms, :ended_ms])
    end

    whole = %{files: 4, bytes: bytes, mended: 0, rotten: 0, skipped: 0}
    Wait.until("all that is right", fn -> last.() == whole end)

    assert :ok = call(b, MaculaStorage, :close_app, [app()])
    none = %{files: 0, bytes: 0, mended: 0, rotten: 0, skipped: 4}
    Wait.until("a round that opens nothing", fn -> last.() == none end)
    assert {:ok, nil} = call(b, MaculaStorage, :app_owner, [app()])
    # by hand it is opened
    assert {:ok, %{files: 4, skipped: 0}} = mesh(b, :scrub)
  end

  test "a narrow line has room for who waits" do
    [a, b] = cluster(2, mesh_bandwidth: 131_072)
    assert :ok = call(a, MeshProcess, :write, [app(), "large", 40, 7, [ack: :local]])

    Wait.until("a part of it", fn ->
      {:ok, %{received_bytes: received}} = mesh(b, :status)
      received > 1_000_000
    end)

    for n <- 1..20 do
      content = :crypto.strong_rand_bytes(n * 10_000)
      assert :ok = mesh(a, :write, ["d/#{n}", content, [ack: :all]])
      assert {:ok, ^content} = mesh(b, :read, ["d/#{n}"])
    end

    # from the other, as fast as can be: as a copy it takes five minutes
    assert call(b, MeshProcess, :read, [app(), "large"]) == MeshProcess.digest(40, 7)
    assert {:ok, %{fetching: 1, failed: 0}} = mesh(b, :status)
    refute Map.has_key?(tree(b), "large")
  end

  test "what rotted on all stays, and is told" do
    [_a, b, _c] = all = cluster(3)
    content = fill(b, 8, 20_000)
    for node <- all, do: rot(file(node, "d/2"), 77)
    assert {:error, %Error{kind: :corrupt}} = mesh(b, :read, ["d/2"])

    for node <- all,
        do: assert({:ok, %{rotten: 1, mended: 0}} = mesh(node, :scrub, [[pause_us: 1]]))

    for node <- all, do: assert({:ok, _} = File.read(file(node, "d/2")))
    # a copy of what rotted is none
    assert {:error, %Error{kind: :corrupt}} = mesh(b, :copy, ["d/2", "copied"])
    right = Map.delete(content, "d/2")
    for node <- all, {name, bytes} <- right, do: assert(mesh(node, :read, [name]) == {:ok, bytes})
  end

  # What was rotten in one place was taken away as a whole, and with it the only right bytes of another.
  test "two that rotted in different places mend each other" do
    [a, b] = all = cluster(2)
    content = :crypto.strong_rand_bytes(1_000_000)
    assert :ok = mesh(a, :write, ["a", content, [ack: :all]])
    rot(file(a, "a"), 10)
    rot(file(b, "a"), 900_000)
    for node <- all, do: assert({:ok, _} = mesh(node, :scrub, [[pause_us: 1]]))

    for node <- all,
        do: Wait.until("the whole of it", fn -> mesh(node, :read, ["a"]) == {:ok, content} end)

    for node <- all, do: Wait.until("it on the disk", fn -> tree(node) == %{"a" => content} end)
  end

  # Each write of one beside the other's is a version of its own. There were 466 of them after 500 writes; a message
  # with all of them was too long, and from then on no file at all came to the other member.
  test "two that write one name all the time keep no other name waiting" do
    [a, b] = all = cluster(2)

    writers =
      for node <- all do
        Task.async(fn ->
          for n <- 1..500,
              do: :ok = mesh(node, :write, ["hot", "#{node.n} #{n}", [timeout: 60_000]])
        end)
      end

    for n <- 1..20, do: assert(:ok = mesh(a, :write, ["calm/#{n}", "#{n}", [ack: :all]]))
    Task.await_many(writers, 200_000)
    assert :ok = mesh(b, :write, ["calm/21", "21", [ack: :all]])
    same_trees(all)
    {:ok, versions} = mesh(a, :versions, ["hot"])
    assert {:ok, ^versions} = mesh(b, :versions, ["hot"])
    assert length(versions) <= 110
    assert :ok = mesh(a, :resolve, ["hot", hd(versions).version, [ack: :all]])
    for node <- all, do: assert({:ok, [_one]} = mesh(node, :versions, ["hot"]))
  end

  test "one that is gone for good: others take its place", %{seed: seed} do
    [a, b, c, d] = all = cluster(4, mesh_copies: 1)
    :rand.seed(:exsss, seed)
    content = fill(a, 30, 5_000)
    count = fn nodes -> for node <- nodes, {name, _} <- tree(node), do: name end

    same = fn nodes, each ->
      Enum.frequencies(count.(nodes)) |> Map.values() |> Enum.uniq() == [each]
    end

    assert same.(all, 2)
    # each has some of them
    for node <- all, do: assert(map_size(tree(node)) > 0)

    for node <- all,
        {name, bytes} <- content,
        do: assert({:ok, ^bytes} = mesh(node, :read, [name]))

    kill(b)

    for node <- [a, c, d],
        {name, bytes} <- content,
        do: assert({:ok, ^bytes} = mesh(node, :read, [name]))

    assert :ok = mesh(c, :write, ["after", "after"])
    b = revive(b, [a, c, d])
    meet([a, b, c, d])
    for node <- [a, b, c, d], do: assert({:ok, "after"} = mesh(node, :read, ["after"]))
    assert {:ok, names} = mesh(b, :list)
    assert names == Enum.sort(["after" | Map.keys(content)])
  end
end
