defmodule MaculaStorage.MeshFS.Stream do
  @moduledoc """
  A replicated file in chunks, both ways; see `MaculaStorage.MeshFS.stream!/3`.

  Invariant: reading stays with the version that its first look found; what was collected is there wholly, or not at all.
  """

  @behaviour MaculaStorage.Chunks

  alias MaculaStorage.{Apps, Call, Chunks, Error, MeshFS, Native}

  @enforce_keys [:app, :name, :chunk_bytes]
  defstruct @enforce_keys ++ [cache: false, ack: nil, place: {nil, nil}]

  @type t :: %__MODULE__{
          app: String.t(),
          name: Path.t(),
          chunk_bytes: pos_integer,
          cache: boolean,
          ack: MeshFS.ack() | nil,
          place: {0..255 | nil, :fast | :bulk | nil}
        }

  # how long others are waited for, as `MeshFS.write/4` does
  @ack_ms 15_000

  @impl true
  def reader!(stream) do
    chosen = {nil, stream.cache}

    {reader, _size} =
      ok!(MeshFS.reader(stream.app, stream.name, chosen, %{timeout: :infinity}), stream)

    reader
  end

  @impl true
  def chunk!(stream, reader, offset) do
    part = {offset, stream.chunk_bytes}
    ok!(MeshFS.part(stream.app, reader, part, %{timeout: :infinity}), stream)
  end

  # a file of this machine; `File.stream!/3` would copy each part once more
  @doc false
  def parts(path, bytes) do
    Elixir.Stream.resource(
      fn -> File.open!(path, [:raw, :read]) end,
      fn io ->
        case :file.read(io, bytes) do
          {:ok, part} -> {[part], io}
          :eof -> {:halt, io}
          {:error, reason} -> raise File.Error, reason: reason, action: "read", path: path
        end
      end,
      &File.close/1
    )
  end

  @doc false
  def writer(stream) do
    key = {stream.app, stream.name}
    Apps.with_mesh(fn mesh -> call(stream, &Native.mesh_writer(mesh, &1, key, stream.place)) end)
  end

  @impl true
  def writer!(stream), do: stream |> writer() |> ok!(stream)

  @doc false
  def write(stream, writer, chunk) do
    Chunks.write(chunk, fn piece ->
      call(stream, &Native.mesh_writer_chunk(writer, &1, piece))
    end)
  end

  @impl true
  def write!(stream, writer, chunk), do: stream |> write(writer, chunk) |> ok!(stream)

  @doc false
  def commit(stream, writer, ack, wait_ms) do
    Call.run(&Native.mesh_writer_commit(writer, &1, ack),
      op: :mesh_write,
      app: stream.app,
      timeout: wait_ms
    )
  end

  @impl true
  def commit!(stream, writer) do
    ack = MeshFS.ack(%{ack: stream.ack, timeout: @ack_ms})
    stream |> commit(writer, ack, :infinity) |> ok!(stream)
  end

  @impl true
  def abort(writer), do: Native.mesh_writer_abort(writer)

  defp call(stream, start),
    do: Call.run(start, op: :mesh_stream, app: stream.app, timeout: :infinity)

  defp ok!({:ok, value}, _stream), do: value
  defp ok!(:ok, _stream), do: :ok
  defp ok!({:error, reason}, stream), do: Error.raise!(reason, :mesh_stream, stream.app)
end
