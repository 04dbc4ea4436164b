defmodule MaculaStorage.Chunks do
  @moduledoc """
  A file in chunks, both ways, whichever tier it is of: an `Enumerable` and a `Collectable`.

  Invariant: no call handles more than a mebibyte, and what was collected is there wholly, or not at all.
  """

  @type stream :: struct
  @type reader :: term
  @type writer :: term

  @callback reader!(stream) :: reader
  @doc "At most a chunk at an offset; empty at the end."
  @callback chunk!(stream, reader, offset :: non_neg_integer) :: binary
  @callback writer!(stream) :: writer
  @callback write!(stream, writer, chunk :: iodata) :: :ok
  @callback commit!(stream, writer) :: term
  @callback abort(writer) :: :ok

  @piece 1_048_576

  @doc false
  def write(chunk, write_piece), do: chunk |> IO.iodata_to_binary() |> write_pieces(write_piece)

  defp write_pieces("", _write_piece), do: :ok

  defp write_pieces(<<piece::binary-size(@piece), rest::binary>>, write_piece) do
    with :ok <- write_piece.(piece), do: write_pieces(rest, write_piece)
  end

  defp write_pieces(piece, write_piece), do: write_piece.(piece)
end

defimpl Enumerable, for: [MaculaStorage.Files.Stream, MaculaStorage.MeshFS.Stream] do
  def reduce(%tier{} = stream, acc, fun) do
    Stream.resource(
      fn -> {tier.reader!(stream), 0} end,
      fn {reader, offset} ->
        case tier.chunk!(stream, reader, offset) do
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

defimpl Collectable, for: [MaculaStorage.Files.Stream, MaculaStorage.MeshFS.Stream] do
  def into(%tier{} = stream) do
    writer = tier.writer!(stream)

    {:ok,
     fn
       :ok, {:cont, chunk} ->
         tier.write!(stream, writer, chunk)

       :ok, :done ->
         tier.commit!(stream, writer)
         stream

       :ok, :halt ->
         tier.abort(writer)
     end}
  end
end
