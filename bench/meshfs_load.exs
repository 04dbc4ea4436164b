# What clients of the benches of replicated files do, in the BEAM of the node that they ask. Loaded there by `load/1`.
#
# Invariant: what is timed is timed in that BEAM: neither the call that asks for it nor its answer is in a figure.
for file <- ~w(measure.exs nodes.exs), do: Code.require_file(file, __DIR__)

defmodule MaculaStorage.Bench.MeshLoad do
  @moduledoc false

  alias MaculaStorage.Bench.{Measure, Nodes, Tree}
  alias MaculaStorage.MeshFS

  @app "bench"
  @chunk_bytes 1_048_576
  # Between two looks at what a node has still to do, and how long that may take.
  @look_ms 20
  @done_ms 3_600_000
  # Between two looks at a node's memory.
  @sample_ms 10

  ## From the bench

  @doc "A cluster of the nodes of these numbers whose replicated files see each other."
  def cluster(place, numbers) do
    nodes = Nodes.start_all(place, numbers)
    Nodes.form(nodes)
    load(nodes)
    meet(nodes)
    nodes
  end

  @doc "Loads this into nodes, also before our application is started there."
  def load(nodes) do
    Nodes.call_all(nodes, :application, :ensure_all_started, [:elixir])
    Nodes.call_all(nodes, Code, :require_file, [Path.expand(__ENV__.file)])
    Nodes.call_all(nodes, Measure, :values, [])
    :ok
  end

  @doc "Waits until the replicated files of all of them see those of all others."
  def meet(nodes) do
    Nodes.until("all members see each other", fn ->
      Enum.all?(Nodes.call_all(nodes, __MODULE__, :peers, []), &(&1 == length(nodes) - 1))
    end)
  end

  @doc "A function of this module, in a node."
  def on(node, fun, args \\ []), do: Nodes.call(node, __MODULE__, fun, args)

  @doc "Waits until all of them have told and fetched everything."
  def done(nodes) do
    Nodes.until(
      "nothing is left to be told or fetched",
      fn ->
        Process.sleep(@look_ms)
        Enum.all?(Nodes.call_all(nodes, __MODULE__, :left, []), &(&1 == {0, 0}))
      end,
      @done_ms
    )
  end

  @doc "`{result, bytes}`: by how much a node's memory grew at most while `work` ran."
  def growth(node, work) do
    {before, _} = Nodes.memory(node)
    sampler = Task.async(fn -> sample(node, before) end)
    result = work.()
    send(sampler.pid, :over)
    {result, Task.await(sampler) - before}
  end

  defp sample(node, most) do
    {now, _} = Nodes.memory(node)

    receive do
      :over -> max(now, most)
    after
      @sample_ms -> sample(node, max(now, most))
    end
  end

  @doc """
  Fills the memory that is free with pages of a file without content, as machines that are long up have it.

  Free memory is taken from a virtual machine by its host: each page then costs ten times its copy, and a side that
  writes twice as much, or comes later, would pay most. Pages of files are given to whoever needs them, and are there.
  """
  def fill_memory(dir) do
    [_, kib] = Regex.run(~r/MemFree:\s+(\d+)/, File.read!("/proc/meminfo"))
    path = Path.join(dir, "hole-#{System.unique_integer([:positive])}")

    File.open!(path, [:write, :raw], fn io ->
      {:ok, _} = :file.position(io, String.to_integer(kib) * 1024)
      :ok = :file.truncate(io)
    end)

    Tree.run!("dd", ["if=#{path}", "of=/dev/null", "bs=1M"])
  end

  @doc "Bytes of a node's index on the disk."
  def index_bytes(node) do
    dir = Path.join(Nodes.base(node.place, node.n), "mesh")
    [kib | _] = Tree.run!("du", ["-sk", dir]) |> String.split()
    1024 * String.to_integer(kib)
  end

  ## In the node

  def peers do
    {:ok, %{peers: peers}} = MeshFS.status()
    length(peers)
  end

  @doc "What it has still to tell, and to fetch."
  def left do
    {:ok, %{untold: untold, fetching: fetching}} = MeshFS.status()
    {untold, fetching}
  end

  def stat(name), do: MeshFS.stat(@app, name)

  @doc "Seconds that it takes to write a file of this machine."
  def write_file(name, path, options) do
    {:ok, s} =
      Tree.timed(fn ->
        MeshFS.write(@app, name, {:path, path}, options ++ [timeout: :infinity])
      end)

    s
  end

  @doc "Microseconds until the first chunk of a stream is there."
  def first_byte_us(name) do
    {[_chunk], s} = Tree.timed(fn -> @app |> MeshFS.stream!(name) |> Enum.take(1) end)
    s * 1_000_000
  end

  @doc "Reads all of a file by a stream: `{bytes, seconds}`."
  def read_all(name) do
    Tree.timed(fn ->
      @app |> MeshFS.stream!(name) |> Enum.reduce(0, &(byte_size(&1) + &2))
    end)
  end

  @doc "SHA-256 of what a stream of it gives."
  def digest(name), do: @app |> MeshFS.stream!(name) |> digest_of()

  def digest_of(chunks) do
    chunks
    |> Enum.reduce(:crypto.hash_init(:sha256), &:crypto.hash_update(&2, &1))
    |> :crypto.hash_final()
  end

  def delete(name), do: MeshFS.delete(@app, name)

  @doc "Seconds that it takes to list everything, and how much that is."
  def list do
    {{:ok, names}, s} = Tree.timed(fn -> MeshFS.list(@app) end)
    {length(names), s}
  end

  @doc "What it knows of these: `nil`, or the version, and whether it is here."
  def known(names) do
    for name <- names do
      with {:ok, %{version: version, here: here?}} <- MeshFS.stat(@app, name),
           do: {version, here?},
           else: (_ -> nil)
    end
  end

  ## Many small ones

  @doc """
  Writes files `from..to` of a set by so many clients, each one after the other: a turn, as `Measure.figures/1` takes it.
  """
  def write_set(set, from..to, bytes, clients, options) do
    next = :atomics.new(1, [])
    :atomics.put(next, 1, from - 1)
    # made before the clock runs, as the rivals find theirs
    contents = List.to_tuple(for n <- from..to, do: content(n, bytes))
    write = &MeshFS.write(@app, name(set, &1), elem(contents, &1 - from), options)
    began = :erlang.monotonic_time()

    times =
      for _ <- 1..clients do
        Task.async(fn -> client(next, to, write, []) end)
      end
      |> Task.await_many(:infinity)
      |> Enum.concat()

    native = :erlang.monotonic_time() - began
    s = System.convert_time_unit(native, :native, :microsecond) / 1_000_000
    %{calls: to - from + 1, s: s, times: Enum.frequencies(times), errors: %{}}
  end

  defp client(next, last, write, times) do
    case :atomics.add_get(next, 1, 1) do
      n when n > last ->
        times

      n ->
        began = :erlang.monotonic_time()
        :ok = write.(n)
        client(next, last, write, [:erlang.monotonic_time() - began | times])
    end
  end

  @doc "The name of the n-th file of a set: a hundred in a directory."
  def name(set, n), do: "#{set}/#{div(n, 100)}/#{n}"

  @doc "What is in the n-th: it begins with the number, and does not compress."
  def content(n, bytes) do
    random = :crypto.strong_rand_bytes(max(bytes - 8, 0))
    <<n::64, random::binary>>
  end

  @doc "The same files as a tree of this machine, synced."
  def make_tree(dir, from..to, bytes) do
    for n <- from..to do
      path = Path.join(dir, name("tree", n))
      if rem(n, 100) == 0 or n == from, do: File.mkdir_p!(Path.dirname(path))
      File.write!(path, content(n, bytes))
    end

    Tree.run!("sync", ["-f", dir])
    Path.join(dir, "tree")
  end

  @doc "A file of random bytes, synced."
  def make_file(path, bytes) do
    File.open!(path, [:write, :raw, :binary], fn io ->
      for at <- Enum.take_every(0..(bytes - 1), @chunk_bytes) do
        :ok = :file.write(io, :crypto.strong_rand_bytes(min(@chunk_bytes, bytes - at)))
      end
    end)

    Tree.run!("sync", [path])
  end

  @doc "Writes random bytes into a file, from an offset on."
  def change_file(path, offset, bytes) do
    # read and write: such a file is not cut
    File.open!(path, [:read, :write, :raw, :binary], fn io ->
      :ok = :file.pwrite(io, offset, :crypto.strong_rand_bytes(bytes))
    end)
  end
end
