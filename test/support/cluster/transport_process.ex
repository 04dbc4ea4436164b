defmodule MaculaStorage.Cluster.TransportProcess do
  @moduledoc "What is done with a transport of replicated files on a node itself: its log, calls that raise, callers that die."

  alias MaculaStorage.{Apps, Call, Native}
  alias MaculaStorage.MeshFS.Transport

  @log {__MODULE__, :log}

  @doc "Keeps the warnings of this node, of which nothing is shown."
  @spec keep_log() :: :ok
  def keep_log do
    {:ok, agent} = Agent.start(fn -> [] end)
    :persistent_term.put(@log, agent)
    :ok = :logger.set_primary_config(:level, :warning)
    _ = :logger.remove_handler(:default)
    _ = :logger.remove_handler(Logger)
    :ok = :logger.add_handler(__MODULE__, __MODULE__, %{})
  end

  @doc false
  def log(%{msg: message}, _config) do
    with {:string, text} <- message,
         text = IO.chardata_to_string(text),
         true <- text =~ ~r"mesh transport|replicated files",
         do: Agent.update(agent(), &(&1 ++ [text]))
  end

  @doc "What was said since, the first first."
  @spec log() :: [String.t()]
  def log, do: Agent.get(agent(), & &1)

  @doc "What was refused is not forgotten: it is said once a minute at most."
  @spec forget_log() :: :ok
  def forget_log, do: Agent.update(agent(), &Enum.filter(&1, fn text -> text =~ "refused" end))

  defp agent, do: :persistent_term.get(@log)

  @doc "A call of the transport that is misuse."
  @spec raised(atom, list) :: {:argument_error, String.t()} | {:returned, term}
  def raised(fun, arguments) do
    {:returned, apply(Transport, fun, arguments)}
  rescue
    error in ArgumentError -> {:argument_error, Exception.message(error)}
  end

  @doc "An answer; nothing else comes to its caller."
  @spec answered(node | String.t(), binary) :: term
  def answered(from, request) do
    Task.await(
      Task.async(fn ->
        answer = Transport.answer(from, request)
        {:messages, []} = Process.info(self(), :messages)
        answer
      end),
      60_000
    )
  end

  @doc "So many that are waited for at most a millisecond, none of which is heard late."
  @spec impatient(node, pos_integer) :: %{timeout: non_neg_integer, other: non_neg_integer}
  def impatient(from, rounds) do
    task =
      Task.async(fn ->
        for n <- 1..rounds, reduce: %{timeout: 0, other: 0} do
          counts ->
            request = :binary.copy("x", rem(n, 7) * 1_000)

            # the public timeout is one at least
            answer =
              Apps.with_mesh(fn mesh ->
                start = &Native.mesh_answer(mesh, &1, to_string(from), request)
                Call.run(start, op: :test, timeout: rem(n, 2))
              end)

            {:messages, []} = Process.info(self(), :messages)
            key = if answer == {:error, :timeout}, do: :timeout, else: :other
            Map.update!(counts, key, &(&1 + 1))
        end
      end)

    Task.await(task, 60_000)
  end

  @doc "So many whose callers are killed meanwhile."
  @spec dying(node, pos_integer) :: :ok
  def dying(from, rounds) do
    for _ <- 1..rounds do
      {pid, monitor} = spawn_monitor(fn -> Transport.answer(from, :binary.copy("x", 300_000)) end)
      Process.exit(pid, :kill)
      receive do: ({:DOWN, ^monitor, _, _, _} -> :ok)
    end

    :ok
  end
end
