defmodule MaculaStorage.Cluster.ClientTest do
  @moduledoc """
  A node that is no member of the cluster and asks those who are: all of the API that needs no copy of its own.
  """
  use MaculaStorage.Case, async: false

  import MaculaStorage.BeamNode
  alias MaculaStorage.{Authority, Error, Khepri, Wait}
  alias MaculaStorage.Cluster.ClientProcess

  defp member(n, port, config),
    do: start_all([{n, port, unique_dir("member#{n}")}], config) |> hd()

  defp on(node, fun, args), do: call(node, ClientProcess, fun, args)

  test "writes, reads, transactions, leases, watches and caches of one that is no member" do
    port = port()
    [p1, p2] = [port(), port()]
    plain = [state_plain: true]
    a = member(1, port, plain ++ [state_listen: "127.0.0.1:#{p1}"])
    b = member(2, port, plain ++ [state_listen: "127.0.0.1:#{p2}"])
    :ok = call(a, Khepri, :start, [[a.name, b.name]])
    members = [{a.name, "127.0.0.1:#{p1}"}, {b.name, "127.0.0.1:#{p2}"}]
    client = member(3, port, plain ++ [state_members: members])
    khepri = &call(client, Khepri, &1, &2)

    assert :ok = khepri.(:put, [[:k, :x], %{any: "term"}])
    assert {:ok, %{any: "term"}} = khepri.(:get, [[:k, :x]])
    assert {:ok, %{any: "term"}} = call(b, Khepri, :get, [[:k, :x]])

    for how <- [:local, {:stale, 60_000}],
        do: assert({:ok, _} = khepri.(:get, [[:k, :x], [consistency: how]]))

    assert {:error, :exists} = khepri.(:create, [[:k, :x], 1])
    assert {:ok, 1} = khepri.(:count, [[:k, :*]])
    assert {:ok, [:x]} = khepri.(:list, [[:k]])
    assert {:ok, %{[:k, :x] => %{any: "term"}}} = khepri.(:get_many, [[:k, :*]])

    counts = for _ <- 1..4, do: Task.async(fn -> on(client, :counted, [[:n], 5]) end)
    assert Enum.uniq(Task.await_many(counts, 60_000)) == [:ok]
    assert {:ok, 20} = call(a, Khepri, :get, [[:n]])

    assert :normal = on(client, :lease_of_one_who_dies, [[:k, :leased]])

    Wait.until("it is seen", fn ->
      call(a, Khepri, :get, [[:k, :leased]]) == {:error, :not_found}
    end)

    put = for n <- 1..20, do: {[:w, n], n}
    assert on(client, :watched, [[:w, :*], put]) == put
    assert {:ok, 7} = on(client, :cached, [[:w], [:w, 7]])
    assert :ok = call(b, Khepri, :put, [[:w, 7], :new])
    cached = [[:w, 7], [consistency: :cached]]
    Wait.until("it is seen", fn -> khepri.(:get, cached) == {:ok, :new} end)

    # what needs a copy is told whom to ask
    assert {:error, %Error{kind: :invalid} = error} = khepri.(:members, [])
    assert error.message =~ "client"
    # one of them is gone: no majority, and the client hears of it by its deadline
    kill(b)
    assert {:error, failure} = khepri.(:put, [[:k, :x], 1, [timeout: 2_000]])
    assert failure in [:no_quorum, :timeout]
    assert {:ok, _} = khepri.(:get, [[:k, :x], [consistency: :local]])
    [b] = restart_all([b])
    assert :ok = call(b, Khepri, :start, [[a.name, b.name]])
    Wait.until("it is seen", fn -> khepri.(:put, [[:k, :x], 2]) == :ok end)
    assert {:ok, 2} = khepri.(:get, [[:k, :x]])
  end

  test "by its certificate, and nobody without one" do
    port = port()
    p1 = port()
    authority = Path.join(unique_dir("authority"), "authority")
    {:ok, _} = Authority.create(authority)
    [m, c] = for n <- ["member", "client"], do: Path.join(unique_dir("certificates"), n)
    {:ok, _} = Authority.issue(authority, name(1), out: m, days: 1)
    {:ok, _} = Authority.issue(authority, "console", out: c, days: 1, role: :client)
    a = member(1, port, state_listen: "127.0.0.1:#{p1}", state_certificates: m)
    :ok = call(a, Khepri, :put, [[:k], 1])
    members = [{name(1), "127.0.0.1:#{p1}"}]
    client = member(2, port, state_members: members, state_certificates: c)
    assert {:ok, 1} = call(client, Khepri, :get, [[:k]])
    none = member(3, port, state_members: members)
    assert {:error, %Error{kind: :invalid} = error} = call(none, Khepri, :get, [[:k]])
    assert Exception.message(error) =~ "certificates"
  end
end
