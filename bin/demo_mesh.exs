# The third part of bin/demo: replicated files on the cluster of the second. The files of the node where they were written
# are destroyed: they are read elsewhere meanwhile, and come back by themselves.
#
# Invariant: what lies in the nodes' directories is compared with what this script made, past the library.
defmodule MaculaStorage.Demo.Mesh do
  @moduledoc false
  @compile {:no_warn_undefined, :crypto}

  alias MaculaStorage.Bench.{Nodes, Tree}
  alias MaculaStorage.MeshFS
  alias MaculaStorage.Operator.Text

  @app "demo_mesh"
  @small 200
  @small_bytes 4_096
  @large_bytes 24 * 1024 * 1024

  @doc "Does all of it on nodes that are one cluster; `tell` as `MaculaStorage.Demo.Cluster` has it."
  def run(place, [writer, reader | _] = nodes, tell) do
    files = written(place, writer, nodes, tell)
    same(place, nodes, files, "files", tell)
    again = destroyed(place, writer, reader, files, tell)
    same(place, [again | List.delete(nodes, writer)], files, "came back", tell)
  end

  defp written(place, writer, nodes, tell) do
    small =
      for n <- 1..@small,
          do: {"dir#{rem(n, 7)}/file#{n}", :crypto.strong_rand_bytes(@small_bytes)}

    files = [{"large", :crypto.strong_rand_bytes(@large_bytes)} | small]

    [{large, bytes} | small] = files
    # what crosses to a node goes over its standard input, which is no way for a large one
    source = Path.join(place.dir, "large")
    File.write!(source, bytes)

    {_, s} =
      Tree.timed(fn ->
        [{large, {:path, source}} | small]
        |> Task.async_stream(
          fn {name, content} ->
            :ok = mesh(writer, :write, [@app, name, content, [ack: :all, timeout: 60_000]])
          end,
          max_concurrency: 16,
          timeout: :infinity
        )
        |> Stream.run()
      end)

    tell.say.("files", [
      "#{Text.count(length(files))} of #{Text.bytes(Enum.sum(for {_, b} <- files, do: byte_size(b)))} at ",
      "#{writer.name}, each on all #{length(nodes)} nodes when it was answered, in #{Tree.seconds(s)}"
    ])

    files
  end

  # past the library: as any tool sees them
  defp same(place, nodes, files, name, tell) do
    for node <- nodes, {file, bytes} <- files do
      path = Path.join([Nodes.base(place, node.n), "apps", @app, "data/files", file])

      if File.read(path) != {:ok, bytes},
        do: tell.differ.("#{file} is not what was written on #{node.name}")
    end

    tell.say.(
      name,
      "all #{Text.count(length(files))} are right on #{Enum.map_join(nodes, " ", & &1.name)}"
    )
  end

  defp destroyed(place, writer, reader, files, tell) do
    :ok = Nodes.kill(writer)
    File.rm_rf!(Path.join([Nodes.base(place, writer.n), "apps", @app]))
    {name, bytes} = List.last(files)

    if mesh(reader, :read, [@app, name]) != {:ok, bytes},
      do: tell.differ.("#{name} is another on #{reader.name}")

    tell.say.(
      "destroyed",
      "#{writer.name}'s directory of the app; read on #{reader.name} meanwhile"
    )

    {again, s} =
      Tree.timed(fn ->
        [again] = Nodes.start_all(place, [writer.n])
        :ok = Nodes.khepri(again, :start, [[again.name, reader.name]])
        Nodes.until("its files are back", fn -> back?(place, again, files) end)
        again
      end)

    tell.say.("started", "#{again.name} again: its files are back after #{Tree.seconds(s)}")
    again
  end

  defp back?(place, node, files) do
    {:ok, %{fetching: fetching}} = mesh(node, :status, [])
    there? = &File.exists?(Path.join([Nodes.base(place, node.n), "apps", @app, "data/files", &1]))
    fetching == 0 and Enum.all?(files, fn {name, _} -> there?.(name) end)
  end

  defp mesh(node, fun, args), do: Nodes.call(node, MeshFS, fun, args)
end
