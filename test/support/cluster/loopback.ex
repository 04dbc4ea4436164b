defmodule MaculaStorage.Cluster.Loopback do
  @moduledoc """
  A transport of replicated files over Erlang distribution, as the docs of `MaculaStorage.MeshFS.Transport` have it, that
  can be cut, and that can be bad.

  Invariant: what it does is said by the test, on the node itself; a cut is one for what is sent and what comes.
  """
  @behaviour MaculaStorage.MeshFS.Transport
  use GenServer

  alias MaculaStorage.MeshFS.Transport

  @mode {__MODULE__, :mode}
  @cut {__MODULE__, :cut}
  @reach {__MODULE__, :reach}

  @doc "Starts it on this node, for as long as that runs."
  @spec start() :: :ok
  def start do
    :persistent_term.put(@cut, [])
    :persistent_term.put(@mode, :good)
    :persistent_term.put(__MODULE__, :counters.new(2, []))
    {:ok, _} = GenServer.start(__MODULE__, nil, name: __MODULE__)
    :ok
  end

  @doc "How it is from now on: `:good`, `:raise`, `:throw`, `:exit`, `:die`, `:hang`, `:trap`, or what it returns."
  @spec be(term) :: :ok
  def be(mode), do: :persistent_term.put(@mode, mode)

  @doc "Neither asks these nor hears them any more."
  @spec cut([node]) :: :ok
  def cut(nodes) do
    :persistent_term.put(@cut, nodes)
    for node <- nodes, do: :ok = Transport.down(node)
    for node <- reachable(nil), do: :ok = Transport.up(node)
    :ok
  end

  @doc "Requests that it carried, and those that it answered, on this node."
  @spec counted() :: {non_neg_integer, non_neg_integer}
  def counted, do: {:counters.get(counters(), 1), :counters.get(counters(), 2)}

  @doc "Processes that carry requests now."
  @spec carriers() :: [pid]
  def carriers do
    for pid <- Process.list(),
        {:dictionary, words} <- [Process.info(pid, :dictionary)],
        List.keymember?(words, __MODULE__, 0),
        do: pid
  end

  @impl Transport
  def call(node, request, timeout_ms, arg) do
    Process.put(__MODULE__, arg)
    :counters.add(counters(), 1, 1)

    case :persistent_term.get(@mode) do
      :good -> carry(node, request, timeout_ms)
      :raise -> raise "it broke"
      :throw -> throw(:it_broke)
      :exit -> exit(:it_broke)
      :die -> Process.exit(self(), :kill)
      :hang -> receive(do: (:never -> :ok))
      :trap -> trap()
      returns -> returns
    end
  end

  defp trap do
    Process.flag(:trap_exit, true)
    receive(do: (:never -> :ok))
  end

  defp carry(node, request, timeout_ms) do
    if node in :persistent_term.get(@cut),
      do: {:error, :cut},
      else: :erpc.call(node, __MODULE__, :answer, [node(), request], timeout_ms)
  end

  @doc "What another node asks of this one."
  @spec answer(node, binary) :: {:ok, binary} | {:error, term}
  def answer(from, request) do
    :counters.add(counters(), 2, 1)

    if from in :persistent_term.get(@cut),
      do: {:error, :cut},
      else: Transport.answer(from, request)
  end

  @doc "What it says of who is reachable: `:good`, `:raise`, `:hang`, or what it returns."
  @spec reach(term) :: :ok
  def reach(mode), do: :persistent_term.put(@reach, mode)

  @impl Transport
  def reachable(_arg) do
    case :persistent_term.get(@reach, :good) do
      :good -> Node.list() -- :persistent_term.get(@cut, [])
      :raise -> raise "it broke"
      :hang -> receive(do: (:never -> []))
      returns -> returns
    end
  end

  @impl GenServer
  def init(nil) do
    :ok = :net_kernel.monitor_nodes(true)
    {:ok, nil}
  end

  @impl GenServer
  def handle_info({:nodeup, node}, state) do
    unless node in :persistent_term.get(@cut), do: Transport.up(node)
    {:noreply, state}
  end

  def handle_info({:nodedown, node}, state) do
    _ = Transport.down(node)
    {:noreply, state}
  end

  defp counters, do: :persistent_term.get(__MODULE__)
end
