defmodule MaculaStorage.ChildVM do
  @moduledoc """
  A BEAM in an OS process of its own that runs a piece of Elixir with our code path and talks in lines,
  for tests that kill it.

  Invariant: every whole line that the child printed before it died is seen before its exit, so that a
  printed line counts as acknowledged; half a line does not. No child outlives its test.
  """
  import ExUnit.Assertions, only: [flunk: 1]

  @enforce_keys [:port, :os_pid, :mark]
  defstruct [:port, :os_pid, :mark]

  @type t :: %__MODULE__{port: port(), os_pid: pos_integer(), mark: String.t()}

  @mark "MACULA_STORAGE_CHILD"
  @wait_ms 60_000
  @line_bytes_max 1_048_576

  @doc """
  Starts a child that evaluates `code` and ends with it. The application is not started: `code` does it.

  Options: `:base` (default: this run's base directory), `:env` (a list of `{name, value}`),
  `:cd`, `:erl` (flags for the VM as one string), `:stderr` (`true`: its lines come too; default: they
  go where ours go).
  """
  @spec start(String.t(), keyword()) :: t()
  def start(code, opts \\ []) do
    mark = "#{System.pid()}-#{System.unique_integer([:positive])}"
    base = Keyword.get_lazy(opts, :base, fn -> System.fetch_env!("MACULA_STORAGE_BASE") end)
    env = [{"MACULA_STORAGE_BASE", base}, {@mark, mark} | Keyword.get(opts, :env, [])]
    erl = if flags = opts[:erl], do: ["--erl", flags], else: []

    port =
      Port.open({:spawn_executable, System.find_executable("elixir")}, [
        :binary,
        :exit_status,
        {:line, @line_bytes_max},
        {:args, erl ++ ["-pa", ebin(), "-e", code]},
        {:env, for({name, value} <- env, do: {to_charlist(name), to_charlist(value)})},
        {:cd, Keyword.get(opts, :cd, File.cwd!())}
        | if(opts[:stderr], do: [:stderr_to_stdout], else: [])
      ])

    # elixir, erl and erlexec each exec the next, so this is the VM itself.
    {:os_pid, os_pid} = Port.info(port, :os_pid)
    child = %__MODULE__{port: port, os_pid: os_pid, mark: mark}
    ExUnit.Callbacks.on_exit(fn -> signal(child, "KILL") end)
    child
  end

  @doc "Sends one line to the child's standard input."
  @spec tell(t(), String.t()) :: :ok
  def tell(child, line) do
    true = Port.command(child.port, [line, ?\n])
    :ok
  end

  @doc "The child's next line, or how it ended."
  @spec next(t(), timeout()) :: {:line, String.t()} | {:exit, non_neg_integer()}
  def next(%{port: port} = child, timeout_ms \\ @wait_ms) do
    receive do
      {^port, {:data, {:eol, line}}} -> {:line, line}
      {^port, {:data, {:noeol, _half}}} -> next(child, timeout_ms)
      {^port, {:exit_status, status}} -> {:exit, status}
    after
      timeout_ms -> flunk("child said nothing os_pid=#{child.os_pid} timeout_ms=#{timeout_ms}")
    end
  end

  @doc "Reads lines until `line`; returns those before it. Fails when the child ends first."
  @spec wait_for(t(), String.t()) :: [String.t()]
  def wait_for(child, line), do: wait_for(child, line, [])

  defp wait_for(child, line, before) do
    case next(child) do
      {:line, ^line} ->
        Enum.reverse(before)

      {:line, other} ->
        wait_for(child, line, [other | before])

      {:exit, status} ->
        flunk("child ended before #{inspect(line)}: #{described(status, before)}")
    end
  end

  @doc "Reads lines until `line`, of which the last is `ack n`; returns that number."
  @spec last_ack(t(), String.t()) :: pos_integer()
  def last_ack(child, line) do
    "ack " <> n = child |> wait_for(line) |> List.last()
    String.to_integer(n)
  end

  defp described(status, lines), do: "status=#{status} lines=#{inspect(Enum.reverse(lines))}"

  @doc "Waits for the end: every line that was not read yet, and the exit status (128 + n after signal n)."
  @spec rest(t()) :: {[String.t()], non_neg_integer()}
  def rest(child), do: rest(child, [])

  defp rest(child, lines) do
    case next(child) do
      {:line, line} -> rest(child, [line | lines])
      {:exit, status} -> {Enum.reverse(lines), status}
    end
  end

  @doc "SIGKILL; returns every line that was printed and not read yet. Fails when it had ended by itself."
  @spec kill(t()) :: [String.t()]
  def kill(child) do
    signal(child, "KILL")
    {lines, status} = rest(child)
    # 128 + 9: what it died of is what is tested
    status == 137 || flunk("the child ended by itself: #{described(status, lines)}")
    lines
  end

  @doc "Sends a signal by name (`STOP`, `CONT`, `TERM`, `KILL`); nothing to a child that has ended."
  @spec signal(t(), String.t()) :: :ok
  def signal(child, name) do
    # The shell's own kill: a bare Debian has no other.
    if alive?(child),
      do: System.cmd("sh", ["-c", "kill -s #{name} #{child.os_pid}"], stderr_to_stdout: true)

    :ok
  end

  # The mark, because the number may have gone to another process after the child's end.
  defp alive?(child) do
    case File.read("/proc/#{child.os_pid}/environ") do
      {:ok, environ} -> String.contains?(environ, "#{@mark}=#{child.mark}\0")
      {:error, _} -> false
    end
  end

  defp ebin, do: __MODULE__ |> :code.which() |> Path.dirname()
end
