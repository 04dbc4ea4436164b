defmodule MaculaStorage.Khepri.Cluster do
  @moduledoc false
  # Forms and changes the cluster of the replicated state, from any of its nodes, over Erlang distribution.
  #
  # Invariant: what a node held is set aside before it takes part in another cluster, never merged and never
  # deleted; a cluster of new nodes is formed by the first of them, in turn; all else is decided by the log.

  alias MaculaStorage.{Apps, Error, Native}
  alias MaculaStorage.Khepri.Engine

  # of `:global`, each waits up to 8 s
  @lock_tries 20
  @ttl_ms 60_000
  @again_ms 200

  ## Forming

  @doc false
  @spec start([node], map) :: :ok | {:error, term}
  def start(nodes, options) do
    nodes = Enum.uniq(nodes)

    cond do
      node() not in nodes ->
        raise ArgumentError,
              "expected this node among the nodes of its cluster, got: #{inspect(nodes)}"

      nodes == [node()] ->
        with {:ok, own} <- Engine.node(),
             {:ok, _self} <- empty(own.members),
             do: :ok

      not Node.alive?() ->
        failed(
          :start,
          :invalid,
          "this VM has no name",
          "start it with --name or --sname, or Node.start/2"
        )

      true ->
        with {:ok, own} <- Engine.node() do
          # who is connected tells where it listens
          Enum.each(nodes -- [node()], &Node.connect/1)
          known = Enum.map(own.members, & &1.node)

          with :ok <- if(nodes -- known == [], do: :ok, else: form(Enum.sort(nodes), options)),
               {:ok, _leader} <- wait_for_leader(options.timeout),
               do: :ok
        end
    end
  end

  @doc "Forms it, where the first of the nodes is that can be reached: whoever is asked, one does it at a time."
  @spec form([node], map) :: :ok | {:error, term}
  def form(nodes, options) do
    case Enum.find(nodes, &(&1 == node() or Node.connect(&1) == true)) do
      first when first == node() -> in_turn(:form, fn -> form_here(nodes, options) end)
      first -> on(first, :form, [nodes, options], options.timeout)
    end
  end

  defp in_turn(what, act) do
    case :global.trans({{__MODULE__, what}, self()}, act, [node()], @lock_tries) do
      :aborted -> {:error, :busy}
      done -> done
    end
  end

  defp form_here(nodes, options) do
    asked = Map.new(nodes, &{&1, introduced(&1, options.timeout)})
    there = for {_node, {:ok, intro}} <- asked, do: intro
    away = for {node, {:error, why}} <- asked, do: {node, why}

    with {:ok, _own} <- asked[node()],
         {:ok, seed} <- seed(there, options.keep),
         :ok <- known_or_there(away, seed) do
      there
      |> Enum.reject(&member?(seed, &1))
      |> each(&move(&1, seed.node, options.timeout))
    end
  end

  defp introduced(node, timeout) do
    if node != node(), do: Node.connect(node)
    on(node, :introduce, [], timeout)
  end

  # Whose cluster it becomes: the one that is kept, or the only one that is more than an empty node.
  defp seed(there, keep) do
    established = Enum.filter(there, &(&1.nodes > 0 or length(&1.members) > 1))

    case {Enum.find(there, &(&1.node == keep)),
          established |> Enum.map(& &1.cluster) |> Enum.uniq()} do
      {nil, _} when keep != nil ->
        failed(
          :start,
          :unreachable,
          "#{keep} is to be kept and was not reached",
          "start it, connect it"
        )

      {kept, _} when kept != nil ->
        {:ok, most_advanced(there, kept.cluster)}

      {nil, []} ->
        empty(Enum.filter(there, &(&1.members != [])))

      {nil, [cluster]} ->
        {:ok, most_advanced(there, cluster)}

      {nil, _several} ->
        names = established |> Enum.map(& &1.node) |> Enum.sort() |> Enum.join(", ")

        failed(
          :start,
          :conflict,
          "more than one of the nodes holds state of its own: #{names}",
          "keep: node says whose is kept; what the others hold is set aside on their disks"
        )
    end
  end

  defp empty([]) do
    failed(:start, :conflict, "all of these nodes left a cluster", "have one begin anew: reset/1")
  end

  defp empty(alone), do: {:ok, Enum.min_by(alone, & &1.node)}

  defp most_advanced(there, cluster) do
    there
    |> Enum.filter(&(&1.cluster == cluster))
    |> Enum.max_by(&{length(&1.members), &1.applied})
  end

  defp known_or_there(away, seed) do
    case Enum.reject(away, fn {node, _} -> node in Enum.map(seed.members, & &1.node) end) do
      [] ->
        :ok

      missing ->
        text = Enum.map_join(missing, ", ", fn {node, why} -> "#{node} (#{reason(why)})" end)

        failed(
          :start,
          :unreachable,
          "not reached: #{text}",
          "start all nodes, then call it again"
        )
    end
  end

  defp member?(seed, intro) do
    intro.cluster == seed.cluster and Enum.any?(seed.members, &(&1.number == intro.number))
  end

  # it must still be what it said
  defp move(intro, seed, timeout) do
    options = %{ttl: @ttl_ms, timeout: timeout}

    with {:ok, text} <- on(seed, :invite, [options], timeout),
         do: on(intro.node, :move_in, [text, intro.cluster, intro.nodes, options], timeout)
  end

  @doc "What this node holds, of which cluster, once it listens."
  @spec introduce() :: {:ok, map} | {:error, term}
  def introduce do
    with :ok <- Apps.listen_state(),
         {:ok, own} <- Engine.node(),
         {:ok, %{nodes: nodes}} <- Engine.query(:status, %{consistency: :local}),
         do: {:ok, Map.merge(own, %{node: node(), nodes: nodes})}
  end

  @doc false
  @spec invite(map) :: {:ok, String.t()} | {:error, term}
  def invite(options) do
    with :ok <- Apps.listen_state(),
         {:ok, invitation} <- Engine.invite(options.ttl, options.timeout),
         do: {:ok, Base.url_encode64(invitation, padding: false)}
  end

  ## Changing

  @doc false
  @spec join(node | String.t(), map) :: :ok | {:error, term}
  def join(node, options) when is_atom(node) do
    Node.connect(node)
    asked = Map.put(options, :ttl, @ttl_ms)
    with {:ok, text} <- invited(node, asked, deadline(options)), do: join(text, options)
  end

  def join(text, options) when is_binary(text) do
    with {:ok, cluster} <- Error.wrap_result(Native.state_invitation(decoded!(text)), :join, nil),
         {:ok, own} <- introduce() do
      cond do
        options.force ->
          move_in(text, own.cluster, own.nodes, options)

        own.cluster == Base.encode16(cluster, case: :lower) and own.members != [] ->
          :ok

        own.nodes > 0 or length(own.members) > 1 ->
          failed(
            :join,
            :conflict,
            "this node holds state of its own",
            "force: true sets it aside"
          )

        true ->
          move_in(text, own.cluster, own.nodes, options)
      end
    end
  end

  # one that is asked right behind an outage may hear the others in a moment
  defp invited(node, asked, until) do
    case on(node, :invite, [asked], asked.timeout) do
      {:error, :no_quorum} = failure ->
        if past?(until), do: failure, else: invited_again(node, asked, until)

      told ->
        told
    end
  end

  defp invited_again(node, asked, until) do
    receive do
    after
      @again_ms -> invited(node, asked, until)
    end
  end

  defp deadline(%{timeout: :infinity}), do: :infinity
  defp deadline(%{timeout: ms}), do: System.monotonic_time(:millisecond) + ms

  defp past?(:infinity), do: false
  defp past?(until), do: System.monotonic_time(:millisecond) >= until

  @doc "Has this node, if it still is what it was said to be, set that aside and join by an invitation."
  @spec move_in(String.t(), String.t(), non_neg_integer, map) :: :ok | {:error, term}
  def move_in(text, cluster, nodes, options) do
    invitation = decoded!(text)

    in_turn(:move, fn ->
      with {:ok, %{cluster: ^cluster, nodes: ^nodes}} <- introduce(),
           {:ok, joins} <- Native.state_invitation(invitation),
           # nothing that is worth a place on the disk
           {:ok, _aside} <- Apps.renew_state(nodes > 0, joins) do
        Engine.join(invitation, options.timeout)
      else
        {:ok, _it_changed_meanwhile} -> {:error, :busy}
        failure -> failure
      end
    end)
  end

  defp decoded!(text) do
    case Base.url_decode64(text, padding: false) do
      {:ok, invitation} -> invitation
      :error -> raise ArgumentError, "expected a node or what invite/1 gave"
    end
  end

  @doc false
  @spec leave(node, map) :: :ok | {:error, term}
  def leave(node, options) do
    with {:ok, own} <- Engine.node(),
         {:ok, number} <- number(own, node),
         :ok <- others(own),
         :ok <- Engine.change({:leave, number}, options.timeout) do
      # what it held is of no cluster any more
      if node == node(), do: left(), else: on(node, :left, [], options.timeout)
      :ok
    end
  end

  @doc """
  Sets aside what this node held as a member. It waits to be let in somewhere: alone, it would say `:ok` to writes that are
  meant for the cluster that it left.
  """
  @spec left() :: :ok | {:error, term}
  def left do
    with {:ok, _aside} <- Apps.renew_state(true, :rand.bytes(16)), do: :ok
  end

  @doc false
  @spec replace(node, node, map) :: :ok | {:error, term}
  def replace(old, new, options) do
    Node.connect(new)

    with {:ok, own} <- Engine.node(),
         {:ok, _number} <- number(own, old),
         {:ok, text} <- invite(Map.put(options, :ttl, @ttl_ms)),
         :ok <- on(new, :join, [text, options], options.timeout),
         do: leave(old, options)
  end

  @doc false
  @spec reset(map) :: :ok | {:error, term}
  def reset(options) do
    with {:ok, own} <- Engine.node(),
         leaves? = length(own.members) > 1 and not options.force,
         :ok <- if(leaves?, do: leave(node(), options), else: :ok),
         {:ok, %{nodes: nodes}} <- Engine.query(:status, %{consistency: :local}),
         {:ok, _aside} <- Apps.renew_state(nodes > 0, nil),
         do: :ok
  end

  @doc false
  @spec transfer_leader(node, map) :: :ok | {:error, term}
  def transfer_leader(node, options) do
    with {:ok, own} <- Engine.node(),
         {:ok, number} <- number(own, node),
         do: Engine.change({:lead, number}, options.timeout)
  end

  @doc false
  @spec wait_for_leader(timeout) :: {:ok, node} | {:error, term}
  def wait_for_leader(timeout) do
    with {:ok, number} <- Engine.wait_for_leader(timeout), {:ok, own} <- Engine.node() do
      case Enum.find(own.members, &(&1.number == number)) do
        nil -> {:error, :no_quorum}
        leader -> {:ok, leader.node}
      end
    end
  end

  @doc false
  @spec members() :: {:ok, [map]} | {:error, term}
  def members do
    with {:ok, own} <- Engine.node() do
      leads = &Map.put(&1, :leader, &1.number == own.leader)
      {:ok, own.members |> Enum.map(leads) |> Enum.sort_by(& &1.node)}
    end
  end

  @doc false
  @spec status() :: {:ok, map} | {:error, term}
  def status do
    with {:ok, figures} <- Engine.query(:status, %{consistency: :local}),
         {:ok, own} <- Engine.node() do
      leader = Enum.find_value(own.members, &if(&1.number == own.leader, do: &1.node))
      own = own |> Map.delete(:members) |> Map.merge(%{node: node(), leader: leader})
      {:ok, Map.merge(figures, own)}
    end
  end

  defp number(own, node) do
    case Enum.find(own.members, &(&1.node == node)) do
      nil -> failed(:members, :invalid, "#{node} is no member of this node's cluster", nil)
      member -> {:ok, member.number}
    end
  end

  defp others(%{members: [_, _ | _]}), do: :ok

  defp others(_alone),
    do: failed(:leave, :invalid, "this node is alone", "reset/1 has it begin anew")

  ## Other nodes

  defp on(node, function, arguments, timeout) do
    :erpc.call(node, __MODULE__, function, arguments, wait(timeout))
  catch
    :error, {:erpc, why} -> {:error, why}
    kind, why -> {:error, {kind, why}}
  end

  defp wait(:infinity), do: :infinity
  # what is decided there comes first
  defp wait(timeout), do: timeout + 5_000

  defp each(list, act) do
    Enum.reduce_while(list, :ok, fn one, :ok ->
      case act.(one) do
        :ok -> {:cont, :ok}
        failure -> {:halt, named(failure)}
      end
    end)
  end

  defp named({:error, reason}) when is_atom(reason), do: {:error, reason}
  defp named({:error, %Error{}} = failure), do: failure
  defp named({:error, why}), do: failed(:start, :unreachable, reason(why), "call it again")

  defp reason(:noconnection), do: "no connection"
  defp reason(%Error{} = error), do: Exception.message(error)
  defp reason(why), do: inspect(why)

  defp failed(op, kind, message, hint),
    do: {:error, %Error{kind: kind, op: op, app: nil, message: message, hint: hint}}
end
