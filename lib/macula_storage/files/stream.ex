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
    call!(stream, :file_stream, &Native.files_reader(app!(stream), &1, stream.name))
  end

  @doc false
  def chunk!(stream, reader, offset) do
    call!(stream, :file_stream, &Native.files_read_at(reader, &1, offset, stream.chunk_bytes))
  end

  @doc false
  def writer!(stream) do
    call!(stream, :file_stream, &Native.files_writer(app!(stream), &1, stream.name))
  end

  @doc false
  def write!(stream, writer, bytes) do
    call!(stream, :file_stream, &Native.files_writer_chunk(writer, &1, bytes))
  end

  @doc false
  def commit!(stream, writer) do
    call!(stream, :file_stream, &Native.files_writer_commit(writer, &1))
  end

  defp app!(stream) do
    case Apps.app(stream.app) do
      {:ok, handle} -> handle
      {:error, reason} -> Error.raise!(reason, :file_stream, stream.app)
    end
  end

  defp call!(stream, op, start) do
    case Call.run(start, op: op, app: stream.app, timeout: :infinity) do
      {:ok, value} -> value
      :ok -> :ok
      {:error, reason} -> Error.raise!(reason, op, stream.app)
    end
  end

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
