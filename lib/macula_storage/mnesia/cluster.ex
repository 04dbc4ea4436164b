defmodule MaculaStorage.Mnesia.Cluster do
  @moduledoc false
  # Makes several nodes one mnesia, and brings the halves of a split together again.
  #
  # Invariant: one such work at a time in the cluster (a lock of `:global` on all its nodes that are
  # connected), and each looks at every node before it changes the first.

  require Logger

  alias MaculaStorage.Error
  alias MaculaStorage.Mnesia.{Local, SetAside, Table}

  @again_ms 200
  @lock_again_ms 50

  @doc false
  @spec setup([node], pos_integer) :: :ok | {:error, term}
  def setup(nodes, timeout_ms) do
    deadline = now() + timeout_ms

    with {:ok, known} <- until_there(nodes, deadline) do
      # outside of the lock: a table may wait for a node that wants to be set up too
      first_error(known, &on(&1, Local, :ready, [left(deadline)], left(deadline) + 5_000))
    end
  end

  # Machines that start together are not there at the same moment.
  defp until_there(nodes, deadline) do
    connect(nodes)

    case locked(nodes, deadline, fn -> bring_together(nodes) end) do
      {:error, %Error{kind: kind}} = error when kind in [:unreachable, :closed, :busy] ->
        if now() + @again_ms < deadline do
          pause(@again_ms)
          until_there(nodes, deadline)
        else
          error
        end

      result ->
        result
    end
  end

  # Answers the nodes whose tables are to be waited for.
  defp bring_together(nodes) do
    with {:ok, mine} <- Local.prepare() do
      if mine.schema and nodes -- mine.nodes == [],
        do: start_known(nodes),
        else: form(nodes)
    end
  end

  # All are members already. Those that are away come by themselves, when they are set up; also those whose
  # application does not run yet.
  defp start_known(nodes) do
    here = Enum.filter(nodes, &(connected?(&1) and on(&1, Local, :there?, []) == true))

    with {:ok, states} <- look(here) do
      case for {node, %{schema: false}} <- states, do: node do
        [] -> with :ok <- start(here), do: {:ok, [node()]}
        _wiped -> form(here)
      end
    end
  end

  defp form(nodes) do
    with :ok <- all_connected(nodes), {:ok, states} <- look(nodes), :ok <- none_without(states) do
      case Enum.filter(states, fn {_node, state} -> state.schema end) do
        [] -> create(nodes)
        founded -> join(states, founded)
      end
    end
  end

  # What such a mnesia holds is in memory only, and not ours to end.
  defp none_without(states) do
    case for {node, %{running: true, schema: false}} <- states, do: node do
      [] ->
        :ok

      running ->
        error(
          :conflict,
          "mnesia runs without a schema on disk nodes=#{inspect(running)}",
          "stop it there; setup starts it"
        )
    end
  end

  defp create(nodes) do
    case :mnesia.create_schema(nodes) do
      :ok ->
        with :ok <- first_error(nodes, &on(&1, Local, :sync, [])),
             :ok <- start(nodes),
             do: {:ok, nodes}

      {:error, reason} ->
        error(:io, "mnesia made no schema reason=#{inspect(reason)}")
    end
  end

  defp join(states, founded) do
    [{first, %{nodes: members}} | _] = founded
    strangers = for {node, state} <- founded, state.nodes != members, do: node

    if strangers != [] do
      error(
        :conflict,
        "these nodes hold data of different clusters, and nothing was changed " <>
          "cluster_of_#{first}=#{inspect(members)} others=#{inspect(strangers)}",
        "set aside the state/mnesia directory of those that shall join, and set up again"
      )
    else
      here = for {node, _} <- founded, do: node
      new = for {node, %{schema: false}} <- states, do: node

      with :ok <- start(here), :ok <- first_error(new, &add(&1, here, members)) do
        {:ok, here ++ new}
      end
    end
  end

  # A member that lost its disk: what the others know of it is taken back first, and its copies made anew.
  defp add(node, [member | _] = here, members) do
    with {:ok, tables} <- forget(node, here, node in members),
         :ok <- on(node, Local, :start, []),
         {:ok, _} <- changed(on(member, :mnesia, :change_config, [:extra_db_nodes, [node]])),
         :ok <- copy(member, :change_table_copy_type, [:schema, node, :disc_copies]),
         :ok <- first_error(tables, &add_table(&1, node, member)) do
      first_error([node | here], &on(&1, Local, :sync, []))
    end
  end

  defp forget(_node, _here, false), do: {:ok, []}

  defp forget(node, [member | _] = here, true) do
    case on(member, __MODULE__, :tables_of, [node]) do
      {:error, _} = error ->
        error

      {tables, []} ->
        with :ok <- first_error(tables, &loaded(&1, node, here)),
             :ok <- copy(member, :del_table_copy, [:schema, node]),
             do: {:ok, tables}

      {_tables, only} ->
        error(
          :conflict,
          "a member has no schema on its disk, and held the only copy of tables " <>
            "node=#{node} tables=#{inspect(only)}",
          "bring its state/mnesia back; if that is lost, so are they: " <>
            "`:mnesia.del_table_copy(:schema, node)` on another member forgets them"
        )
    end
  end

  # A table that nobody reads waits for the one that lost its disk, in case that one was the last that had it: it
  # is not any more. The last of the others is who none of them saw go.
  defp loaded({table, _storage}, node, [member | _] = here) do
    with true <- on(member, :mnesia, :table_info, [table, :where_to_read]) == :nowhere,
         [_ | _] = holders <- on(member, Local, :copies, [table]) -- [node],
         [] <- holders -- here do
      last =
        Enum.find(holders, hd(holders), fn one -> not Enum.any?(holders, &saw_down?(&1, one)) end)

      Logger.warning(
        "mnesia: table=#{table} is loaded without node=#{node}, which lost it, from node=#{last}"
      )

      forced(on(last, :mnesia, :force_load_table, [table], :infinity))
    else
      false -> :ok
      [_ | _] = away -> unreachable(away, {:needed_to_load, table})
      {:error, _} = error -> error
    end
  end

  defp saw_down?(node, other),
    do: node != other and on(node, :mnesia_recover, :has_mnesia_down, [other]) == true

  defp forced(:yes), do: :ok
  defp forced({:error, %Error{}} = error), do: error
  defp forced({:error, reason}), do: {:error, {:aborted, reason}}

  defp add_table({table, storage}, node, member),
    do: copy(member, :add_table_copy, [table, node, storage])

  @doc "What a node held, as this one knows it: tables that others hold too, and those that none does."
  @spec tables_of(node) :: {[{atom, atom}], [atom]}
  def tables_of(node) do
    held =
      for table <- :mnesia.system_info(:tables) -- [:schema],
          storage <- Table.storages(),
          node in :mnesia.table_info(table, storage),
          do: {table, storage}

    {only, others} = Enum.split_with(held, fn {table, _} -> Local.copies(table) == [node] end)
    {others, for({table, storage} <- only, storage != :ram_copies, do: table)}
  end

  defp copy(member, fun, args) do
    case on(member, :mnesia, fun, args, :infinity) do
      {:atomic, :ok} -> :ok
      {:aborted, reason} -> {:error, {:aborted, reason}}
      {:error, _} = error -> error
    end
  end

  defp changed({:ok, [_ | _]} = joined), do: joined
  defp changed({:ok, []}), do: error(:io, "the node that joins did not connect to mnesia")
  defp changed({:error, %Error{}} = error), do: error

  defp changed({:error, reason}),
    do: error(:io, "the node cannot join reason=#{inspect(reason)}")

  @doc "See `MaculaStorage.Mnesia.resolve/2`."
  @spec resolve(node, pos_integer) :: {:ok, %{node => Path.t()}} | {:error, term}
  def resolve(master, timeout_ms) do
    connect([master])

    with :ok <- all_connected([master]),
         {:ok, members, _winners} <- sides(master) do
      connect(members)
      # the sides again: someone else may have had the lock before
      locked(members, now() + timeout_ms, fn ->
        with {:ok, members, winners} <- sides(master),
             do: yield(losers(members -- winners), winners, timeout_ms)
      end)
    end
  end

  defp sides(master) do
    case on(master, :mnesia, :system_info, [:is_running]) do
      :yes ->
        {:ok, on(master, :mnesia, :system_info, [:db_nodes]),
         on(master, :mnesia, :system_info, [:running_db_nodes])}

      {:error, _} = error ->
        error

      _no ->
        error(:invalid, "mnesia does not run on the node that shall be right node=#{master}")
    end
  end

  defp losers(nodes) do
    Enum.filter(nodes, fn node ->
      connected?(node) and on(node, :mnesia, :system_info, [:is_running]) == :yes
    end)
  end

  # Step by step on all of them, so that none starts beside one that still runs with the other data.
  defp yield(losers, winners, timeout_ms) do
    stamp = SetAside.stamp()

    with {:ok, paths} <- each(losers, SetAside, :save, [stamp], :infinity),
         :ok <- stop_all(losers, Map.new(paths), winners),
         :ok <- first_error(losers, &on(&1, SetAside, :rejoin, [timeout_ms], timeout_ms + 60_000)) do
      {:ok, Map.new(paths)}
    end
  end

  defp stop_all(losers, paths, winners) do
    stopped =
      first_error(losers, fn loser ->
        on(loser, SetAside, :stop_and_yield, [paths[loser], winners], :infinity)
      end)

    with {:error, _} = error <- stopped do
      # as they were: apart from each other, and serving
      Enum.each(losers, &on(&1, SetAside, :take_back, []))
      error
    end
  end

  defp start(nodes), do: first_error(nodes, &on(&1, Local, :start, [], 60_000))

  defp look(nodes), do: each(nodes, Local, :prepare, [], 60_000, fn {:ok, state} -> state end)

  defp each(nodes, module, fun, args, timeout_ms, of \\ fn {:ok, value} -> value end) do
    Enum.reduce_while(nodes, {:ok, []}, fn node, {:ok, done} ->
      case on(node, module, fun, args, timeout_ms) do
        {:ok, _} = answer -> {:cont, {:ok, [{node, of.(answer)} | done]}}
        {:error, _} = error -> {:halt, error}
      end
    end)
    |> in_order()
  end

  defp in_order({:ok, done}), do: {:ok, Enum.reverse(done)}
  defp in_order(error), do: error

  defp first_error(list, fun) do
    Enum.reduce_while(list, :ok, fn one, :ok ->
      case fun.(one) do
        :ok -> {:cont, :ok}
        {:error, _} = error -> {:halt, error}
      end
    end)
  end

  @doc "Runs a function on a node; that it cannot be reached, or failed there, is an error with a name."
  @spec on(node, module, atom, list, timeout) :: term
  def on(node, module, fun, args, timeout_ms \\ 60_000)
  def on(node, module, fun, args, _timeout_ms) when node == node(), do: apply(module, fun, args)

  def on(node, module, fun, args, timeout_ms) do
    :erpc.call(node, module, fun, args, timeout_ms)
  catch
    :error, {:erpc, :timeout} ->
      {:error, :timeout}

    :error, {:erpc, reason} ->
      unreachable([node], reason)

    kind, reason ->
      error(:internal, "failed there node=#{node} #{kind}=#{inspect(reason, limit: 20)}")
  end

  # `:global.trans/3` would do, if it waited less than seconds between its tries.
  defp locked(nodes, deadline, fun) do
    id = {__MODULE__, self()}
    here = Enum.uniq([node() | Enum.filter(nodes, &connected?/1)])

    cond do
      :global.set_lock(id, here, 0) ->
        try do
          fun.()
        after
          :global.del_lock(id, here)
        end

      now() > deadline ->
        error(:timeout, "another node sets up or resolves, and does not end")

      true ->
        pause(@lock_again_ms)
        locked(nodes, deadline, fun)
    end
  end

  defp pause(ms) do
    receive do
    after
      ms -> :ok
    end
  end

  defp connect(nodes), do: Enum.each(nodes -- [node()], &Node.connect/1)

  defp connected?(node), do: node == node() or node in Node.list()

  defp all_connected(nodes) do
    case Enum.reject(nodes, &connected?/1) do
      [] -> :ok
      away -> unreachable(away, :noconnection)
    end
  end

  defp unreachable(nodes, reason) do
    error(
      :unreachable,
      "cannot reach nodes=#{inspect(nodes)} reason=#{inspect(reason)}",
      "all of them must run macula_storage and be reachable over Erlang distribution"
    )
  end

  defp error(kind, message, hint \\ nil), do: Local.error(kind, message, hint)

  defp now, do: System.monotonic_time(:millisecond)
  defp left(deadline), do: max(deadline - now(), 1)
end
