defmodule MaculaStorage do
  @moduledoc """
  Storage for applications on small clusters without Kubernetes: the front door.

  | tier | what it holds | functions |
  |---|---|---|
  | 1 hot state | what the nodes of a cluster share | `state_*`, `MaculaStorage.Khepri`, `MaculaStorage.Cache`, `MaculaStorage.Mnesia` |
  | 2 app data | key-value and relational data of one app | `data_*`, `MaculaStorage.CubDB`, `MaculaStorage.SQLite` |
  | 3 files | uploads, documents, media | `file_*`, `MaculaStorage.MeshFS` |
  | 4 archive | backups, cold data | `archive/3`, `restore/3`, `MaculaBackup` |

  An app is an atom or a string of `[a-z0-9_-]`, 1 to 64 long, beginning with a letter or digit. It is
  opened on first use, and owned by this VM from then on: another OS process gets `{:error, :locked}`,
  and reaches it through the control socket for backups and figures.

  Expected outcomes are `{:error, atom}`; what a person must read is `{:error, %MaculaStorage.Error{}}`;
  misuse raises `ArgumentError`. From Erlang the same functions are in the module `macula_storage`, with
  those of `MaculaStorage.CubDB`, `MaculaStorage.SQLite`, `MaculaStorage.Mnesia`, `MaculaStorage.Khepri`,
  `MaculaStorage.Cache`, `MaculaStorage.Authority` and `MaculaStorage.MeshFS` beneath `data_`, `sqlite_`, `mnesia_`,
  `state_`, `state_cache_`, `authority_` and `mesh_`.
  """

  alias MaculaStorage.{Apps, Call, Config, CubDB, Error, Files, Khepri, MeshFS, Native, Options}

  @type app :: atom | String.t()
  @type failure :: {:error, atom | Error.t()}

  ## Directories

  @doc """
  The directory of an app's data. Touches no disk.

      iex> MaculaStorage.app_data_path(:my_app) |> String.ends_with?("/apps/my_app/data")
      true
  """
  @spec app_data_path(app) :: String.t()
  def app_data_path(app), do: app_path(app, "data")

  @doc "The directory of an app's uploads, for any program to write. Touches no disk."
  @spec app_uploads_path(app) :: String.t()
  def app_uploads_path(app), do: app_path(app, "uploads")

  @doc "The directory of what an app can make again; backups leave it out. Touches no disk."
  @spec app_cache_path(app) :: String.t()
  def app_cache_path(app), do: app_path(app, "cache")

  @doc """
  Creates what is missing of an app's directories.

  Durability: `:ok` means that the directories are synced. Cost: a thread of ours; a sync for each
  directory that is new.

      iex> MaculaStorage.ensure_app_dirs(:dirs_doc)
      :ok
      iex> File.dir?(MaculaStorage.app_uploads_path(:dirs_doc))
      true
  """
  @spec ensure_app_dirs(app) :: :ok | failure
  def ensure_app_dirs(app) do
    app = Options.app!(app)
    on_base(:ensure_app_dirs, app, [], &Native.app_dirs(&1, &2, app))
  end

  @doc "The names of all apps that have a directory, sorted. Cost: lists one directory."
  @spec list_apps() :: {:ok, [String.t()]} | failure
  def list_apps do
    with {:ok, base} <- Apps.base(),
         do: Error.wrap_result(Native.base_apps(base), :list_apps, nil)
  end

  @doc """
  Closes an app: everything of it is synced, and other OS processes may open it.

  The next use opens it again. Durability: what was acknowledged before stays. Cost: a thread of ours.
  """
  @spec close_app(app) :: :ok | failure
  def close_app(app), do: Apps.close(Options.app!(app))

  @doc "The OS process id of the process that owns the app, `nil` if none does. Cost: opens one file."
  @spec app_owner(app) :: {:ok, pos_integer | nil} | failure
  def app_owner(app) do
    app = Options.app!(app)

    with {:ok, base} <- Apps.base(),
         do: Error.wrap_result(Native.app_owner(base, app), :app_owner, app)
  end

  @doc """
  How many bytes an app uses: the figure that `du -sb` gives (GNU coreutils before 9.2; newer ones
  leave out directories).

  What our engines write is counted at once. What other programs write (`uploads/`, `cache/`) is
  found by a walk in the background, every `usage_interval_ms` at most; see `app_usage/2`. Raises
  `MaculaStorage.Error` when the app cannot be opened.

  Cost: no walk, but at the first opening; asks the owner when another OS process owns the app. An app
  without a directory raises (kind `:not_found`).

      iex> MaculaStorage.ensure_app_dirs(:quota_doc)
      :ok
      iex> is_integer(MaculaStorage.app_quota(:quota_doc))
      true
  """
  @spec app_quota(app) :: non_neg_integer
  def app_quota(app) do
    case app_usage(app) do
      {:ok, usage} -> usage.total
      {:error, reason} -> Error.raise!(reason, :app_quota, to_string(app))
    end
  end

  @doc """
  How many bytes an app uses, by part.

  `%{total: bytes, parts: %{kv: …, sqlite: …, files: …, uploads: …, cache: …, other: …}, age_ms: ms}`.
  `age_ms` tells when the parts that other programs write were last walked, `nil`: not since the app
  was opened. Options: `:fresh` (default `false`) walks first, `:timeout`.

  Cost: no walk unless `fresh: true`.
  """
  @spec app_usage(app, keyword) :: {:ok, map} | failure
  def app_usage(app, options \\ []) do
    app = Options.app!(app)
    options = Options.validate!(options, fresh: {false, :boolean}, timeout: {30_000, :timeout})
    usage = &Native.usage(&1, &2, app, options.fresh, rust_ms(options.timeout))
    on_base(:app_usage, app, [timeout: wait_ms(options.timeout)], usage)
  end

  ## Replicated state

  @doc """
  Puts a value of the replicated state, see `MaculaStorage.Khepri.put/3`.

  Durability: `:ok` means synced by a majority of the members, of one node by itself. Cost: one sync on
  each, shared.

      iex> MaculaStorage.state_put([:apps, :console, :port], 4000)
      :ok
      iex> MaculaStorage.state_get([:apps, :console, :port])
      {:ok, 4000}
  """
  @spec state_put(Khepri.path(), term, [Khepri.write_option()]) :: :ok | failure
  def state_put(path, value, options \\ []), do: Khepri.put(path, value, options)

  @doc """
  The value at a path, or `{:error, :not_found}`; see `MaculaStorage.Khepri.get/2`.

  Cost: a message to and from a thread of ours, and a round among the members that reads share.
  """
  @spec state_get(Khepri.path(), [Khepri.read_option()]) :: {:ok, term} | failure
  def state_get(path, options \\ []), do: Khepri.get(path, options)

  @doc """
  Deletes a node and what is beneath it; see `MaculaStorage.Khepri.delete/2`.

  Durability: `:ok` means synced by a majority. Cost: one sync on each, shared.
  """
  @spec state_delete(Khepri.path(), timeout: timeout) :: :ok | failure
  def state_delete(path, options \\ []), do: Khepri.delete(path, options)

  @doc "The names of a node's children; see `MaculaStorage.Khepri.list/2`. Cost: as `state_get/2`, for each thousand."
  @spec state_list(Khepri.path() | [], keyword) :: {:ok, [term]} | failure
  def state_list(path, options \\ []), do: Khepri.list(path, options)

  ## Tier 2: key-value

  @doc """
  Writes an entry into an app's key-value store. Keys and values are any terms. A store's name, as
  given to `MaculaStorage.CubDB.start_link/2`, does as well as the app's.

  Durability: `:ok` means synced. Cost: one sync, shared with writers that come together. Errors: see
  `MaculaStorage.CubDB`. Options: `:ttl`, the milliseconds after which the entry is gone by itself, and
  `:durability`, see `MaculaStorage.CubDB.put/4`.

      iex> MaculaStorage.data_put(:data_doc, {:user, 1}, "Ada")
      :ok
      iex> MaculaStorage.data_get(:data_doc, {:user, 1})
      "Ada"
      iex> MaculaStorage.data_get(:data_doc, {:user, 2}, :nobody)
      :nobody
  """
  @spec data_put(app, term, term, [CubDB.put_option()]) :: :ok | failure
  def data_put(app, key, value, options \\ []), do: CubDB.put(app, key, value, options)

  @doc "The value of a key, or `default`. Cost: one dirty-I/O call. Durability: reads what is durable."
  @spec data_get(app, term, term) :: term
  def data_get(app, key, default \\ nil), do: CubDB.get(app, key, default)

  @doc "Deletes a key; one that is not there is fine. Durability: `:ok` means synced. Cost: one sync, shared."
  @spec data_delete(app, term) :: :ok | failure
  def data_delete(app, key), do: CubDB.delete(app, key)

  @doc """
  A lazy, sorted stream of entries; the options are those of `MaculaStorage.CubDB.select/2`.

  Cost: one dirty-I/O call per page.

      iex> MaculaStorage.data_put(:data_select_doc, 1, :a)
      :ok
      iex> MaculaStorage.data_select(:data_select_doc) |> Enum.to_list()
      [{1, :a}]
  """
  @spec data_select(app, [CubDB.select_option()]) :: Enumerable.t()
  def data_select(app, options \\ []), do: CubDB.select(app, options)

  ## Tier 3: files

  @doc """
  Writes a whole file of an app; see `MaculaStorage.Files`. With `replicate: true` it is a file of
  `MaculaStorage.MeshFS`, with copies on other members, and the options are those of its `write/4`; likewise
  `file_read/3`, `file_delete/3`, `file_list/2` and `file_stream!/3`.

  Durability: `:ok` means that content and name are synced. Cost: a thread of ours; two syncs.
  Options: `:replicate` (default `false`), `:timeout`. Errors: `:disk_full`, `:timeout`, `:unknown_result`, `:locked`, or a
  `MaculaStorage.Error` (a name that leaves the app: kind `:invalid`).

      iex> MaculaStorage.file_write(:file_doc, "notes/today.txt", "hello")
      :ok
      iex> MaculaStorage.file_read(:file_doc, "notes/today.txt")
      {:ok, "hello"}
      iex> MaculaStorage.file_read(:file_doc, "notes/tomorrow.txt")
      {:error, :not_found}
      iex> MaculaStorage.file_write(:file_doc, "shared.txt", "to all", replicate: true)
      :ok
  """
  @spec file_write(app, Path.t(), iodata, keyword) :: :ok | {:ok, MeshFS.info()} | failure
  def file_write(app, name, content, options \\ []) do
    {files, options} = files(options)
    files.write(app, name, content, options)
  end

  @doc "Reads a whole file, verified; see `MaculaStorage.Files.read/3`. Cost: a thread of ours."
  @spec file_read(app, Path.t(), keyword) :: {:ok, binary} | failure
  def file_read(app, name, options \\ []) do
    {files, options} = files(options)
    files.read(app, name, options)
  end

  @doc "Deletes a file. Durability: `:ok` means synced. Cost: one sync."
  @spec file_delete(app, Path.t(), keyword) :: :ok | {:ok, MeshFS.info()} | failure
  def file_delete(app, name, options \\ []) do
    {files, options} = files(options)
    files.delete(app, name, options)
  end

  @doc "Names of an app's files, sorted; see `MaculaStorage.Files.list/2`."
  @spec file_list(app, keyword) :: {:ok, [String.t()]} | failure
  def file_list(app, options \\ []) do
    {files, options} = files(options)
    files.list(app, options)
  end

  @doc "Size, time, mode and BLAKE3 of a file; see `MaculaStorage.Files.stat/2`."
  @spec file_stat(app, Path.t()) :: {:ok, Files.stat()} | failure
  def file_stat(app, name), do: Files.stat(app, name)

  @doc "A file as a stream of chunks both ways, in constant memory; see `MaculaStorage.Files.stream!/3`."
  @spec file_stream!(app, Path.t(), keyword) :: Files.Stream.t() | MeshFS.Stream.t()
  def file_stream!(app, name, options \\ []) do
    {files, options} = files(options)
    files.stream!(app, name, options)
  end

  # what is no keyword list is told by whoever validates it
  defp files(options) do
    if Keyword.keyword?(options) do
      case Keyword.pop(options, :replicate, false) do
        {true, options} ->
          {MeshFS, options}

        {false, options} ->
          {Files, options}

        {other, _} ->
          raise ArgumentError, "expected :replicate to be a boolean, got: #{inspect(other)}"
      end
    else
      {Files, options}
    end
  end

  ## Tier 4: archives

  @doc """
  Archives an app as it is at one instant to `dest`, a `.tar.zst` (or `.tar.gz`) that stock tools read.

  Databases and stores go in as consistent copies. Returns `{:ok, info}` with `:path`, `:bytes`,
  `:bytes_in`, `:entries`, `:changed` (files that other programs changed while they were read),
  `:left_out`, `:verified`.

  Options: `:format` (`:zst` or `:gz`; by default what the name's end says), `:level`, `:cache`
  (default `true`: `cache/` too), `:verify` (default `true`: read back and compare before it gets its
  name), `:overwrite` (default `false`: `{:error, :exists}`), `:timeout` (default `:infinity`),
  `:progress`, a function of one argument that gets `%{entries_done: n, bytes_done: n, bytes_total: n}`.
  A caller that dies cancels it. A file whose content is no longer what `file_write/4` wrote is an
  error of kind `:corrupt` that names it; a `dest` that an app lives in (its `app.db`) one of kind `:invalid`.

  Durability: `{:ok, info}` means synced. Cost: reads and compresses everything, on threads of ours.
  """
  @spec archive(app, Path.t(), keyword) :: {:ok, map} | failure
  def archive(app, dest, options \\ []) do
    MaculaBackup.archive(app, Path.expand(dest), options)
  end

  @doc """
  Replaces an app by what an archive holds: wholly or not at all, also if the machine stops meanwhile.

  Works on a running app: connections, snapshots and transactions from before answer `:closed`,
  everything else goes on with the restored data. Options: `:foreign` (default `false`: also archives
  that are not ours, unverified), `:from_other_app` (default `false`), `:bytes_max` (default: what the
  disk has free; names and directories count too), `:timeout` (default `:infinity`), `:progress`.

  Durability: `:ok` means synced. Cost: unpacks beside the app, then exchanges two directories.
  """
  @spec restore(app, Path.t(), keyword) :: :ok | failure
  def restore(app, archive, options \\ []),
    do: MaculaBackup.restore_app(app, Path.expand(archive), options)

  @doc false
  def on_base(op, app, call_options, start) do
    with {:ok, base} <- Apps.base() do
      Call.run(&start.(base, &1), [op: op, app: app] ++ call_options)
    end
  end

  # Rust gives up first, so that its reason is heard
  @doc false
  def wait_ms(:infinity), do: :infinity
  def wait_ms(ms), do: ms + 1_000

  @doc false
  def rust_ms(:infinity), do: 0
  def rust_ms(ms), do: ms

  defp app_path(app, dir), do: Path.join([Config.get().base_path, "apps", Options.app!(app), dir])
end
