defmodule MaculaStorage.MeshFS.Transport do
  @moduledoc """
  Replicated files carried by the application's own call, instead of links of ours.

      config :macula_storage, mesh_transport: MyApp.Transport    # or {MyApp.Transport, arg}

  `MaculaStorage.MeshFS` sends requests to other members and is answered; both are binaries of at most 2 MiB. An
  application that has a call between its nodes, as one with the Macula SDK, carries them by that: here over Erlang
  distribution, which is enough for a cluster that trusts it:

      defmodule MyApp.Transport do
        @behaviour MaculaStorage.MeshFS.Transport
        use GenServer
        alias MaculaStorage.MeshFS.Transport

        def start_link(_), do: GenServer.start_link(__MODULE__, nil, name: __MODULE__)

        # what this node asks
        @impl Transport
        def call(node, request, timeout_ms, _arg),
          do: :erpc.call(node, Transport, :answer, [node(), request], timeout_ms)

        # who can be asked when this begins
        @impl Transport
        def reachable(_arg), do: Node.list()

        # and from then on
        @impl GenServer
        def init(nil) do
          :ok = :net_kernel.monitor_nodes(true)
          {:ok, nil}
        end

        # an error is of a library that does not run: it asks when it starts
        @impl GenServer
        def handle_info({change, node}, state) do
          _ = if change == :nodeup, do: Transport.up(node), else: Transport.down(node)
          {:noreply, state}
        end
      end

  Who the members are is the replicated state's (`MaculaStorage.Khepri`), which goes on over its own links; a node that
  is none is neither asked nor answered. All members of a cluster use the same transport. Requests may be lost, doubled,
  delayed and answered in any order: they are asked again, and nothing is taken that was not asked for, each block compared with its hash.

  > #### Who asks is your word {: .warning}
  >
  > On links of ours a member proves who it is by its certificate. Here `from` of `answer/3` is what the application
  > says: it must know it from its own authentication, never from the message. Who may say to be a member reads, changes
  > and deletes all replicated files. What is carried is not encrypted either: that is the application's call's to do.

  From Erlang: `-behaviour('Elixir.MaculaStorage.MeshFS.Transport')`, `macula_storage:mesh_transport_answer(From, Request)`.
  """

  alias MaculaStorage.{Apps, Call, Config, Native, Options}
  alias MaculaStorage.MeshFS.Courier

  @typedoc "A member's name, as `MaculaStorage.Khepri.members/0` has it."
  @type member :: node | String.t()

  @doc """
  Sends a request to a member, whose application gives it to `answer/3`, and returns what that answered.

  Runs in a process of its own for each request, at most 32 at a time to one member. Who does not return within `timeout_ms` is killed, and so it is
  when nobody waits any more. What is raised, thrown, or returned otherwise is an error like `{:error, reason}`: the member
  is asked again as long as it is `up/1`, and the first of such errors in a row is logged.
  """
  @callback call(member, request :: binary, timeout_ms :: non_neg_integer, arg :: term) ::
              {:ok, answer :: binary} | {:error, reason :: term}

  @doc """
  Who can be reached now: asked when this library starts, also when it starts again, so that what `up/1` said before is
  not lost with it. Until it returns a list it is asked again every second. Without it nobody is, before `up/1`.
  """
  @callback reachable(arg :: term) :: [member]

  @optional_callbacks reachable: 1

  @doc """
  A member can be reached from now on. Of a node that is no member yet it counts when it is one.

  `:ok`; `{:error, :unsupported}` where no transport is configured, `{:error, :closed}` while this library does not run,
  `{:error, :busy}` beyond 1,000 names. Durability: none, see `c:reachable/1`. Cost: a message.

      iex> MaculaStorage.MeshFS.Transport.up(:"b@10.0.0.2")
      {:error, :unsupported}
  """
  @spec up(member) :: :ok | {:error, atom}
  def up(node), do: node |> name!() |> told(true)

  @doc """
  A member cannot be reached any more: what is asked of it now ends with an error at once. Otherwise as `up/1`.

      iex> MaculaStorage.MeshFS.Transport.down(:"b@10.0.0.2")
      {:error, :unsupported}
  """
  @spec down(member) :: :ok | {:error, atom}
  def down(node), do: node |> name!() |> told(false)

  defp told(name, up?),
    do: if(configured?(), do: Courier.told(name, up?), else: {:error, :unsupported})

  @doc """
  Answers a request that came from another member over the application's call; blocks until it is answered.

  `from` must be who the application knows the sender to be, see above. Options: `:timeout` (default: `timeout_ms` of
  the configuration).

  `{:ok, answer}`, also where the answer is that the request was refused: it is for who asked. Otherwise nothing was done: an error
  of kind `:invalid` when `from` is no other member, `:too_large`, `:busy` with 256 under way, `:unsupported` without a transport; or
  it may have been done: `:timeout`, `:closed`.

  Durability: what is answered is true of what is synced here. Cost: a thread of ours; as the request is.

      iex> MaculaStorage.MeshFS.Transport.answer(:"b@10.0.0.2", "request")
      {:error, :unsupported}
  """
  @spec answer(member, binary, keyword) ::
          {:ok, binary} | {:error, atom | MaculaStorage.Error.t()}
  def answer(from, request, options \\ []) do
    options = Options.validate!(options, timeout: {nil, :timeout})
    from = name!(from)

    unless is_binary(request),
      do:
        raise(ArgumentError, "expected a request as a binary, got: #{inspect(request, limit: 5)}")

    if configured?(),
      do: answered(from, request, options.timeout),
      else: {:error, :unsupported}
  end

  defp answered(from, request, timeout) do
    Apps.with_mesh(fn mesh ->
      answer = &Native.mesh_answer(mesh, &1, from, request)
      Call.run(answer, op: :mesh_answer, timeout: timeout)
    end)
  end

  defp configured?, do: Config.get().mesh_transport != nil

  @doc false
  @spec name(term) :: {:ok, String.t()} | :error
  def name(node) when is_atom(node) and node not in [nil, true, false],
    do: {:ok, Atom.to_string(node)}

  def name(name) when is_binary(name) and byte_size(name) in 1..255 do
    if String.valid?(name), do: {:ok, name}, else: :error
  end

  def name(_other), do: :error

  defp name!(node) do
    case name(node) do
      {:ok, name} ->
        name

      :error ->
        raise ArgumentError,
              "expected a member's name, got: #{inspect(node, limit: 5, printable_limit: 80)}"
    end
  end
end
