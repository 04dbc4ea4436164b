defmodule MaculaStorage.Scenario.Proxies do
  @moduledoc """
  Connections of members on one machine that can be cut without a network of their own: each is told to the others at an
  address of ours, from which we carry what comes to where it listens. Erlang distribution goes its own way.

  Invariant: a cut is silent and in one direction, what is sent meanwhile waits; who connects is asked of the kernel
  (who has the other end of the socket), not of what it says.
  """
  use GenServer
  alias MaculaStorage.Wait

  @enforce_keys [:server, :table, :port]
  defstruct @enforce_keys

  @type t :: %__MODULE__{server: pid, table: :ets.table(), port: :inet.port_number()}

  @look_ms 5

  @doc "Proxies for nodes, by their numbers, whose processes are known by their bases."
  @spec make(%{pos_integer => Path.t()}, :inet.port_number()) :: t
  def make(bases, port) do
    {:ok, server} = GenServer.start(__MODULE__, {bases, port})
    %__MODULE__{server: server, table: GenServer.call(server, :table), port: port}
  end

  @doc "The address of the n-th node."
  @spec ip(1..9) :: String.t()
  def ip(n) when n in 1..9, do: "127.0.0.#{n}"

  @doc "Where the n-th node listens, and where the others find it."
  @spec config(t, 1..9) :: keyword
  def config(%{port: port}, n),
    do: [state_listen: "127.0.0.#{n}:#{port}", state_advertise: "127.0.1.#{n}:#{port}"]

  @doc "What one sends does not arrive at the other any more."
  @spec cut(t, 1..9, 1..9) :: :ok
  def cut(%{table: table}, from, to) do
    :ets.insert(table, {{from, to}})
    :ok
  end

  @doc "It arrives again."
  @spec heal(t, 1..9, 1..9) :: :ok
  def heal(%{table: table}, from, to) do
    :ets.delete(table, {from, to})
    :ok
  end

  @doc "Ends all connections."
  @spec remove(t) :: :ok
  def remove(%{server: server}), do: GenServer.stop(server)

  @impl true
  def init({bases, port}) do
    table = :ets.new(__MODULE__, [:public, read_concurrency: true])

    for {n, _base} <- bases do
      address = [ip: {127, 0, 1, n}, reuseaddr: true, backlog: 100]
      {:ok, socket} = :gen_tcp.listen(port, [:binary, {:active, false} | address])
      spawn_link(fn -> accept(socket, n, bases, port, table) end)
    end

    {:ok, table}
  end

  @impl true
  def handle_call(:table, _from, table), do: {:reply, table, table}

  # until the listener is closed; the sockets that it took are its own, and end with it
  defp accept(listener, to, bases, port, table) do
    with {:ok, socket} <- :gen_tcp.accept(listener) do
      spawn(fn -> carry(socket, to, bases, port, table) end)
      accept(listener, to, bases, port, table)
    end
  end

  defp carry(socket, to, bases, port, table) do
    with from when from != nil <- dialer(socket, bases),
         {:ok, member} <- :gen_tcp.connect({127, 0, 0, to}, port, [:binary, active: false]) do
      spawn(fn -> pump(member, socket, {to, from}, table) end)
      pump(socket, member, {from, to}, table)
    else
      # it is gone by now, or nobody listens
      _ -> :gen_tcp.close(socket)
    end
  end

  # bytes are taken while they may pass: what comes later waits in the sockets, and with its sender
  defp pump(from, to, pair, table) do
    with :ok <- open(pair, table),
         {:ok, bytes} <- :gen_tcp.recv(from, 0),
         # cut while it waited for them
         :ok <- open(pair, table),
         :ok <- :gen_tcp.send(to, bytes) do
      pump(from, to, pair, table)
    else
      {:error, _} -> Enum.each([from, to], &:gen_tcp.close/1)
    end
  end

  defp open(pair, table) do
    if :ets.member(table, pair) do
      Wait.pause(@look_ms)
      open(pair, table)
    else
      :ok
    end
  end

  ## Who connects

  defp dialer(socket, bases) do
    with {:ok, {ip, port}} <- :inet.peername(socket),
         inode when inode != nil <- inode(ip, port) do
      Enum.find_value(bases, fn {n, base} ->
        if Enum.any?(processes(base), &has_socket?(&1, inode)), do: n
      end)
    else
      _ -> nil
    end
  end

  # the kernel's table of sockets: their own address and port in hexadecimal, the inode as the tenth word
  defp inode({a, b, c, d}, port) do
    local = Base.encode16(<<d, c, b, a>>) <> ":" <> Base.encode16(<<port::16>>)

    "/proc/net/tcp"
    |> File.stream!()
    |> Enum.find_value(fn line ->
      with [_, ^local, _, _, _, _, _, _, _, inode | _] when inode != "0" <- String.split(line),
           do: inode,
           else: (_ -> nil)
    end)
  end

  defp processes(base) do
    for pid <- File.ls!("/proc"),
        String.match?(pid, ~r/^\d+$/),
        {:ok, environment} <- [File.read("/proc/#{pid}/environ")],
        "MACULA_STORAGE_BASE=#{base}" in String.split(environment, <<0>>),
        do: pid
  end

  defp has_socket?(pid, inode) do
    case File.ls("/proc/#{pid}/fd") do
      {:ok, files} ->
        Enum.any?(files, &(File.read_link("/proc/#{pid}/fd/#{&1}") == {:ok, "socket:[#{inode}]"}))

      {:error, _} ->
        false
    end
  end
end
