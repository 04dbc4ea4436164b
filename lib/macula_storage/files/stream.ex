defmodule MaculaStorage.Files.Stream do
  @moduledoc """
  A file as an `Enumerable` of chunks and a `Collectable`; made by `MaculaStorage.file_stream!/3`.
  """

  alias MaculaStorage.{Apps, Call, Error, Native}

  @enforce_keys [:app, :name, :chunk_bytes]
  defstruct @enforce_keys

  @type t :: %__MODULE__{app: String.t(), name: String.t(), chunk_bytes: pos_integer}

  @doc false
  def reader!(%__MODULE__{} = stream) do
    on_app!(stream, &Native.files_reader(&1, &2, stream.name))
  end

  @doc false
  def chunk!(stream, reader, offset) do
    stream |> call(&Native.files_read_at(reader, &1, offset, stream.chunk_bytes)) |> ok!(stream)
  end

  @doc false
  def writer!(stream) do
    on_app!(stream, &Native.files_writer(&1, &2, stream.name))
  end

  @doc false
  def write!(stream, writer, bytes) do
    stream |> call(&Native.files_writer_chunk(writer, &1, bytes)) |> ok!(stream)
  end

  @doc false
  def commit!(stream, writer) do
    stream |> call(&Native.files_writer_commit(writer, &1)) |> ok!(stream)
  end

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

  defimpl Enumerable do
    alias MaculaStorage.Files.Stream, as: FileStream

    def reduce(stream, acc, fun) do
      Stream.resource(
        fn -> {FileStream.reader!(stream), 0} end,
        fn {reader, offset} ->
          case FileStream.chunk!(stream, reader, offset) do
            "" -> {:halt, {reader, offset}}
            bytes -> {[bytes], {reader, offset + byte_size(bytes)}}
          end
        end,
        fn _ -> :ok end
      ).(acc, fun)
    end

    def count(_stream), do: {:error, __MODULE__}
    def member?(_stream, _element), do: {:error, __MODULE__}
    def slice(_stream), do: {:error, __MODULE__}
  end

  defimpl Collectable do
    alias MaculaStorage.Files.Stream, as: FileStream
    alias MaculaStorage.Native

    def into(stream) do
      writer = FileStream.writer!(stream)

      {:ok,
       fn
         :ok, {:cont, chunk} ->
           chunk |> IO.iodata_to_binary() |> write(stream, writer)

         :ok, :done ->
           FileStream.commit!(stream, writer)
           stream

         :ok, :halt ->
           Native.files_writer_abort(writer)
       end}
    end

    # a chunk crosses in pieces, so that no call handles more than a mebibyte
    defp write("", _stream, _writer), do: :ok

    defp write(<<piece::binary-size(1_048_576), rest::binary>>, stream, writer) do
      FileStream.write!(stream, writer, piece)
      write(rest, stream, writer)
    end

    defp write(piece, stream, writer), do: FileStream.write!(stream, writer, piece)
  end
end
