defmodule MaculaStorage.Cluster.Meshes do
  @moduledoc """
  Replicated files of one app as nodes under test have them: by their own word, and by what lies on their disks.

  Invariant: a write counts as acknowledged only when its answer was heard here, so that one whose node was killed
  meanwhile is none.
  """
  import ExUnit.Assertions
  alias MaculaStorage.{BeamNode, Case, Error, Khepri, MeshFS, Wait}

  @app "mesh"
  @wait_ms 60_000

  @doc "The app that all tests use."
  @spec app() :: String.t()
  def app, do: @app

  @doc "Starts nodes that are no cluster yet."
  @spec nodes(pos_integer, keyword) :: [struct]
  def nodes(count, config \\ []) do
    port = BeamNode.port()
    places = for n <- 1..count, do: {n, port, Case.unique_dir("mesh#{n}")}
    BeamNode.start_all(places, config ++ [state_plain: true])
  end

  @doc "Makes one of nodes; each sees all others then."
  @spec form([struct]) :: [struct]
  def form([first | _] = nodes) do
    assert :ok = BeamNode.call(first, Khepri, :start, [names(nodes)])
    meet(nodes)
  end

  @doc false
  def cluster(count, config \\ []), do: count |> nodes(config) |> form()

  @doc "Starts one that was killed, at another port, of which those that run are told."
  @spec revive(struct, [struct]) :: struct
  def revive(node, running) do
    node = BeamNode.restart(node)
    assert {:ok, _} = mesh(node, :status)
    for other <- running, do: BeamNode.join(node, other)
    node
  end

  @doc "The names of nodes, in their order."
  @spec names([struct]) :: [node]
  def names(nodes), do: Enum.map(nodes, & &1.name)

  @doc "A call of `MaculaStorage.MeshFS` on a node, for the app where it is for one."
  @spec mesh(struct, atom, list) :: term
  def mesh(node, fun, arguments \\ [])

  def mesh(node, fun, arguments) when fun in [:status, :scrub],
    do: BeamNode.call(node, MeshFS, fun, arguments)

  def mesh(node, fun, arguments), do: BeamNode.call(node, MeshFS, fun, [@app | arguments])

  @doc "Where a file lies on a node's disk."
  @spec file(struct | Path.t(), String.t()) :: Path.t()
  def file(node, name), do: Path.join(files(node), name)

  @doc false
  def files(node), do: Path.join(data(node), "files")

  defp data(%{base: base}), do: data(base)
  defp data(base), do: Path.join([base, "apps", @app, "data"])

  @doc "All files on a node's disk, by their names."
  @spec tree(struct | Path.t()) :: %{String.t() => binary}
  def tree(node) do
    files = files(node)

    for path <- Path.wildcard(Path.join(files, "**"), match_dot: true),
        # one that goes meanwhile is none
        {:ok, content} <- [File.read(path)],
        into: %{},
        do: {Path.relative_to(path, files), content}
  end

  @doc "What is being put together on a node, and what is kept there beside the files."
  @spec staged(struct) :: [String.t()]
  def staged(node), do: list(Path.join(data(node), ".macula/staged"))

  @doc false
  def kept(node), do: list(Path.join(data(node), ".macula/kept"))

  defp list(dir) do
    case File.ls(dir) do
      {:ok, names} -> names
      {:error, :enoent} -> []
    end
  end

  @doc "Waits until each of the nodes can ask all the others."
  @spec meet([struct]) :: [struct]
  def meet(nodes) do
    for node <- nodes do
      others = nodes |> names() |> Enum.reject(&(&1 == node.name)) |> Enum.sort()

      Wait.until(
        "all others with #{node.name}",
        fn ->
          {:ok, %{peers: peers}} = mesh(node, :status)
          Enum.sort(peers) == others
        end,
        @wait_ms
      )
    end

    nodes
  end

  @doc "Waits until a node says that these have a file, and nobody else."
  @spec eventually_replicas(struct, String.t(), [node]) :: true
  def eventually_replicas(node, name, replicas) do
    Wait.until("replicas of #{name}", fn ->
      case mesh(node, :stat, [name]) do
        {:ok, stat} -> Enum.sort(stat.replicas) == Enum.sort(replicas)
        {:error, _} -> false
      end
    end)
  end

  @doc "Waits until nothing is under way and the nodes' trees are the same, byte by byte."
  @spec same_trees([struct]) :: true
  def same_trees(nodes) do
    Wait.until(
      "the same trees",
      fn ->
        is_quiet = Enum.all?(nodes, &match?({:ok, %{untold: 0, fetching: 0}}, mesh(&1, :status)))
        is_quiet and nodes |> Enum.map(&tree/1) |> Enum.uniq() |> length() == 1
      end,
      @wait_ms
    )
  end

  @doc """
  Waits until the replicated files of this VM were looked through by themselves: that is done once they are open, then
  every ten minutes. Who does it by hand behind that is told of all that there is.
  """
  @spec look() :: :ok
  def look do
    app = "looked-#{System.unique_integer([:positive])}"
    :ok = MeshFS.write(app, "a", "a")

    Wait.until("the first look", fn ->
      {:ok, %{files: files}} = MeshFS.status()
      files > 0
    end)

    :ok = MeshFS.delete(app, "a")
    MaculaStorage.close_app(app)
    File.rm_rf!(Path.dirname(MaculaStorage.app_data_path(app)))
    :ok
  end

  @doc "Changes one byte of a file, at an offset, so that nobody sees it who does not read it."
  @spec rot(Path.t(), non_neg_integer) :: :ok
  def rot(path, offset) do
    {_, 0} = System.cmd("touch", ["-r", path, path <> ".time"])
    {:ok, device} = :file.open(path, [:read, :write, :raw, :binary])
    {:ok, <<byte>>} = :file.pread(device, offset, 1)
    :ok = :file.pwrite(device, offset, <<Bitwise.bxor(byte, 1)>>)
    :ok = :file.close(device)
    {_, 0} = System.cmd("touch", ["-r", path <> ".time", path])
    File.rm!(path <> ".time")
  end

  @doc "Whether it becomes so within so many milliseconds."
  @spec becomes?(pos_integer, fun) :: boolean
  def becomes?(limit_ms, fun) do
    !!Wait.until("it", fun, limit_ms)
  rescue
    ExUnit.AssertionError -> false
  end

  @doc "Stops a node's processes for the time of `fun`."
  @spec pause(struct, fun) :: term
  def pause(node, fun) do
    signal(node, "STOP")
    fun.()
  after
    signal(node, "CONT")
  end

  defp signal(node, name),
    do: {_, 0} = System.cmd("sh", ["-c", "kill -s #{name} #{node.os_pid}"])

  ## Memory

  @doc "What a node's process has in memory, KiB; its peak counts from now."
  @spec begin_memory(struct) :: non_neg_integer
  def begin_memory(node) do
    # 5: the peak, see proc(5)
    File.write!("/proc/#{node.os_pid}/clear_refs", "5")
    status_kib(node, "VmRSS")
  end

  @doc "What it had at most since then, KiB."
  @spec peak_kib(struct) :: non_neg_integer
  def peak_kib(node), do: status_kib(node, "VmHWM")

  defp status_kib(node, field) do
    [_, kib] = Regex.run(~r/^#{field}:\s+(\d+) kB$/m, File.read!("/proc/#{node.os_pid}/status"))
    String.to_integer(kib)
  end

  ## Writers

  @doc "Starts so many writers on each of these nodes, each with names of its own; they end when their node does."
  @spec writes([struct], pos_integer, integer) :: map
  def writes(nodes, each, seed) do
    counted = :counters.new(2, [])

    tasks =
      for node <- nodes, writer <- 1..each do
        Task.async(fn ->
          :rand.seed(:exsss, {seed, node.n, writer})
          write(node, "w#{node.n}-#{writer}", 1, counted, %{})
        end)
      end

    %{tasks: tasks, counted: counted}
  end

  defp write(node, dir, n, counted, written) do
    {name, content} = {"#{dir}/#{n}", :rand.bytes(:rand.uniform(400_000))}

    if :counters.get(counted, 2) == 1 do
      written
    else
      case heard(node, name, content) do
        :lost ->
          written

        # durable here, and the others get it later
        answer when answer == :ok or elem(answer, 1).kind == :unreachable ->
          :counters.add(counted, 1, 1)
          write(node, dir, n + 1, counted, Map.put(written, name, content))
      end
    end
  end

  defp heard(node, name, content) do
    case mesh(node, :write, [name, content]) do
      :ok -> :ok
      {:error, %Error{kind: :unreachable}} = answer -> answer
      other -> flunk("a write answered #{inspect(other)} name=#{name}")
    end
  catch
    :exit, _died -> :lost
  end

  @doc "Waits until so many more were acknowledged."
  @spec acknowledged(map, pos_integer) :: true
  def acknowledged(%{counted: counted}, more) do
    until = :counters.get(counted, 1) + more
    Wait.until("#{more} more", fn -> :counters.get(counted, 1) >= until end, @wait_ms)
  end

  @doc "Ends the writers; what was acknowledged."
  @spec stop(map) :: %{String.t() => binary}
  def stop(%{tasks: tasks, counted: counted}) do
    :counters.add(counted, 2, 1)
    tasks |> Task.await_many(@wait_ms) |> Enum.reduce(%{}, &Map.merge/2)
  end
end
