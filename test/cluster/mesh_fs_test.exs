defmodule MaculaStorage.Cluster.MeshFSTest do
  @moduledoc """
  Replicated files on several real nodes: what one writes the others have, whoever is killed, wiped or was alone
  meanwhile. Those that are cut off: mesh_fs_cut_test.exs; what they do by themselves: mesh_fs_care_test.exs.
  """
  use MaculaStorage.Case, async: false

  import MaculaStorage.BeamNode
  import MaculaStorage.Cluster.Meshes
  alias MaculaStorage.{Error, Khepri, Wait}
  alias MaculaStorage.Cluster.MeshProcess

  @moduletag timeout: 300_000

  setup do
    %{seed: MaculaStorage.Scenario.seed()}
  end

  test "what one writes the others read, and delete" do
    [a, b, c] = all = cluster(3)
    large = :crypto.strong_rand_bytes(3_000_000)

    for {name, content} <- [{"small", "small"}, {"empty", ""}, {"dir/large", large}] do
      assert {:ok, %{replicas: 2, version: version}} =
               mesh(a, :write, [name, content, [ack: :all, return: :info]])

      # all have it now, as a plain file
      for node <- all do
        assert File.read!(file(node, name)) == content
        assert {:ok, ^content} = mesh(node, :read, [name])
        assert {:ok, %{here: true, conflicts: 0, version: ^version}} = mesh(node, :stat, [name])
      end

      for node <- all, do: eventually_replicas(node, name, names(all))
    end

    assert {:ok, part} = mesh(c, :read, ["dir/large", [range: {1_000_000, 1_500_000}]])
    assert part == binary_part(large, 1_000_000, 1_500_000)

    # each replaces what another one wrote, without a conflict
    for {node, n} <- Enum.with_index([b, c, a, b]) do
      assert :ok = mesh(node, :write, ["small", "#{n}", [ack: :all]])
      for other <- all, do: assert({:ok, "#{n}"} == mesh(other, :read, ["small"]))
    end

    for {ack, at_least} <- [{nil, 1}, {1, 1}, {2, 2}, {:quorum, 1}, {:all, 2}] do
      options = [return: :info] ++ if(ack, do: [ack: ack], else: [])
      assert {:ok, %{replicas: replicas}} = mesh(b, :write, ["acks", "#{inspect(ack)}", options])
      assert replicas in at_least..2
    end

    assert {:error, %Error{kind: :unreachable} = error} =
             mesh(b, :write, ["acks", "3", [ack: 3, timeout: 500]])

    assert error.message =~ "2 of 3"
    assert {:ok, names} = mesh(c, :list)
    assert names == ["acks", "dir/large", "empty", "small"]

    for name <- names do
      assert :ok = mesh(b, :delete, [name, [ack: :all]])

      for node <- all do
        refute File.exists?(file(node, name))
        assert {:error, :not_found} = mesh(node, :read, [name])
        assert {:error, :not_found} = mesh(node, :delete, [name])
      end
    end

    for node <- all, do: assert({:ok, []} = mesh(node, :list))
    same_trees(all)
    for node <- all, do: assert(tree(node) == %{})
  end

  test "what only one has is read from there, until it is gone" do
    [a, b] = cluster(2, mesh_copies: 0)
    large = :crypto.strong_rand_bytes(2_500_000)
    assert {:ok, %{replicas: 0, version: v}} = mesh(a, :write, ["large", large, [return: :info]])
    assert :ok = mesh(a, :write, ["small", "small"])
    for name <- ["large", "small"], do: eventually_replicas(b, name, [a.name])
    assert {:ok, ^large} = mesh(b, :read, ["large"])
    assert {:ok, ^large} = mesh(b, :read, ["large", [version: v]])
    assert {:ok, part} = mesh(b, :read, ["large", [range: {262_100, 600_000}]])
    assert part == binary_part(large, 262_100, 600_000)
    assert :erlang.md5(large) == call(b, MeshProcess, :read, [app(), "large"])
    assert {:ok, "small"} = mesh(b, :read, ["small"])
    assert {:ok, %{here: false}} = mesh(b, :stat, ["small"])
    assert tree(b) == %{}

    # but what it is to keep
    for name <- ["kept/1", "kept/2"], do: assert(:ok = mesh(a, :write, [name, large]))
    for name <- ["kept/1", "kept/2"], do: eventually_replicas(b, name, [a.name])
    assert {:ok, <<_::72>>} = mesh(b, :read, ["kept/1", [cache: true, range: {0, 9}]])
    assert :erlang.md5(large) == call(b, MeshProcess, :read, [app(), "kept/2", [cache: true]])
    for name <- ["kept/1", "kept/2"], do: eventually_replicas(b, name, names([a, b]))
    assert tree(b) == %{"kept/1" => large, "kept/2" => large}

    kill(a)
    for name <- ["kept/1", "kept/2"], do: assert({:ok, large} == mesh(b, :read, [name]))
    assert {:error, %Error{kind: :unreachable} = error} = mesh(b, :read, ["large"])
    assert Exception.message(error) =~ to_string(a.name)
    assert {:ok, ["kept/1", "kept/2", "large", "small"]} = mesh(b, :list)
    # it replaces the other's without having it
    assert :ok = mesh(b, :write, ["small", "new"])
    a = revive(a, [b])
    Wait.until("the newer one", fn -> mesh(a, :read, ["small"]) == {:ok, "new"} end)
    Wait.until("the other again", fn -> mesh(b, :read, ["large"]) == {:ok, large} end)
  end

  test "where it shall lie is told by a rule, or by who writes it" do
    [a, b, c] = all = cluster(3, mesh_copies: 2, mesh_rules: [{app(), copies: 1}])

    Wait.until("others", fn ->
      {:ok, %{peers: peers}} = mesh(a, :status)
      length(peers) == 2
    end)

    write = &mesh(a, :write, [&1, &1, [ack: :all, return: :info] ++ &2])
    assert {:ok, %{replicas: 1}} = write.("rule", [])
    assert {:ok, %{replicas: 0}} = write.("own", copies: 0)
    assert {:ok, %{replicas: 2}} = write.("all", copies: 2, class: :bulk)
    assert :ok = mesh(a, :write, ["alone", "alone", [copies: 0]])
    have = fn name -> for node <- all, File.exists?(file(node, name)), do: node end
    assert [^a, _] = have.("rule")
    assert [^a, ^b, ^c] = have.("all")
    for name <- ["own", "alone"], do: assert([^a] = have.(name))

    for node <- all,
        name <- ["rule", "own", "all"],
        do: assert({:ok, ^name} = mesh(node, :read, [name]))

    same_list = fn node -> mesh(node, :list) == {:ok, ["all", "alone", "own", "rule"]} end
    Wait.until("all know all", fn -> Enum.all?(all, same_list) end)
  end

  test "what was replaced and deleted is kept where a rule says so, and brought back" do
    [a, b] = all = cluster(2, mesh_rules: [{app(), keep_versions: 2}])

    Wait.until("the other", fn ->
      match?({:ok, %{peers: [_]}}, mesh(a, :status))
    end)

    for n <- 1..4, do: assert(:ok = mesh(a, :write, ["f", "content #{n}", [ack: :all]]))

    states = fn node ->
      {:ok, all} = mesh(node, :versions, ["f"])
      Enum.map(all, & &1.state)
    end

    for node <- all, do: assert([:shown, :former, :former] = states.(node))

    assert :ok = mesh(b, :delete, ["f", [ack: :all]])
    assert {:ok, [%{size: nil}, _, former]} = mesh(a, :versions, ["f"])
    assert {:ok, "content 3"} = mesh(a, :read, ["f", [version: former.version]])
    assert :ok = mesh(a, :resolve, ["f", former.version, [ack: :all]])
    for node <- all, do: assert({:ok, "content 3"} = mesh(node, :read, ["f"]))
  end

  test "one that does not answer is not waited for longer than was said" do
    [a, b] = cluster(2, mesh_copies: 0)
    assert :ok = mesh(a, :write, ["a", "content"])
    eventually_replicas(b, "a", [a.name])

    {us, answer} = pause(a, fn -> :timer.tc(fn -> mesh(b, :read, ["a", [timeout: 300]]) end) end)

    assert {:error, why} = answer
    assert why == :timeout or why.kind == :unreachable
    Wait.until("it again", fn -> mesh(b, :read, ["a"]) == {:ok, "content"} end)
    assert us < 3_000_000, "it took #{div(us, 1_000)} ms"
  end

  # of calls that are on their way to it
  @tag :capture_log
  test "one is killed while all write: nothing acknowledged is missing, on none", %{seed: seed} do
    IO.puts("mesh files, one is killed while all write: seed=#{seed}")
    [a, b, c] = all = cluster(3)
    writes = writes(all, 2, seed)
    acknowledged(writes, 60)
    kill(b)
    acknowledged(writes, 60)
    b = revive(b, [a, c])
    acknowledged(writes, 60)
    written = stop(writes)
    assert map_size(written) >= 180
    # and while it wrote alone
    kill(a)
    kill(c)
    assert :ok = mesh(b, :write, ["alone", "alone", [ack: :local]])
    assert :ok = mesh(b, :delete, [written |> Map.keys() |> hd(), [ack: :local]])
    a = revive(a, [b])
    c = revive(c, [a, b])
    all = meet([a, b, c])

    expected = written |> Map.delete(written |> Map.keys() |> hd()) |> Map.put("alone", "alone")

    # a write that was under way when its node was killed may be there, too
    Wait.until("all of it on all", fn ->
      Enum.all?(all, &(Map.take(tree(&1), Map.keys(expected)) == expected))
    end)

    same_trees(all)

    names = Map.keys(expected)
    seen = for name <- names, do: {name, :erlang.md5(expected[name]), 1}
    for node <- all, do: assert(seen == call(node, MeshProcess, :seen, [app(), names]))

    # what was being put together there went on, or went: what one that was killed had begun to
    # send, half a minute after its last piece, with the next sweep
    for node <- all, do: Wait.until("no trace", fn -> staged(node) == [] end, 60_000)
  end

  test "whose files are destroyed deletes nothing, and has them again", %{seed: seed} do
    [a, b, c] = all = cluster(3)
    :rand.seed(:exsss, seed)
    content = for n <- 1..30, into: %{}, do: {"d#{rem(n, 3)}/#{n}", :rand.bytes(n * 20_000)}
    for {name, bytes} <- content, do: assert(:ok = mesh(a, :write, [name, bytes, [ack: :all]]))
    kill(b)
    File.rm_rf!(files(b))
    b = revive(b, [a, c])
    meet([a, b, c])

    unless becomes?(20_000, fn -> tree(b) == content end),
      do: IO.puts("destroyed files did not come back by themselves within 20 s")

    for node <- [a, c], do: assert(tree(node) == content)

    for {name, bytes} <- content, node <- [b, a, c] do
      assert {:ok, ^bytes} = mesh(node, :read, [name])
      assert {:ok, [%{size: size}]} = mesh(node, :versions, [name])
      assert size == byte_size(bytes)
    end

    for node <- [a, b, c], do: assert({:ok, Enum.sort(Map.keys(content))} == mesh(node, :list))
    # now at the latest it knows
    Wait.until("what was destroyed", fn -> tree(b) == content end)
    for name <- Map.keys(content), do: eventually_replicas(c, name, names(all))

    # while it runs: one that is asked for it has none, and another has
    File.rm_rf!(files(c))
    for {name, bytes} <- content, do: assert({:ok, ^bytes} = mesh(c, :read, [name]))
    Wait.until("what was destroyed", fn -> tree(c) == content end)
    for node <- [a, b], do: assert(tree(node) == content)
  end

  test "who loses its index, and who loses its disk, comes back with all of it" do
    [a, b, c] = all = cluster(3)
    content = for n <- 1..20, into: %{}, do: {"#{n}", :crypto.strong_rand_bytes(n * 30_000)}
    for {name, bytes} <- content, do: assert(:ok = mesh(b, :write, [name, bytes, [ack: :all]]))
    {:ok, %{replica: before}} = mesh(b, :status)
    kill(b)
    File.rm_rf!(Path.join(b.base, "mesh"))
    b = revive(b, [a, c])
    meet([a, b, c])
    {:ok, %{replica: now}} = mesh(b, :status)
    assert now != before
    Wait.until("all of it", fn -> tree(b) == content and mesh(b, :list) == mesh(a, :list) end)
    for name <- Map.keys(content), do: eventually_replicas(b, name, names(all))
    for {name, bytes} <- content, do: assert({:ok, ^bytes} = mesh(b, :read, [name]))
    # the same content is no conflict
    conflicts =
      for name <- Map.keys(content), {:ok, %{conflicts: 1}} <- [mesh(a, :stat, [name])], do: name

    assert conflicts == []

    kill(c)
    File.rm_rf!(c.base)
    File.mkdir!(c.base)
    c = restart(c)
    for other <- [a, b], do: join(c, other)
    assert :ok = call(c, Khepri, :join, [a.name])
    meet([a, b, c])
    Wait.until("all of it", fn -> tree(c) == content end)
    assert :ok = mesh(c, :write, ["1", "by another", [ack: :all]])
    for node <- [a, b, c], do: assert({:ok, "by another"} = mesh(node, :read, ["1"]))
  end

  test "nodes that wrote before they met: both stay, and one is shown until somebody chooses" do
    [a, b, c] = all = nodes(3)
    assert {:ok, %{version: v1}} = mesh(a, :write, ["same", "of a", [return: :info]])
    assert {:ok, %{version: v2}} = mesh(b, :write, ["same", "of b", [return: :info]])
    for node <- all, do: assert(:ok = mesh(node, :write, ["of/#{node.n}", "#{node.n}"]))
    # a name that is a directory elsewhere
    assert :ok = mesh(a, :write, ["d", "file"])
    assert :ok = mesh(b, :write, ["d/x", "below"])
    form(all)

    for node <- all do
      Wait.until("all names", fn ->
        mesh(node, :list) == {:ok, ["d", "d/x", "of/1", "of/2", "of/3", "same"]}
      end)

      Wait.until("both", fn -> match?({:ok, %{conflicts: 1}}, mesh(node, :stat, ["same"])) end)
      assert {:ok, %{version: ^v2}} = mesh(node, :stat, ["same"])
      assert {:ok, [%{version: ^v2}, %{version: ^v1}]} = mesh(node, :versions, ["same"])
      assert {:ok, "of b"} = mesh(node, :read, ["same"])

      for {v, content} <- [{v1, "of a"}, {v2, "of b"}],
          do: assert({:ok, content} == mesh(node, :read, ["same", [version: v]]))

      for n <- 1..3, do: assert({:ok, "#{n}"} == mesh(node, :read, ["of/#{n}"]))
      assert {:ok, "file"} = mesh(node, :read, ["d"])
      assert {:ok, "below"} = mesh(node, :read, ["d/x"])
    end

    # a write replaces what is shown; the other stays
    assert :ok = mesh(c, :write, ["same", "of c", [ack: :all]])

    for node <- all do
      assert {:ok, "of c"} = mesh(node, :read, ["same"])
      assert {:ok, [_, %{version: ^v1}]} = mesh(node, :versions, ["same"])
      assert {:error, :not_found} = mesh(node, :read, ["same", [version: v2]])
    end

    Wait.until("the content of it", fn -> mesh(c, :resolve, ["same", v1, [ack: :all]]) == :ok end)

    for node <- all do
      assert {:ok, "of a"} = mesh(node, :read, ["same"])
      assert File.read!(file(node, "same")) == "of a"
      assert {:ok, [_one]} = mesh(node, :versions, ["same"])
    end
  end

  test "what is kept of a conflict is let go of when it ends" do
    [a, b] = all = nodes(2)
    contents = for node <- all, do: {node, :crypto.strong_rand_bytes(100_000 * node.n)}
    for {node, content} <- contents, do: assert(:ok = mesh(node, :write, ["same", content]))
    form(all)
    {:ok, _} = Wait.until("both, on both", fn -> both(all, "same") end)
    assert {:ok, [_, %{version: loser}]} = mesh(b, :versions, ["same"])
    for node <- all, do: assert([_] = kept(node))
    # the file is there a moment before the index says so
    Wait.until("it", fn -> mesh(b, :resolve, ["same", loser, [ack: :all]]) == :ok end)
    assert {:ok, content} = mesh(a, :read, ["same"])
    assert {a, content} == hd(contents)
    for node <- all, do: Wait.until("nothing kept by #{node.name}", fn -> kept(node) == [] end)
  end

  defp both(nodes, name) do
    Enum.all?(
      nodes,
      &(match?({:ok, %{conflicts: 1}}, mesh(&1, :stat, [name])) and kept(&1) != [])
    ) and
      {:ok, name}
  end

  test "64 MiB in and out in less memory than that", %{seed: seed} do
    IO.puts("mesh files, 64 MiB: seed=#{seed}")
    [a, b, c] = all = cluster(3)
    # code is loaded, pools are filled
    assert :ok = call(a, MeshProcess, :collect, [app(), "warm", 4, seed])
    for node <- all, do: call(node, MeshProcess, :read, [app(), "warm"])
    digest = MeshProcess.digest(64, seed)

    for {fun, name} <- [collect: "collected", write: "written"] do
      before = for node <- all, do: begin_memory(node)
      assert :ok = call(a, MeshProcess, fun, [app(), name, 64, seed])
      for node <- all, do: assert(digest == call(node, MeshProcess, :read, [app(), name]))

      Wait.until("copies", fn ->
        Enum.all?([b, c], &match?({:ok, %{here: true}}, mesh(&1, :stat, [name])))
      end)

      grown = for {node, kib} <- Enum.zip(all, before), do: div(peak_kib(node) - kib, 1_024)
      IO.puts("mesh files, 64 MiB #{name}: MiB grown=#{inspect(grown, charlists: :as_lists)}")
      for mib <- grown, do: assert(mib < 64)
    end

    same_trees(all)
  end

  test "all write the same names at once: afterwards all say the same", %{seed: seed} do
    IO.puts("mesh files, all write the same names: seed=#{seed}")
    [a, b, _c] = all = cluster(3)
    names = for n <- 1..5, do: "n/#{n}"

    written =
      for(node <- all, writer <- 1..2, do: {node, writer})
      |> Enum.map(fn {node, writer} ->
        Task.async(fn -> write_same(node, names, 15, {seed, node.n, writer}) end)
      end)
      |> Task.await_many(120_000)
      |> Enum.concat()

    same_trees(all)
    told = for name <- names, into: %{}, do: {name, versions(a, name)}
    for node <- all, name <- names, do: assert(versions(node, name) == told[name])

    for {name, version, content} <- written, node <- all do
      expected = if version in told[name], do: {:ok, content}, else: {:error, :not_found}
      assert mesh(node, :read, [name, [version: version]]) == expected
    end

    # nobody knew the last one when they wrote, so nothing replaced it
    for name <- names do
      {^name, last, content} =
        written |> Enum.filter(&(elem(&1, 0) == name)) |> Enum.max_by(&elem(&1, 1))

      assert hd(told[name]) == last
      for node <- all, do: assert({:ok, content} == mesh(node, :read, [name]))
    end

    for name <- names do
      chosen = List.last(told[name])
      {:ok, content} = mesh(a, :read, [name, [version: chosen]])
      assert :ok = mesh(b, :resolve, [name, chosen, [ack: :all]])
      for node <- all, do: assert({:ok, content} == mesh(node, :read, [name]))
    end

    same_trees(all)
    for node <- all, name <- names, do: assert([_] = versions(node, name))
  end

  defp versions(node, name) do
    {:ok, versions} = mesh(node, :versions, [name])
    Enum.map(versions, & &1.version)
  end

  defp write_same(node, names, rounds, seed) do
    :rand.seed(:exsss, seed)

    for round <- 1..rounds, name <- Enum.shuffle(names) do
      content = inspect({node.n, seed, round}) <> :rand.bytes(:rand.uniform(400_000))
      {:ok, %{version: version}} = mesh(node, :write, [name, content, [return: :info]])
      {name, version, content}
    end
  end
end
