defmodule MaculaStorage.Khepri.Engine do
  @moduledoc false
  # Calls of this VM's engine of the replicated state (native/raft/src/engine.rs), opened with the first one.
  #
  # Invariant: Rust's deadline comes first, as it knows more of what happened.

  alias MaculaStorage.{Apps, Call, Config, Native}
  alias MaculaStorage.Khepri.Wire

  @timeout_ms 5_000

  @doc false
  def txn(guards, then, otherwise, %{timeout: timeout}) do
    case command({:txn, guards, then, otherwise}, timeout) do
      {:ok, {:refused, {:keep_while_not_met, path}}} ->
        {:error, {:keep_while_not_met, Wire.path(path)}}

      {:ok, {:refused, why}} ->
        {:error, why}

      answer ->
        answer
    end
  end

  @doc false
  def command(command, timeout) do
    on_state(:command, timeout, fn state, ref ->
      if Wire.large?(command),
        do: Native.state_command_large(state, ref, command, rust_ms(timeout)),
        else: Native.state_command(state, ref, command, rust_ms(timeout))
    end)
  end

  @doc "Whether this node is no member of the cluster, and asks those who are."
  @spec client?() :: boolean
  def client?, do: Config.get().state_members != nil

  @doc false
  def query(query, %{consistency: :local} = options) do
    cond do
      client?() -> ask(query, :local, Map.get(options, :timeout, @timeout_ms))
      match?({:get, _}, query) -> Apps.with_state(&(hot(&1, query, nil) || query_here(&1, query)))
      true -> Apps.with_state(&query_here(&1, query))
    end
  end

  def query({:get, _} = query, %{consistency: {:stale, age_ms}, timeout: timeout}) do
    with :cold <- Apps.with_state(&(hot(&1, query, age_ms) || :cold)),
         do: ask(query, age_ms, timeout)
  end

  def query(query, %{consistency: {:stale, age_ms}, timeout: timeout}),
    do: ask(query, age_ms, timeout)

  def query(query, %{consistency: consistency, timeout: timeout}),
    do: ask(query, consistency, timeout)

  defp ask(query, how, timeout),
    do: on_state(:query, timeout, &Native.state_query(&1, &2, query, how, rust_ms(timeout)))

  defp hot(state, query, age_ms) do
    case Native.state_query_hot(state, query, age_ms) do
      :cold -> nil
      {:ok, _} = found -> found
      failure -> MaculaStorage.Error.wrap_result(failure, :query, nil)
    end
  end

  defp query_here(state, query),
    do: MaculaStorage.Error.wrap_result(Native.state_query_here(state, query), :query, nil)

  defp on_state(op, timeout, start) do
    options = [op: op, timeout: MaculaStorage.wait_ms(timeout)]
    Apps.with_state(fn state -> Call.run(&start.(state, &1), options) end)
  end

  defp rust_ms(timeout), do: MaculaStorage.rust_ms(timeout)

  @doc "This node and the members of its cluster, as it sees them."
  @spec node() :: {:ok, map} | {:error, term}
  def node do
    told = Apps.with_state(&MaculaStorage.Error.wrap_result(Native.state_node(&1), :members, nil))

    with {:ok, told} <- told do
      {cluster, number, leader, {term, last, applied, checkpoint}, address, members} = told

      members =
        for {number, name, address, standing} <- members,
            do: %{number: number, node: name, address: address, standing: standing}

      {:ok,
       %{
         cluster: cluster,
         number: number,
         leader: leader,
         term: term,
         last: last,
         applied: applied,
         checkpoint: checkpoint,
         address: address,
         members: members
       }}
    end
  end

  @doc false
  def invite(ttl_ms, timeout),
    do: on_state(:invite, timeout, &Native.state_invite(&1, &2, ttl_ms, rust_ms(timeout)))

  @doc false
  def join(invitation, timeout),
    do: on_state(:join, timeout, &Native.state_join(&1, &2, invitation, rust_ms(timeout)))

  @doc false
  def change(change, timeout),
    do: on_state(elem(change, 0), timeout, &Native.state_change(&1, &2, change, rust_ms(timeout)))

  @doc false
  def wait_for_leader(timeout),
    do: on_state(:wait, timeout, &Native.state_wait_for_leader(&1, &2, rust_ms(timeout)))
end
