defmodule MaculaStorage.Files do
  @moduledoc """
  The files of an app: plain files under `data/files/` that any tool can read.

  Names are relative paths (`"photos/1.jpg"`). `..`, absolute names, NUL and names that cross a
  symlink are refused; nothing is ever opened outside the app's directory.

  A write goes to a temporary file, is hashed (BLAKE3), synced and renamed: no half file is ever
  seen. `MaculaStorage.file_write/4` and its companions are the front door to this module.
  """

  alias MaculaStorage.{Apps, Call, Error, Native, Options}
  alias MaculaStorage.Files.Stream

  @type app :: atom | String.t()
  @type failure :: {:error, atom | Error.t()}
  @type stat :: %{
          size: non_neg_integer,
          mtime_ms: integer,
          mode: non_neg_integer,
          blake3: binary | nil
        }

  @read_bytes_max 1_073_741_824

  @doc """
  Writes a whole file. Replaces what is there.

  Durability: `:ok` means that content and name are synced. Cost: a thread of ours; two syncs.
  """
  @spec write(app, Path.t(), iodata, keyword) :: :ok | failure
  def write(app, name, content, options \\ []) do
    options = Options.validate!(options, timeout: {nil, :timeout})
    content = IO.iodata_to_binary(content)
    on_app(app, :file_write, options, &Native.files_write(&1, &2, name!(name), content))
  end

  @doc """
  Reads a whole file, and compares it with its checksum when it is the file that we wrote.

  Options: `:bytes_max` (default 1 GiB; a longer file is `{:error, :too_large}`, use `stream!/3`).
  Cost: a thread of ours; the file in memory.
  """
  @spec read(app, Path.t(), keyword) :: {:ok, binary} | failure
  def read(app, name, options \\ []) do
    options =
      Options.validate!(options,
        timeout: {nil, :timeout},
        bytes_max: {@read_bytes_max, :positive}
      )

    on_app(app, :file_read, options, &Native.files_read(&1, &2, name!(name), options.bytes_max))
  end

  @doc "Deletes a file; directories left empty go with it. Durability: `:ok` means synced. Cost: one sync."
  @spec delete(app, Path.t(), keyword) :: :ok | failure
  def delete(app, name, options \\ []) do
    options = Options.validate!(options, timeout: {nil, :timeout})
    on_app(app, :file_delete, options, &Native.files_delete(&1, &2, name!(name)))
  end

  @doc "Size, time, mode and BLAKE3 (`nil` when other tools wrote it). Cost: opens the file."
  @spec stat(app, Path.t()) :: {:ok, stat} | failure
  def stat(app, name) do
    on_app(app, :file_stat, %{timeout: nil}, &Native.files_stat(&1, &2, name!(name)))
  end

  @doc """
  Names of the app's files, sorted by bytes.

  Options: `:prefix`, a directory; `:after`, a name to go on behind; `:limit` (default: all).
  Cost: walks the directories of what it returns.
  """
  @spec list(app, keyword) :: {:ok, [String.t()]} | failure
  def list(app, options \\ []) do
    options =
      Options.validate!(options,
        prefix: {nil, :path},
        after: {nil, :path},
        limit: {1_000_000_000, :positive},
        timeout: {nil, :timeout}
      )

    # "photos/" is the directory "photos"
    options = Map.update!(options, :prefix, &(&1 && String.trim_trailing(&1, "/")))
    list_pages(app, options, options.after, options.limit, [])
  end

  @page 1_000

  defp list_pages(app, options, from, left, pages) do
    limit = min(left, @page)
    page = &Native.files_list(&1, &2, options.prefix, from, limit)

    case on_app(app, :file_list, options, page) do
      {:ok, {names, more}} when more and length(names) < left ->
        list_pages(app, options, List.last(names), left - length(names), [names | pages])

      {:ok, {names, _more}} ->
        {:ok, [names | pages] |> Enum.reverse() |> Enum.concat()}

      {:error, _} = error ->
        error
    end
  end

  @doc """
  A stream of chunks of the file, and something to collect chunks into: constant memory both ways.

  Collecting replaces the file when all is written; a collection that fails leaves no trace. Options:
  `:chunk_bytes` (default 262,144, at most 1 MiB). Raises `MaculaStorage.Error`.

  Durability: when collecting returns, content and name are synced. Cost: a thread of ours per chunk.

      iex> Enum.into(["a", "b"], MaculaStorage.file_stream!(:stream_doc, "ab.txt"))
      iex> MaculaStorage.file_read(:stream_doc, "ab.txt")
      {:ok, "ab"}
  """
  @spec stream!(app, Path.t(), keyword) :: Stream.t()
  def stream!(app, name, options \\ []) do
    options = Options.validate!(options, chunk_bytes: {262_144, :positive})

    %Stream{
      app: Options.app!(app),
      name: name!(name),
      chunk_bytes: min(options.chunk_bytes, 1_048_576)
    }
  end

  defp on_app(app, op, options, start) do
    app = Options.app!(app)

    Apps.with_app(app, fn handle ->
      Call.run(&start.(handle, &1), op: op, app: app, timeout: options.timeout)
    end)
  end

  defp name!(name) when is_binary(name), do: name
  defp name!(name) when is_list(name), do: IO.chardata_to_string(name)

  defp name!(other),
    do: raise(ArgumentError, "expected a file name as a string, got: #{inspect(other)}")
end
