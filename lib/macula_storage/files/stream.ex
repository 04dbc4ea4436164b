defmodule MaculaStorage.Files.Stream do
  @moduledoc """
  A file as an `Enumerable` of chunks and a `Collectable`; made by `MaculaStorage.file_stream!/3`.
  """

  @behaviour MaculaStorage.Chunks

  alias MaculaStorage.{Apps, Call, Chunks, Error, Native}

  @enforce_keys [:app, :name, :chunk_bytes]
  defstruct @enforce_keys

  @type t :: %__MODULE__{app: String.t(), name: String.t(), chunk_bytes: pos_integer}

  @impl true
  def reader!(%__MODULE__{} = stream) do
    on_app!(stream, &Native.files_reader(&1, &2, stream.name))
  end

  @impl true
  def chunk!(stream, reader, offset) do
    stream |> call(&Native.files_read_at(reader, &1, offset, stream.chunk_bytes)) |> ok!(stream)
  end

  @impl true
  def writer!(stream) do
    on_app!(stream, &Native.files_writer(&1, &2, stream.name))
  end

  @impl true
  def write!(stream, writer, chunk) do
    chunk
    |> Chunks.write(fn piece -> call(stream, &Native.files_writer_chunk(writer, &1, piece)) end)
    |> ok!(stream)
  end

  @impl true
  def commit!(stream, writer) do
    stream |> call(&Native.files_writer_commit(writer, &1)) |> ok!(stream)
  end

  @impl true
  def abort(writer), do: Native.files_writer_abort(writer)

  defp on_app!(stream, start) do
    stream.app
    |> Apps.with_app(fn handle -> call(stream, &start.(handle, &1)) end)
    |> ok!(stream)
  end

  defp call(stream, start),
    do: Call.run(start, op: :file_stream, app: stream.app, timeout: :infinity)

  defp ok!({:ok, value}, _stream), do: value
  defp ok!(:ok, _stream), do: :ok
  defp ok!({:error, reason}, stream), do: Error.raise!(reason, :file_stream, stream.app)
end
