defmodule MaculaStorage.MeshFS do
  @moduledoc """
  Files that survive machines: plain files of an app, each with copies on other members of the cluster.

  What `write/4` writes lies under `data/files/` of the app, as `MaculaStorage.file_write/4` would put it, and any tool
  can read it there. Besides, every member hears of it, and `mesh_copies` others (two unless configured) get a copy by
  themselves. A node alone needs no configuration, and goes on with what it has when the others are away: what was
  written meanwhile on both sides merges when they meet.

  Two changes that were made without knowledge of each other both stay. Every member shows the same one of them: a
  written one before a deletion, then the later. The other is listed by `versions/3` and readable with `version:` until
  `resolve/4` chooses; a write keeps the latest 100 of those. Nothing is deleted that nobody deleted.

  A version is `{stamp, replica}`: when it was made (milliseconds since 1970, times 65,536, and a counter), and the
  number of who made it.

      config :macula_storage, mesh_zone: "rack-1", mesh_class: :fast, mesh_copies: 2

  Errors: `:not_found`, `:timeout`, `:busy`, `:disk_full`, `:unknown_result`, `:locked`, `:too_large`, or a
  `MaculaStorage.Error`: of kind `:invalid` for a name that leaves the app; of kind `:unreachable` when a write is durable
  here, but fewer others than asked for had it in time (they get it later: nothing is to be written again), or when
  nobody who has a file can be reached.
  """

  alias MaculaStorage.{Apps, Call, Error, Native, Options}
  alias MaculaStorage.MeshFS.{Care, Feeds, Names, Stream}

  @type app :: atom | String.t()
  @type failure :: {:error, atom | Error.t()}
  @type version :: {stamp :: non_neg_integer, replica :: non_neg_integer}
  @type content :: iodata | {:path, Path.t()} | Enumerable.t()
  @type ack :: :local | pos_integer | :quorum | :all
  @type change_option :: {:ack, ack} | {:return, :info} | {:timeout, timeout}
  @type write_option :: change_option | {:copies, 0..255} | {:class, :fast | :bulk}
  @type info :: %{version: version, replicas: non_neg_integer}
  @type stat :: %{
          version: version,
          written_ms: non_neg_integer,
          size: non_neg_integer,
          id: binary,
          replicas: [node | String.t()],
          here: boolean,
          conflicts: non_neg_integer
        }

  @part 1_048_576
  @place [copies: {nil, :any}, class: {nil, {:one_of, [nil, :fast, :bulk]}}]
  @read_bytes_max 1_073_741_824
  # as good as without an end
  @ms_max 31_536_000_000
  @grace_ms 5_000

  @doc """
  Writes a whole file. Replaces the version that its name shows.

  `content` is iodata, `{:path, file}` on this machine, or a stream of binaries: those two in constant memory. Options:
  `:ack`, how many others must have it before this returns: `:local` (none), a number, `:quorum` (with this one more
  than half of those that shall have it) or `:all` of those; by default one, where the cluster has a second member.
  `:return`, `:info` for `{:ok, %{version: version, replicas: n}}`. `:timeout` (default 15 seconds). `:copies`, how many
  others shall have it beside this one, and `:class`, on what disks first; by default as `:mesh_rules` and `:mesh_copies`
  of `MaculaStorage.Config` say on this node. The version keeps that, and so do what is made of it by `copy/4`,
  `rename/4`, `resolve/4` and other programs; the next `write/4` says it anew.

  Durability: `:ok` means that content and name are synced here and on as many others as `:ack` asks for. Cost: a thread
  of ours; two syncs and two of the index, all shared with writers that come together; the others' the same. One of up to
  64 KiB: a copy of it by the caller, a thread shared with others that come at once, one sync of the index.

      iex> MaculaStorage.MeshFS.write(:mesh_doc, "notes/today.txt", "hello")
      :ok
      iex> MaculaStorage.MeshFS.read(:mesh_doc, "notes/today.txt")
      {:ok, "hello"}
  """
  @spec write(app, Path.t(), content, [write_option]) :: :ok | {:ok, info} | failure
  def write(app, name, content, options \\ []) do
    options = change_options(options, @place)

    case content do
      content when is_binary(content) or is_list(content) ->
        write_whole(app, name, iodata!(content), options)

      {:path, path} when is_binary(path) or is_list(path) ->
        write_parts(app, name, Stream.parts(path!(path), @part), options)

      other ->
        write_parts(app, name, enumerable!(other), options)
    end
  end

  defp enumerable!(content) do
    if Enumerable.impl_for(content) == nil do
      raise ArgumentError,
            "expected content as iodata, {:path, file} or a stream of binaries, got: " <>
              inspect(content, limit: 5)
    end

    content
  end

  defp write_whole(app, name, content, options) do
    start = &Native.mesh_write(&1, &2, key(app, name), content, ack(options), place(options))
    change(:mesh_write, app, options, start)
  end

  defp write_parts(app, name, parts, options) do
    {app, name} = key(app, name)
    stream = %Stream{app: app, name: name, chunk_bytes: @part, place: place(options)}

    with {:ok, writer} <- Stream.writer(stream) do
      try do
        with :ok <- Enum.reduce_while(parts, :ok, &write_part(stream, writer, &1, &2)),
             {:ok, _} = written <-
               Stream.commit(stream, writer, ack(options), wait_ms(options.timeout)) do
          changed(written, options)
        else
          {:error, _} = error ->
            Native.mesh_writer_abort(writer)
            error
        end
      catch
        kind, reason ->
          Native.mesh_writer_abort(writer)
          :erlang.raise(kind, reason, __STACKTRACE__)
      end
    end
  end

  defp write_part(stream, writer, part, :ok) do
    case Stream.write(stream, writer, part) do
      :ok -> {:cont, :ok}
      error -> {:halt, error}
    end
  end

  defp iodata!(content) do
    IO.iodata_to_binary(content)
  rescue
    ArgumentError -> reraise ArgumentError, "expected iodata as content", __STACKTRACE__
  end

  @doc """
  Reads a whole file: from here when it is here, else from the one of those that have it that answered soonest of late,
  or the next when that fails; each block compared with its hash.

  Options: `:version`, one of `versions/3` instead of the one that the name shows; `:range`, `{offset, length}` in bytes;
  `:bytes_max` (default 1 GiB: a longer file is `{:error, :too_large}`, use `stream!/3`); `:timeout`, of each mebibyte;
  `:cache` (default `false`: what was read from elsewhere is not kept here).

  With `cache: true`, what the name shows is fetched in the background, whole, once its first bytes came from elsewhere:
  a copy more, as any other. It has what is written elsewhere from then on, counts among `:replicas` of `stat/3` and in
  the app's quota, and stays until the file is deleted: nothing here makes room, and removing it by hand is a deletion.
  It is tried once for each read; who reads does not hear whether it came: `:here` of `stat/3` tells.

  Durability: what is read is durable where it was read. Cost: a thread of ours, and a message for each mebibyte; from
  elsewhere a request for each block of 256 KiB. A copy to be kept travels for itself, with what moves
  (`:mesh_repair_rate` of `MaculaStorage.Config`).

      iex> MaculaStorage.MeshFS.write(:mesh_read_doc, "a", "0123456789")
      iex> MaculaStorage.MeshFS.read(:mesh_read_doc, "a", range: {2, 3})
      {:ok, "234"}
      iex> MaculaStorage.MeshFS.read(:mesh_read_doc, "b")
      {:error, :not_found}
  """
  @spec read(app, Path.t(), keyword) :: {:ok, binary} | failure
  def read(app, name, options \\ []) do
    options =
      Options.validate!(options,
        version: {nil, :any},
        range: {nil, :any},
        bytes_max: {@read_bytes_max, :positive},
        cache: {false, :boolean},
        timeout: {nil, :timeout}
      )

    {offset, len} = range!(options.range)
    version = options.version && version!(options.version)

    # the reader stays with its version: parts of two would be neither
    with {:ok, {reader, size}} <- reader(app, name, {version, options.cache}, options),
         len = min(len, max(size - offset, 0)),
         true <- len <= options.bytes_max || {:error, :too_large} do
      parts(app, reader, {offset, len}, options, [])
    end
  end

  @doc false
  def reader(app, name, chosen, options) do
    start = &Native.mesh_reader(&1, &2, key(app, name), chosen)

    with {:ok, {reader, {_version, _ms, {_id, size}}}} <-
           on_mesh(:mesh_read, app, options, start),
         do: {:ok, {reader, size}}
  end

  @doc false
  def part(app, reader, {offset, len}, options) do
    Call.run(&Native.mesh_read_part(reader, &1, offset, len),
      op: :mesh_read,
      app: app,
      timeout: options.timeout
    )
  end

  defp parts(_app, _reader, {_offset, 0}, _options, read),
    do: {:ok, read |> Enum.reverse() |> IO.iodata_to_binary()}

  defp parts(app, reader, {offset, len}, options, read) do
    with {:ok, bytes} <- part(app, reader, {offset, min(len, @part)}, options) do
      rest = {offset + byte_size(bytes), len - byte_size(bytes)}
      parts(app, reader, rest, options, [bytes | read])
    end
  end

  defp range!(nil), do: {0, 0xFFFF_FFFF_FFFF}

  defp range!({offset, len} = range)
       when is_integer(offset) and offset >= 0 and is_integer(len) and len >= 0,
       do: range

  defp range!(other),
    do: raise(ArgumentError, "expected :range to be {offset, length}, got: #{inspect(other)}")

  @doc """
  Deletes a file everywhere. A version that was written elsewhere without knowledge of this stays. Options: as `write/4`.

  Durability: as `write/4`. Cost: a thread of ours, a sync, and two of the index, shared.

      iex> MaculaStorage.MeshFS.write(:mesh_delete_doc, "a", "1")
      iex> MaculaStorage.MeshFS.delete(:mesh_delete_doc, "a")
      :ok
      iex> MaculaStorage.MeshFS.delete(:mesh_delete_doc, "a")
      {:error, :not_found}
  """
  @spec delete(app, Path.t(), [change_option]) :: :ok | {:ok, info} | failure
  def delete(app, name, options \\ []) do
    options = change_options(options)
    start = &Native.mesh_delete(&1, &2, key(app, name), ack(options))
    change(:mesh_delete, app, options, start)
  end

  @doc """
  Gives a file's content to another name of the app too. Options: as `write/4`.

  Durability: as `write/4`. Cost: reads and writes the content here; it travels to nobody who has it. Where it is not on
  this node: an error of kind `:unreachable`.

      iex> MaculaStorage.MeshFS.write(:mesh_copy_doc, "a", "1")
      iex> MaculaStorage.MeshFS.copy(:mesh_copy_doc, "a", "dir/b")
      :ok
      iex> MaculaStorage.MeshFS.list(:mesh_copy_doc)
      {:ok, ["a", "dir/b"]}
  """
  @spec copy(app, Path.t(), Path.t(), [change_option]) :: :ok | {:ok, info} | failure
  def copy(app, name, to, options \\ []) do
    options = change_options(options)
    start = &Native.mesh_copy(&1, &2, key(app, name), path!(to), ack(options))
    change(:mesh_copy, app, options, start)
  end

  @doc """
  Gives a file another name: first it has both, then the new one only. Replaces what has the new name. Options: as
  `write/4`; `:ack` is of the new name.

  Durability: as `write/4`. Cost: as `copy/4` and `delete/3`. When it is written meanwhile: `{:error, :conflict}`, and it
  has both names.

      iex> MaculaStorage.MeshFS.write(:mesh_rename_doc, "a", "1")
      iex> MaculaStorage.MeshFS.rename(:mesh_rename_doc, "a", "b")
      :ok
      iex> MaculaStorage.MeshFS.list(:mesh_rename_doc)
      {:ok, ["b"]}
  """
  @spec rename(app, Path.t(), Path.t(), [change_option]) :: :ok | {:ok, info} | failure
  def rename(app, name, to, options \\ []) do
    options = change_options(options)
    start = &Native.mesh_rename(&1, &2, key(app, name), path!(to), ack(options))
    change(:mesh_rename, app, options, start)
  end

  @doc """
  What is known of a file: its version, when that was written, size, id, who has it, whether it is here, and how many
  versions beside it nothing replaced.

  The id is the mesh's: `<<1, 0x55, blake3::binary-32>>` of one block, `<<1, 0x56, ...>>` of a manifest. Cost: a thread of
  ours, one read of the index. Options: `:timeout`.

      iex> MaculaStorage.MeshFS.write(:mesh_stat_doc, "a", "1")
      iex> {:ok, %{size: 1, here: true, conflicts: 0}} = MaculaStorage.MeshFS.stat(:mesh_stat_doc, "a")
      iex> MaculaStorage.MeshFS.stat(:mesh_stat_doc, "b")
      {:error, :not_found}
  """
  @spec stat(app, Path.t(), keyword) :: {:ok, stat} | failure
  def stat(app, name, options \\ []) do
    options = Options.validate!(options, timeout: {nil, :timeout})
    start = &Native.mesh_stat(&1, &2, key(app, name))

    with {:ok, {{told, replicas}, {here?, conflicts}}} <-
           on_mesh(:mesh_stat, app, options, start) do
      stat = told |> shown() |> Map.merge(%{here: here?, conflicts: conflicts})
      {:ok, Map.put(stat, :replicas, replicas)}
    end
  end

  @doc """
  The versions of a file that nothing replaced, the one that its name shows first, and former ones that are kept here.

  Each with `:version`, `:written_ms`, `:size` and `:id`; those two are `nil` of a deletion, which is told until all members
  know of it, and some minutes longer. `:state` is `:shown`, `:conflict` (made at once with what is shown) or `:former`:
  replaced or deleted, the last first, as many as `keep_versions:` of `:mesh_rules` in `MaculaStorage.Config` says on this
  node, for 30 days when the file was deleted. Each node keeps those whose content it had; what another program replaced is
  gone. All are read by `read/3` and brought back by `resolve/4`. Cost: as `stat/3`. Options: `:timeout`.

      iex> MaculaStorage.MeshFS.write(:mesh_versions_doc, "a", "1")
      iex> {:ok, [%{size: 1, state: :shown}]} = MaculaStorage.MeshFS.versions(:mesh_versions_doc, "a")
      iex> MaculaStorage.MeshFS.versions(:mesh_versions_doc, "b")
      {:error, :not_found}
  """
  @spec versions(app, Path.t(), keyword) :: {:ok, [map]} | failure
  def versions(app, name, options \\ []) do
    options = Options.validate!(options, timeout: {nil, :timeout})

    with {:ok, told} <-
           on_mesh(:mesh_versions, app, options, &Native.mesh_versions(&1, &2, key(app, name))),
         do: {:ok, for({version, state} <- told, do: Map.put(shown(version), :state, state))}
  end

  @doc """
  Ends a conflict, or brings a former version back: the file has the content of one of its `versions/3`, and the others are
  replaced. Options: as `write/4`.

  Durability: as `write/4`. Cost: as writing that content anew. Where the version's content is not on this node: an
  error of kind `:unreachable` that names who has it.

      iex> MaculaStorage.MeshFS.write(:mesh_resolve_doc, "a", "1")
      iex> {:ok, [%{version: version}]} = MaculaStorage.MeshFS.versions(:mesh_resolve_doc, "a")
      iex> MaculaStorage.MeshFS.resolve(:mesh_resolve_doc, "a", version)
      :ok
  """
  @spec resolve(app, Path.t(), version, [change_option]) :: :ok | {:ok, info} | failure
  def resolve(app, name, version, options \\ []) do
    options = change_options(options)
    start = &Native.mesh_resolve(&1, &2, key(app, name), version!(version), ack(options))
    change(:mesh_resolve, app, options, start)
  end

  @doc """
  Names of the app's replicated files, here or not, sorted by bytes.

  Options: `:prefix`, a directory; `:after`, a name to go on behind; `:limit` (default: all); `:timeout`. Cost: reads the
  index of what it returns.

      iex> for name <- ["b/2", "a", "b/1"], do: MaculaStorage.MeshFS.write(:mesh_list_doc, name, "")
      iex> MaculaStorage.MeshFS.list(:mesh_list_doc, prefix: "b")
      {:ok, ["b/1", "b/2"]}
  """
  @spec list(app, keyword) :: {:ok, [String.t()]} | failure
  def list(app, options \\ []), do: Names.list(:mesh_list, app, options)

  @doc """
  Names of the app's files with more than one of `versions/3`, deleted ones among them, sorted by bytes: each waits for
  `resolve/4`.

  Options: as `list/2`. Cost: reads the index of all of the app's files.

      iex> MaculaStorage.MeshFS.conflicts(:mesh_conflicts_doc)
      {:ok, []}
  """
  @spec conflicts(app, keyword) :: {:ok, [String.t()]} | failure
  def conflicts(app, options \\ []), do: Names.list(:mesh_conflicts, app, options)

  @doc """
  A stream of chunks of the file, and something to collect chunks into: constant memory both ways.

  Read, it is the version that the name shows when the reading begins. Collected, it replaces that when all is written;
  a collection that fails leaves no trace. Options: `:chunk_bytes` (default 262,144, at most 1 MiB); `:cache`, as
  `read/3`; `:ack`, as `write/4`, for which it waits 15 seconds. Raises `MaculaStorage.Error`.

  Durability: when collecting returns, as `write/4`. Cost: a thread of ours per chunk.

      iex> Enum.into(["a", "b"], MaculaStorage.MeshFS.stream!(:mesh_stream_doc, "ab.txt"))
      iex> MaculaStorage.MeshFS.stream!(:mesh_stream_doc, "ab.txt") |> Enum.to_list()
      ["ab"]
  """
  @spec stream!(app, Path.t(), keyword) :: Stream.t()
  def stream!(app, name, options \\ []) do
    known = [chunk_bytes: {262_144, :positive}, cache: {false, :boolean}, ack: {nil, :any}]
    options = Options.validate!(options, known ++ @place)

    %Stream{
      app: Options.app!(app),
      name: path!(name),
      chunk_bytes: min(options.chunk_bytes, @part),
      cache: options.cache,
      ack: ack!(options.ack),
      place: place(options)
    }
  end

  @doc """
  Looks for what other programs did to the app's files. It is done every ten minutes by itself; where the kernel tells
  what they do (`mesh_watch: true`), that is found at once and this has the rest.

  A file that they put there is replicated from now on, a changed one has a new version, a missing one is deleted; not
  those that `MaculaStorage.file_write/4` wrote without `replicate: true`. But when more than a quarter of the files is
  missing, or all, or the directory of the files is another than before, they are lost here, not deleted: then they come
  back from other members. `deletions: true` says that
  they were deleted. Options: `:deletions` (default `false`), `:timeout` (default `:infinity`).

  `%{known: n, found: n, changed: n, deleted: n, lost: n}`. Durability: what was found is synced in the index; the
  content is other programs'. Cost: looks at each file, reads what looks different.

      iex> MaculaStorage.MeshFS.write(:mesh_scan_doc, "a", "1")
      iex> File.write!(Path.join(MaculaStorage.app_data_path(:mesh_scan_doc), "files/b"), "2")
      iex> {:ok, %{known: 1, found: 1}} = MaculaStorage.MeshFS.scan(:mesh_scan_doc)
      iex> {:ok, %{size: 1}} = MaculaStorage.MeshFS.stat(:mesh_scan_doc, "b")
  """
  @spec scan(app, keyword) :: {:ok, map} | failure
  defdelegate scan(app, options \\ []), to: Care

  @doc """
  Reads all replicated files that are here, of all apps, and compares them with their hashes. Once a week it is done by
  itself, at a pace (`:mesh_scrub_every` and `:mesh_scrub_rate` in `MaculaStorage.Config`), of apps that are open.

  One that rotted, though nobody touched it, is mended (`:mended`): of its blocks those that are right, and the others from
  members that have them. Where none that is there has them, it stays (`:rotten`), and reading it is an error of kind
  `:corrupt`. What is read is compared at any time. `:skipped`: of an app that cannot be opened.

  `%{files: n, bytes: n, mended: n, rotten: n, skipped: n}`. Options: `:pause_us`, microseconds after each file (default
  1,000); `:progress`, a function of one argument, or a pid that gets `{:macula_progress, progress}`: maps of
  `:entries_done`, `:bytes_done` and `:bytes_total` (0: not known yet); `:timeout` (default `:infinity`). Durability:
  changes no content that is right. Cost: reads everything, a mebibyte at a time.

      iex> {:ok, %{rotten: 0}} = MaculaStorage.MeshFS.scrub(pause_us: 1)
  """
  @spec scrub(keyword) :: {:ok, map} | failure
  defdelegate scrub(options \\ []), to: Care

  @doc """
  How the replicated files of this node are: `:replica` (its number), `:peers` (members that can be asked now), `:untold`
  (changes that wait to be told to others), `:fetching` (files of which content is on its way here, or waits for somebody
  who has it), `:failed` (of those the latter: tried again every three seconds, and when a member comes), `:sent_bytes` and
  `:received_bytes` (messages to and from others, since it was opened); and, as of the last look at all of them, `:files`,
  `:under_replicated` (fewer members have them than shall), and `:bytes_here`.

  `:watched_dirs` are those of which the kernel tells what other programs do there; in as many open apps as
  `:unwatched_apps` not all are (too few watches, or a file system without), and a scan finds it.

  `:refused`: what other members sent or said that cannot be so (bytes that are not the file's, contents that they lack
  and say they have, requests that are none), of each such member `%{member: name, count: n, why: text, at_ms: ms}`, the
  last time, since it was opened; the log has a warning, of each member once a minute at most. Others are asked instead.

  `:scrub`: of those that go by themselves `:last`, a map as `scrub/1` gives it with `:began_ms` and `:ended_ms`
  (milliseconds since 1970), `:now`, the same of the one under way, each `nil` when there is none; and `:due_ms`, when the
  next begins: `nil` when never. Options: `:timeout`. Cost: memory, on a thread of ours.

      iex> {:ok, %{replica: _, peers: _, files: _, scrub: %{now: _, last: _}}} = MaculaStorage.MeshFS.status()
  """
  @spec status(keyword) :: {:ok, map} | failure
  defdelegate status(options \\ []), to: Care

  @doc """
  Sends the calling process what happens to files of an app without the doing of this node's callers, as
  `{MaculaStorage.MeshFS, ref, event}`, from now on. An event is a map with `:kind`, `:name`, and more:

  | kind | what happened | more |
  |---|---|---|
  | `:changed` | the name shows a version from elsewhere | `:version`, `:size`, `:here`: whether its content is here, or need not be |
  | `:deleted` | it was deleted elsewhere | `:version` |
  | `:conflict` | a version is not shown, though nothing replaced it: see `versions/3` | `:winner`, `:loser` |
  | `:rotten` | a content here was found to be not what it was, each time that it is | |
  | `:mended` | it is again, by others' blocks | |

  Of changes that follow each other the last one is told at least. Who leaves 1,000 messages unread is sent no more; 1,000
  further events wait, and in the place of what is lost behind them comes `{MaculaStorage.MeshFS, ref, {:missed, count}}`:
  look anew (`list/2`, `conflicts/2`). `{MaculaStorage.MeshFS, ref, :closed}` is the last message, when the state was
  closed. It ends with `unsubscribe/1` or its process.

  Options: `:prefix`, a directory, or a file; `:kinds`, a list of those (default: all). Durability: what is told is synced
  here; what happens while nobody subscribes is told to nobody. Cost: a process; files cost no more while it waits.

      iex> {:ok, ref} = MaculaStorage.MeshFS.subscribe(:mesh_events_doc, kinds: [:conflict, :rotten])
      iex> MaculaStorage.MeshFS.unsubscribe(ref)
      :ok
  """
  @spec subscribe(app, keyword) :: {:ok, reference} | failure
  defdelegate subscribe(app, options \\ []), to: Feeds

  @doc "Ends a subscription; the caller's mailbox has no message of it afterwards. Again is fine. Cost: a message."
  @spec unsubscribe(reference) :: :ok
  defdelegate unsubscribe(ref), to: Feeds

  ## What calls have in common

  @doc false
  def on_mesh(op, app, options, start) do
    app = Options.app!(app)

    Apps.with_mesh(fn mesh ->
      Call.run(&start.(mesh, &1), op: op, app: app, timeout: options.timeout)
    end)
  end

  defp change(op, app, options, start) do
    # Rust gives up first, so that its reason is heard
    on_mesh(op, app, %{options | timeout: wait_ms(options.timeout)}, start) |> changed(options)
  end

  defp change_options(options, more \\ []) do
    known = [
      ack: {nil, :any},
      return: {nil, {:one_of, [nil, :info]}},
      timeout: {15_000, :timeout}
    ]

    options = Options.validate!(options, known ++ more)
    %{options | ack: ack!(options.ack)}
  end

  defp place(%{copies: copies, class: class}) when copies in 0..255 or copies == nil,
    do: {copies, class}

  defp place(%{copies: other}),
    do: raise(ArgumentError, "expected :copies to be 0 to 255, got: #{inspect(other)}")

  defp ack!(ack) when ack in [nil, :local, :quorum, :all] or ack in 1..1000, do: ack

  defp ack!(other) do
    raise ArgumentError,
          "expected :ack to be :local, a number from 1, :quorum or :all, got: #{inspect(other)}"
  end

  @doc false
  def ack(%{ack: ack, timeout: :infinity}), do: {ack, @ms_max}
  def ack(%{ack: ack, timeout: ms}), do: {ack, ms}

  defp changed({:ok, {version, replicas}}, %{return: :info}),
    do: {:ok, %{version: version, replicas: replicas}}

  defp changed({:ok, _written}, _options), do: :ok
  defp changed({:error, _} = error, _options), do: error

  defp shown({version, written_ms, nil}),
    do: %{version: version, written_ms: written_ms, size: nil, id: nil}

  defp shown({version, written_ms, {id, size}}),
    do: %{version: version, written_ms: written_ms, size: size, id: id}

  defp version!({stamp, replica} = version) when is_integer(stamp) and is_integer(replica),
    do: version

  defp version!(other),
    do: raise(ArgumentError, "expected a version of versions/3, got: #{inspect(other)}")

  defp key(app, name), do: {Options.app!(app), path!(name)}

  defp path!(name) when is_binary(name), do: name
  defp path!(name) when is_list(name), do: IO.chardata_to_string(name)

  defp path!(other),
    do: raise(ArgumentError, "expected a file name as a string, got: #{inspect(other)}")

  defp wait_ms(ms) when is_integer(ms), do: ms + @grace_ms
  defp wait_ms(other), do: other
end
