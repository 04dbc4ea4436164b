# What the benches of replicated files have beside them: an rsync daemon on loopback, cp, dd; and what the kernel says
# of loopback, and of how far a goal was reached.
#
# Invariant: the daemon dies with this VM, however that ends. Where there is no rsync the report says so, and the
# benches go on without it.
Code.require_file("tree.exs", __DIR__)

defmodule MaculaStorage.Bench.Rsync do
  @moduledoc false

  alias MaculaStorage.Bench.Tree
  alias MaculaStorage.Operator.Text

  @up_tries 500

  @doc "Runs `work` with a daemon that takes files into `into`, or with `nil` where there is no rsync."
  def run(dir, into, work) do
    case System.find_executable("rsync") do
      nil ->
        IO.puts("without rsync: not on this machine")
        work.(nil)

      rsync ->
        IO.puts(Tree.run!(rsync, ["--version"]) |> String.split("\n") |> hd())
        with_daemon(rsync, dir, into, work)
    end
  end

  defp with_daemon(rsync, dir, into, work) do
    File.mkdir_p!(into)
    config = Path.join(dir, "rsyncd.conf")
    # who runs this may be root, whom a daemon would not stay
    [uid, gid] = for flag <- ["-u", "-g"], do: Tree.run!("id", [flag]) |> String.trim()

    File.write!(config, """
    use chroot = no
    uid = #{uid}
    gid = #{gid}
    log file = #{Path.join(dir, "rsyncd.log")}
    [bench]
    path = #{into}
    read only = no
    """)

    port = free_port()

    # ends when nobody holds its standard input any more
    script =
      ~s("$0" --daemon --no-detach --address=127.0.0.1 --port=#{port} --config="$1" & read _; kill $!)

    sh = System.find_executable("sh")
    daemon = Port.open({:spawn_executable, sh}, [:binary, args: ["-c", script, rsync, config]])

    try do
      up(port, @up_tries)
      work.(%{rsync: rsync, url: "rsync://127.0.0.1:#{port}/bench/"})
    after
      Port.close(daemon)
      down(port)
    end
  end

  # It writes to its log until then.
  defp down(port) do
    with {:ok, socket} <- :gen_tcp.connect({127, 0, 0, 1}, port, []) do
      :gen_tcp.close(socket)
      Process.sleep(10)
      down(port)
    end
  end

  defp free_port do
    {:ok, socket} = :gen_tcp.listen(0, ip: {127, 0, 0, 1})
    {:ok, port} = :inet.port(socket)
    :ok = :gen_tcp.close(socket)
    port
  end

  defp up(port, tries) do
    case :gen_tcp.connect({127, 0, 0, 1}, port, []) do
      {:ok, socket} ->
        :gen_tcp.close(socket)

      {:error, _} when tries > 0 ->
        Process.sleep(10)
        up(port, tries - 1)
    end
  end

  @doc "Sends `from` to the daemon, under that name there."
  def send!(daemon, options, from, name),
    do: Tree.run!(daemon.rsync, options ++ [from, daemon.url <> name])

  @doc "What all of this machine received over loopback so far, in bytes."
  def loopback_bytes do
    [_, bytes] = Regex.run(~r/^\s*lo:\s*(\d+)/m, File.read!("/proc/net/dev"))
    String.to_integer(bytes)
  end

  @doc "`{result, bytes}`: what went over loopback meanwhile, whoever sent it."
  def traffic(work) do
    before = loopback_bytes()
    result = work.()
    {result, loopback_bytes() - before}
  end

  @doc "What others send over loopback in a while, in bytes."
  def traffic_of_others(ms) do
    {_, bytes} = traffic(fn -> Process.sleep(ms) end)
    bytes
  end

  @doc "Prints what was to be reached: `{what, reached, goal, how both are said, :min | :max}`."
  def goals(goals) do
    rows =
      for {what, reached, goal, said, kind} <- goals do
        {word, met?} =
          if kind == :min, do: {"at least", reached >= goal}, else: {"under", reached < goal}

        [
          what,
          said.(reached),
          "goal: #{word} #{said.(goal)}",
          if(met?, do: "met", else: "MISSED")
        ]
      end

    IO.puts(["\n", Text.table(rows)])
  end

  @doc "Bytes in mebibytes, as goals are given."
  def mib(bytes), do: "#{:erlang.float_to_binary(bytes / 1_048_576, decimals: 2)} MiB"
end
