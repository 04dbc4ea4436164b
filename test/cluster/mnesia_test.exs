defmodule MaculaStorage.Cluster.MnesiaTest do
  @moduledoc """
  Mnesia on several real nodes: set up together, killed, wiped, and parted from each other while both write.
  """
  use MaculaStorage.Case, async: false

  import MaculaStorage.{BeamNode, MnesiaNode}
  alias MaculaStorage.{Error, Mnesia, MnesiaListener, Wait}
  alias MaculaStorage.Mnesia.SetAside

  @app "shared"

  defp nodes(count) do
    port = port()
    start_all(for n <- 1..count, do: {n, port, unique_dir("mnesia#{n}")})
  end

  defp names(nodes), do: Enum.map(nodes, & &1.name)

  # On all of them at the same time.
  defp on_each(nodes, fun, args) do
    nodes
    |> Enum.map(&Task.async(fn -> mnesia(&1, fun, args) end))
    |> Task.await_many(120_000)
  end

  defp together(nodes) do
    assert Enum.uniq(on_each(nodes, :setup, [names(nodes)])) == [:ok]
    assert Enum.uniq(on_each(nodes, :create_app_table, [@app])) == [:ok]
    nodes
  end

  defp set_aside(dir) do
    {:ok, entries} =
      Mnesia.backup_fold(@app, Path.join(dir, "tables.backup"), %{}, fn {key, value}, map ->
        Map.put(map, key, value)
      end)

    entries
  end

  test "three set each other up at the same time, lose power, and lose a disk" do
    [a, b, c] = all = together(nodes(3))
    for node <- all, do: assert(:ok = mnesia(node, :put, [@app, node.name, 1]))

    for node <- all do
      assert mnesia(node, :status).running_nodes == names(all)
      for other <- all, do: assert({:ok, 1} = mnesia(node, :get, [@app, other.name]))
      assert File.regular?(Path.join(node.base, "state/mnesia/schema.DAT"))
    end

    # all at once, and only one of them comes back: it alone has everything
    Enum.each(all, &kill/1)
    b = restart(b)

    assert {:error, %Error{kind: :timeout} = error} =
             mnesia(b, :setup, [names(all), [timeout: 500]])

    assert error.message =~ "shared_data"
    assert error.message =~ to_string(a.name)
    [a, c] = restart_all([a, c])
    assert [:ok, :ok, :ok] = on_each([a, b, c], :setup, [names(all)])

    for node <- [a, b, c],
        other <- all,
        do: assert({:ok, 1} = mnesia(node, :get, [@app, other.name]))

    # power lost on all, and the disk of the last one; a is not the last of the others
    :ok = mnesia(a, :put, [@app, :k, 1])
    kill(a)
    Wait.until("two", fn -> mnesia(c, :status).running_nodes == names([b, c]) end)
    :ok = mnesia(b, :put, [@app, :k, 2])
    Enum.each([b, c], &kill/1)
    File.rm_rf!(Path.join(b.base, "state"))
    all = restart_all([a, b, c])
    assert [:ok, :ok, :ok] = on_each(all, :setup, [names(all)])
    for node <- all, do: assert({:ok, 2} = mnesia(node, :get, [@app, :k]))
  end

  test "both halves of a split write; the way out keeps what the loser had" do
    [a, b] = together(nodes(2))
    for node <- [a, b], do: {:ok, _} = call(node, MnesiaListener, :start, [[]])
    :ok = mnesia(a, :put, [@app, :before, 1])

    part(a, b)
    :ok = mnesia(a, :put, [@app, :both, :of_a])
    :ok = mnesia(b, :put, [@app, :both, :of_b])
    :ok = mnesia(b, :put, [@app, :only, :of_b])
    join(a, b)
    for {one, other} <- [{a, b}, {b, a}], do: until_split(one, other)

    for {one, other} <- [{a, b}, {b, a}] do
      Wait.until("the event on #{one.name}", fn ->
        Enum.any?(
          call(one, MnesiaListener, :events, []),
          &match?({:inconsistent_database, name, _} when name == other.name, &1)
        )
      end)
    end

    # nothing is taken over when the loser cannot set aside
    in_the_way = Path.join(b.base, "state/mnesia-set-aside")
    File.write!(in_the_way, "")
    assert {:error, %Error{} = error} = mnesia(a, :resolve, [a.name])
    assert error.message =~ in_the_way
    File.rm!(in_the_way)
    assert {:ok, :of_b} = mnesia(b, :get, [@app, :both])
    assert :ok = mnesia(b, :put, [@app, :later, :of_b])

    # from the one that gives way
    assert {:ok, set_aside} = mnesia(b, :resolve, [a.name])
    assert [{loser, dir}] = Map.to_list(set_aside)
    assert loser == b.name
    assert String.starts_with?(dir, Path.join(b.base, "state/mnesia-set-aside/"))
    assert set_aside(dir) == %{before: 1, both: :of_b, only: :of_b, later: :of_b}
    assert File.regular?(Path.join(dir, "mnesia/schema.DAT"))

    for node <- [a, b] do
      assert {:ok, :of_a} = mnesia(node, :get, [@app, :both])
      assert {:error, :not_found} = mnesia(node, :get, [@app, :only])
      assert mnesia(node, :status).inconsistent == []
      assert mnesia(node, :status).running_nodes == names([a, b])
    end

    for {one, other} <- [{a, b}, {b, a}] do
      Wait.until("healed on #{one.name}", fn ->
        {:consistent, other.name} in call(one, MnesiaListener, :events, [])
      end)

      # told once: who gives way starts with a master, and so as no half of a split
      events = call(one, MnesiaListener, :events, [])
      assert [_once] = for({:inconsistent_database, _, _} = event <- events, do: event)
    end

    assert {:ok, %{}} = mnesia(a, :resolve, [a.name])
    :ok = mnesia(b, :put, [@app, :after, 1])
    assert {:ok, 1} = mnesia(a, :get, [@app, :after])

    # and when whoever resolves dies half way
    part(a, b)
    for node <- [a, b], do: :ok = mnesia(node, :put, [@app, :half, node.name])
    join(a, b)
    until_split(b, a)
    {:ok, dir} = call(b, SetAside, :save, ["half-way"])
    :ok = call(b, SetAside, :stop_and_yield, [dir, [a.name]])
    assert :ok = mnesia(b, :setup, [names([a, b])])
    for node <- [a, b], do: assert({:ok, a.name} == mnesia(node, :get, [@app, :half]))
    assert set_aside(dir).half == b.name

    # the master was one for once: the loser, the last one that was there, needs nobody later
    kill(a)
    Wait.until("b alone", fn -> mnesia(b, :status).running_nodes == [b.name] end)
    :ok = mnesia(b, :put, [@app, :alone, 1])
    kill(b)
    b = restart(b)
    assert :ok = mnesia(b, :setup, [[b.name]])
    assert {:ok, 1} = mnesia(b, :get, [@app, :alone])
  end

  test "of three, two give way to one, or one to two; with a majority, one alone does not write" do
    [a, b, c] = together(nodes(3))
    assert :ok = mnesia(a, :create_app_table, ["whole", [majority: true]])

    for {round, master, losers} <- [{1, a, [b, c]}, {2, b, [a]}] do
      for other <- [b, c], do: part(a, other)
      for node <- [a, b], do: :ok = mnesia(node, :put, [@app, {round, node.name}, 1])
      assert {:ok, 1} = mnesia(c, :get, [@app, {round, b.name}])
      assert {:error, {:aborted, {:no_majority, _}}} = mnesia(a, :put, ["whole", round, 1])
      assert :ok = mnesia(b, :put, ["whole", round, 1])
      assert {:ok, 1} = mnesia(c, :get, ["whole", round])
      for other <- [b, c], do: join(a, other)
      for other <- [b, c], do: until_split(other, a)

      assert {:ok, set_aside} = mnesia(c, :resolve, [master.name])
      assert Enum.sort(Map.keys(set_aside)) == Enum.sort(names(losers))

      for node <- [a, b, c] do
        assert mnesia(node, :status).running_nodes == names([a, b, c])
        lost = if master == a, do: b, else: a
        assert {:ok, 1} = mnesia(node, :get, [@app, {round, master.name}])
        assert {:error, :not_found} = mnesia(node, :get, [@app, {round, lost.name}])
      end
    end
  end

  test "an acknowledged put survives SIGKILL at once; a node that was away gets what it missed" do
    [a, b] = together(nodes(2))
    for n <- 1..50, do: :ok = mnesia(a, :put, [@app, n, n])
    kill(b)
    Wait.until("a alone", fn -> mnesia(a, :status).running_nodes == [a.name] end)
    for n <- 51..100, do: :ok = mnesia(a, :put, [@app, n, n])
    kill(a)
    a = restart(a)
    assert :ok = mnesia(a, :setup, [names([a, b])])
    for n <- 1..100, do: assert({:ok, ^n} = mnesia(a, :get, [@app, n]))
    b = restart(b)
    assert :ok = mnesia(b, :setup, [names([a, b])])
    assert {:ok, keys} = mnesia(b, :list_keys, [@app])
    assert Enum.sort(keys) == Enum.to_list(1..100)
  end

  test "a node joins, one that lost its disk comes back, and gets its copies" do
    [a, b, c] = nodes(3)
    together([a, b])
    :ok = mnesia(a, :put, [@app, :k, 1])
    assert :ok = mnesia(c, :setup, [names([a, b, c])])
    assert :ok = mnesia(c, :create_app_table, [@app])
    assert c.name in call(c, :mnesia, :table_info, [:shared_data, :disc_copies])

    # what only it holds is not forgotten by itself
    :ok = mnesia(a, :create_app_table, ["only_b", [replicas: [b.name]]])
    kill(b)
    File.rm_rf!(Path.join(b.base, "state"))
    b = restart(b)
    assert {:error, %Error{kind: :conflict} = error} = mnesia(b, :setup, [names([a, b, c])])
    assert error.message =~ "[:only_b_data]"
    {:atomic, :ok} = call(a, :mnesia, :del_table_copy, [:schema, b.name])
    assert :ok = mnesia(b, :setup, [names([a, b, c])])
    # its tables were forgotten with it
    assert :ok = mnesia(b, :create_app_table, [@app])

    kill(b)
    File.rm_rf!(Path.join(b.base, "state"))
    b = restart(b)
    assert :ok = mnesia(b, :setup, [names([a, b, c])])
    assert b.name in call(b, :mnesia, :table_info, [:shared_data, :disc_copies])
    assert {:ok, 1} = mnesia(b, :get, [@app, :k])

    # alone, from its own disk
    Enum.each([a, c], &kill/1)
    Wait.until("b alone", fn -> mnesia(b, :status).running_nodes == [b.name] end)
    kill(b)
    b = restart(b)
    assert :ok = mnesia(b, :setup, [[b.name]])
    assert {:ok, 1} = mnesia(b, :get, [@app, :k])
  end

  test "what setup refuses stays as it was" do
    [a, b] = nodes(2)
    absent = name(9)

    assert {:error, %Error{kind: :unreachable} = error} =
             mnesia(a, :setup, [[a.name, absent], [timeout: 500]])

    assert error.message =~ to_string(absent)
    refute File.exists?(Path.join(a.base, "state/mnesia/schema.DAT"))

    # two clusters
    for node <- [a, b] do
      :ok = mnesia(node, :setup, [[node.name]])
      :ok = mnesia(node, :create_app_table, [@app])
      :ok = mnesia(node, :put, [@app, :mine, node.name])
    end

    assert {:error, %Error{kind: :conflict} = error} = mnesia(a, :setup, [names([a, b])])
    assert error.message =~ to_string(b.name)

    for node <- [a, b] do
      assert mnesia(node, :status).nodes == [node.name]
      assert {:ok, name} = mnesia(node, :get, [@app, :mine])
      assert name == node.name
    end

    # a node that got another name
    kill(b)
    [renamed] = start_all([{5, b.port, b.base}])
    assert {:error, %Error{kind: :conflict} = error} = mnesia(renamed, :setup, [[renamed.name]])
    assert error.message =~ to_string(b.name)

    # a mnesia of someone else's
    [c, d] = start_all(for n <- [3, 4], do: {n, a.port, unique_dir("mnesia#{n}")})
    elsewhere = Path.join(c.base, "elsewhere")
    call(c, :application, :load, [:mnesia])
    :ok = call(c, :application, :set_env, [:mnesia, :dir, to_charlist(elsewhere)])
    assert {:error, %Error{kind: :conflict} = error} = mnesia(c, :setup, [[c.name]])
    assert error.message =~ elsewhere
    :ok = call(c, :mnesia, :start, [])
    assert {:error, %Error{kind: :conflict} = error} = mnesia(c, :setup, [[c.name]])
    assert error.message =~ "runs in another directory"
    assert {:error, %Error{kind: :conflict}} = mnesia(a, :setup, [names([a, c])])
    assert call(c, :mnesia, :system_info, [:is_running]) == :yes
    assert call(c, :mnesia, :system_info, [:directory]) == to_charlist(elsewhere)

    # our application is not there
    :ok = call(d, Application, :stop, [:macula_storage])

    assert {:error, %Error{kind: :closed} = error} =
             mnesia(a, :setup, [names([a, d]), [timeout: 500]])

    assert error.message =~ to_string(d.name)
  end
end
