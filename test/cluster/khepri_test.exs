defmodule MaculaStorage.Cluster.KhepriTest do
  @moduledoc """
  The replicated state on several real nodes: formed from any of them, killed, wiped, replaced.
  """
  use MaculaStorage.Case, async: false

  import MaculaStorage.BeamNode
  alias MaculaStorage.{Authority, Error, Khepri, Wait}

  @config [state_plain: true]

  defp nodes(count, config \\ @config) do
    port = port()
    start_all(for(n <- 1..count, do: {n, port, unique_dir("khepri#{n}")}), config)
  end

  defp names(nodes), do: Enum.map(nodes, & &1.name)
  defp khepri(node, fun, args \\ []), do: call(node, Khepri, fun, args)

  defp on_each(nodes, fun, args) do
    nodes
    |> Enum.map(&Task.async(fn -> khepri(&1, fun, args) end))
    |> Task.await_many(120_000)
  end

  defp voters(node) do
    {:ok, members} = khepri(node, :members)
    for %{standing: :voter, node: name} <- members, do: name
  end

  test "all start at once: one cluster, whoever is asked" do
    [a, b, c] = all = nodes(3)
    assert Enum.uniq(on_each(all, :start, [names(all)])) == [:ok]
    for node <- all, do: assert(voters(node) == names(all))

    assert [_one] =
             Enum.uniq(for node <- all, {:ok, status} = khepri(node, :status), do: status.cluster)

    for node <- all, do: assert(:ok = khepri(node, :put, [[:k, node.name], 1]))
    for node <- all, other <- all, do: assert({:ok, 1} = khepri(node, :get, [[:k, other.name]]))
    # again is fine
    assert :ok = khepri(b, :start, [names(all)])

    # one dies, and comes back at another port; all die, and come back at others
    kill(a)
    assert :ok = khepri(b, :put, [[:k, :without], 2])
    [a] = restart_all([a])
    assert :ok = khepri(a, :start, [names(all)])
    assert {:ok, 2} = khepri(a, :get, [[:k, :without]])
    Enum.each([a, b, c], &kill/1)
    all = restart_all([a, b, c])
    assert Enum.uniq(on_each(all, :start, [names(all)])) == [:ok]
    for node <- all, do: assert({:ok, 2} = khepri(node, :get, [[:k, :without]]))
  end

  # The second of two first calls met the first one's listener on a port that is configured, and failed.
  test "first calls come at once: it listens once" do
    port = port()
    listen = [state_listen: "127.0.0.1:#{port()}"] ++ @config

    [a] = start_all([{1, port, unique_dir("khepri1")}], listen)

    for _ <- 1..10 do
      puts = for i <- 1..32, do: [[:k, i], i]
      assert [:ok] = a |> call_at_once(Khepri, :put, puts) |> Enum.uniq()
      :ok = khepri(a, :close)
    end
  end

  test "one is found at another address than it listens at" do
    [port, p1, p2] = for _ <- 1..3, do: port()

    [a] =
      start_all([{1, port, unique_dir("khepri1")}], @config ++ [state_listen: "127.0.0.1:#{p1}"])

    away = [state_listen: "127.0.0.1:#{p2}", state_advertise: "localhost:#{p2}"]
    [b] = start_all([{2, port, unique_dir("khepri2")}], @config ++ away)
    join(a, b)
    assert :ok = khepri(a, :start, [names([a, b])])
    {:ok, members} = khepri(a, :members)
    assert [_, "localhost:" <> _] = members |> Enum.map(& &1.address) |> Enum.sort()
    assert :ok = khepri(b, :put, [[:k, :found], 1])
    assert {:ok, 1} = khepri(a, :get, [[:k, :found]])
  end

  test "state of several is not merged: one is kept, the others' is set aside" do
    [a, b] = all = nodes(2)
    for node <- all, do: assert(:ok = khepri(node, :put, [[:whose], node.name]))
    assert {:error, %Error{kind: :conflict} = error} = khepri(a, :start, [names(all)])
    for node <- all, do: assert(error.message =~ to_string(node.name))
    for node <- all, do: assert({:ok, _} = khepri(node, :get, [[:whose]]))
    assert :ok = khepri(a, :start, [names(all), [keep: b.name]])
    for node <- all, do: assert({:ok, b.name} == khepri(node, :get, [[:whose]]))
    assert [_kept] = Path.wildcard(Path.join(a.base, "state/raft-set-aside-*"))
    assert [] = Path.wildcard(Path.join(b.base, "state/raft-set-aside-*"))
  end

  test "members join, lead, leave and are replaced; a wiped one is another" do
    [a, b, c, d] = nodes(4)
    for other <- [b, c, d], do: join(a, other)
    assert :ok = khepri(a, :put, [[:k], 1])
    assert :ok = khepri(b, :join, [a.name])
    # where distribution does not reach, by a text
    {:ok, text} = khepri(a, :invite)
    assert :ok = khepri(c, :join, [text])
    assert {:error, %Error{}} = khepri(d, :join, [text])
    assert voters(c) == names([a, b, c])
    assert {:ok, 1} = khepri(c, :get, [[:k]])

    for node <- [b, c] do
      assert :ok = khepri(a, :transfer_leader, [node.name])
      assert {:ok, node.name} == khepri(a, :wait_for_leader)
    end

    # the disk of one is lost
    {:ok, before} = khepri(a, :members)
    kill(b)
    File.rm_rf!(Path.join(b.base, "state"))
    [b] = restart_all([b])
    join(a, b)
    assert :ok = khepri(b, :join, [a.name])
    {:ok, now} = khepri(a, :members)
    number = fn members -> Enum.find(members, &(&1.node == b.name)).number end
    assert number.(now) != number.(before) and length(now) == 3
    assert {:ok, 1} = khepri(b, :get, [[:k]])

    # one is dead, another takes its place; one leaves, the leader itself
    kill(c)
    assert :ok = khepri(a, :replace, [c.name, d.name])
    assert voters(a) == names([a, b, d])
    assert {:ok, leader} = khepri(a, :wait_for_leader)
    leading = Enum.find([a, b, d], &(&1.name == leader))
    [one, other] = [a, b, d] -- [leading]
    assert :ok = khepri(leading, :leave)
    assert {:error, :no_quorum} = khepri(leading, :put, [[:k], 3, [timeout: 200]])
    assert {:error, %Error{}} = khepri(leading, :start, [[leading.name]])
    assert :ok = khepri(leading, :reset)
    assert :ok = khepri(leading, :start, [[leading.name]])
    assert {:error, :not_found} = khepri(leading, :get, [[:k]])
    Wait.until("two voters", fn -> voters(one) == Enum.sort(names([one, other])) end)
    assert :ok = khepri(one, :put, [[:k], 2])
    assert {:ok, 2} = khepri(other, :get, [[:k]])
  end

  test "without certificates nobody is spoken to, with another's neither" do
    [a, b] = all = nodes(2, [])
    join(a, b)
    assert {:error, %Error{kind: kind} = error} = khepri(a, :start, [names(all)])
    assert kind in [:invalid, :unreachable]
    assert Exception.message(error) =~ "certificates"
    assert Exception.message(error) =~ "macula.cluster.issue"
    assert :ok = khepri(a, :put, [[:k], 1])

    [ca, other] = for _ <- 1..2, do: Path.join(unique_dir("authority"), "ca")
    for dir <- [ca, other], do: assert({:ok, _} = Authority.create(dir))
    out = fn node -> Path.join(node.base, "state/certificates") end
    assert {:ok, _} = Authority.issue(ca, a.name, out: out.(a))
    assert {:ok, _} = Authority.issue(other, b.name, out: out.(b))
    assert {:error, %Error{}} = khepri(a, :start, [names(all)])

    File.rm_rf!(out.(b))
    assert {:ok, _} = Authority.issue(ca, b.name, out: out.(b))
    [b] = [kill(b)] && restart_all([b])
    join(a, b)
    assert :ok = khepri(a, :start, [names(all)])
    assert {:ok, 1} = khepri(b, :get, [[:k]])
  end
end
