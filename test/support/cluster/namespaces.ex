defmodule MaculaStorage.Scenario.Namespaces do
  @moduledoc """
  A network of the test's own: a namespace for each node, and one more with the bridge between them.

  Invariant: a cut is silent and in one direction, frames go to a hardware address that nobody has; nothing of
  the network is seen outside of it; what a killed test left is removed by the next one.
  """
  import Bitwise

  @enforce_keys [:prefix, :count]
  defstruct @enforce_keys

  @type t :: %__MODULE__{prefix: String.t(), count: pos_integer}

  @name "macula-test-"
  @nobody "02:00:00:00:ff:ff"

  @doc "Makes a network for `count` nodes; why not, where that cannot be."
  @spec make(pos_integer) :: {:ok, t} | {:error, String.t()}
  def make(count) do
    net = %__MODULE__{prefix: "#{@name}#{System.pid()}-#{unique()}-", count: count}

    if System.find_executable("ip") do
      made(net, build(net))
    else
      {:error, "there is no command ip"}
    end
  end

  defp unique, do: System.unique_integer([:positive]) &&& 0xFFFF

  defp made(net, :ok), do: {:ok, net}

  defp made(net, {:error, why}) do
    remove(net)
    {:error, why}
  end

  defp build(net) do
    hub = net.prefix <> "hub"

    bridge = [
      ["netns", "add", hub],
      ["-n", hub, "link", "add", "hub", "type", "bridge"],
      ["-n", hub, "link", "set", "hub", "up"]
    ]

    all(bridge ++ Enum.flat_map(1..net.count, &member(net, hub, &1)))
  end

  defp member(net, hub, n) do
    own = namespace(net, n)
    hardware = ["link", "set", "e0", "address", hardware(n), "up"]

    [
      ["netns", "add", own],
      ~w(-n #{hub} link add v#{n} type veth peer name e0 netns #{own}),
      ~w(-n #{hub} link set v#{n} master hub up),
      ["-n", own | hardware],
      ~w(-n #{own} link set lo up),
      ~w(-n #{own} addr add #{ip(n)}/24 dev e0)
    ] ++ for(m <- 1..net.count, m != n, do: reach(net, n, m, hardware(m)))
  end

  defp reach(net, from, to, hardware),
    do:
      ~w(-n #{namespace(net, from)} neigh replace #{ip(to)} lladdr #{hardware} dev e0 nud permanent)

  defp hardware(n), do: "02:00:00:00:00:0#{n}"

  @doc "What is to be configured there for the n-th: nothing."
  @spec config(t, 1..9) :: keyword
  def config(_net, _n), do: []

  @doc "The address of the n-th node."
  @spec ip(1..9) :: String.t()
  def ip(n) when n in 1..9, do: "10.77.0.#{n}"

  @doc "The name of the n-th node's namespace."
  @spec namespace(t, 1..9) :: String.t()
  def namespace(net, n), do: "#{net.prefix}n#{n}"

  @doc "What one sends does not arrive at the other any more."
  @spec cut(t, 1..9, 1..9) :: :ok
  def cut(net, from, to), do: :ok = all([reach(net, from, to, @nobody)])

  @doc "It arrives again."
  @spec heal(t, 1..9, 1..9) :: :ok
  def heal(net, from, to), do: :ok = all([reach(net, from, to, hardware(to))])

  @doc "Removes it; who is still in it is killed."
  @spec remove(t) :: :ok
  def remove(net), do: remove_named(net.prefix)

  @doc "Removes those of tests that were killed before they could."
  @spec sweep() :: :ok
  def sweep do
    for name <- if(System.find_executable("ip"), do: names(@name), else: []),
        [_, os_pid] = Regex.run(~r/^#{@name}(\d+)-/, name),
        not File.exists?("/proc/#{os_pid}"),
        do: remove_named(name)

    :ok
  end

  defp remove_named(prefix) do
    for name <- names(prefix) do
      {pids, _} = System.cmd("ip", ["netns", "pids", name], stderr_to_stdout: true)

      for pid <- String.split(pids),
          do: System.cmd("sh", ["-c", "kill -s KILL #{pid}"], stderr_to_stdout: true)

      System.cmd("ip", ["netns", "del", name], stderr_to_stdout: true)
    end

    :ok
  end

  defp names(prefix) do
    {text, _} = System.cmd("ip", ["netns", "list"], stderr_to_stdout: true)
    for line <- String.split(text, "\n"), String.starts_with?(line, prefix), do: hd(words(line))
  end

  defp words(line), do: String.split(line)

  defp all(commands) do
    Enum.reduce_while(commands, :ok, fn arguments, :ok ->
      case System.cmd("ip", arguments, stderr_to_stdout: true) do
        {_, 0} -> {:cont, :ok}
        {said, _} -> {:halt, {:error, "ip #{Enum.join(arguments, " ")}: #{String.trim(said)}"}}
      end
    end)
  end
end
