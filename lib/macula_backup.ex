defmodule MaculaBackup do
  @moduledoc """
  Backups of an app: one instant of its database, key-value store and files as one verified archive.

      {:ok, tarball} = MaculaBackup.backup_app(:my_app)
      :ok = MaculaBackup.restore_app(:my_app, tarball)

  They work while another OS process owns the app, through its control socket, and so from
  `mix macula.backup`, and from `bin/my_app eval` or `rpc` of a release.

  Archives are named `<app>_<time>.tar.zst` under `backups/` of the base directory.
  """

  alias MaculaStorage.{Config, Error, Native, Options}

  require Logger

  @type app :: MaculaStorage.app()
  @type failure :: {:error, atom | Error.t()}

  # Of what a backup leaves out, in its warning.
  @named_max 5

  @options [
    format: {:zst, {:one_of, [:zst, :gz]}},
    level: {nil, :positive},
    cache: {false, :boolean},
    verify: {true, :boolean},
    overwrite: {false, :boolean},
    timeout: {:infinity, :timeout},
    progress: {nil, :progress}
  ]

  @doc """
  Backs an app up and returns the path of the archive.

  It holds `app.db`, the key-value store, `files/`, `uploads/` and every other file under `data/`,
  all of one instant, and a manifest with a BLAKE3 of each. Options: `:format` (`:zst`, or `:gz` as in
  the document), `:level`, `:cache` (default `false`), `:verify` (default `true`), `:timeout`,
  `:progress`, as `MaculaStorage.archive/3`.

  Durability: `{:ok, path}` means that the archive is synced and, unless `verify: false`, was read
  back. An interrupted backup leaves nothing that lists as one. What is there and cannot be archived
  (sockets, devices, links that are absolute or lead outside the app, a name of the archive's own) is
  named in a warning to the log; `MaculaStorage.archive/3` returns it as `:left_out`. A file whose bytes
  are not those that were written is an error of kind `:corrupt` that names it: no backup is made that
  would take damage for good. Cost: as `MaculaStorage.archive/3`.

      iex> MaculaStorage.data_put(:backup_doc, :a, 1)
      :ok
      iex> {:ok, tarball} = MaculaBackup.backup_app(:backup_doc)
      iex> MaculaStorage.data_put(:backup_doc, :a, 2)
      :ok
      iex> MaculaBackup.restore_app(:backup_doc, tarball)
      :ok
      iex> MaculaStorage.data_get(:backup_doc, :a)
      1
  """
  @spec backup_app(app, keyword) :: {:ok, String.t()} | failure
  def backup_app(app, options \\ []) do
    with {:ok, info} <- backup(app, options) do
      warn_left_out(app, info)
      {:ok, info.path}
    end
  end

  defp warn_left_out(_app, %{left_out: []}), do: :ok

  defp warn_left_out(app, %{left_out: left_out, path: path}) do
    {lines, more} = left_out_count(left_out)
    {named, others} = Enum.split(lines, @named_max)
    count = length(lines) + more
    rest = if others == [] and more == 0, do: "", else: ", ..."

    Logger.warning(
      "the backup does not hold everything: left_out=#{count} app=#{app} path=#{path}: " <>
        Enum.join(named, ", ") <> rest
    )
  end

  # A long list ends with a line that counts the others.
  defp left_out_count(left_out) do
    {lines, [last]} = Enum.split(left_out, -1)

    case Regex.run(~r/\Aand (\d+) more\z/, last) do
      [_, more] -> {lines, String.to_integer(more)}
      nil -> {left_out, 0}
    end
  end

  @doc false
  @spec archive(app, Path.t(), keyword) :: {:ok, map} | failure
  def archive(app, dest, options) do
    format = if String.ends_with?(dest, [".gz", ".tgz"]), do: :gz, else: :zst
    known = [format: {format, {:one_of, [:zst, :gz]}}, cache: {true, :boolean}]
    run(app, dest, options, Keyword.merge(@options, known))
  end

  @doc false
  # As `backup_app/2`, with all that is known of the archive.
  @spec backup(app, keyword) :: {:ok, map} | failure
  def backup(app, options), do: run(app, nil, options, @options)

  defp run(app, dest, options, known) do
    app = Options.app!(app)
    options = Options.validate!(options, known)
    native = Map.take(options, [:format, :level, :cache, :verify, :overwrite])
    archive = &Native.archive(&1, &2, app, dest, native, MaculaStorage.rust_ms(options.timeout))
    op = if dest, do: :archive, else: :backup_app
    MaculaStorage.on_base(op, app, call(options), archive)
  end

  @doc """
  Restores an app from an archive: a path, or a name that `list_backups/2` gave.

  Wholly or not at all, also if the machine stops meanwhile; see `MaculaStorage.restore/3` for the
  options. `:bytes_max` counts the contents of files, names, and 4,096 for each directory. Refused with `{:error, :opened_by_other_sqlite}` or the holder's OS pid while somebody else
  has the app's database open.

  Durability: `:ok` means synced. Cost: unpacks beside the app, then exchanges two directories.
  """
  @spec restore_app(app, Path.t(), keyword) :: :ok | failure
  def restore_app(app, tarball, options \\ []) do
    app = Options.app!(app)

    options =
      Options.validate!(options,
        foreign: {false, :boolean},
        from_other_app: {false, :boolean},
        bytes_max: {nil, :positive},
        timeout: {:infinity, :timeout},
        progress: {nil, :progress}
      )

    native = Map.take(options, [:foreign, :from_other_app, :bytes_max])
    path = path(tarball)
    restore = &Native.restore(&1, &2, app, path, native, MaculaStorage.rust_ms(options.timeout))

    with {:ok, _info} <- MaculaStorage.on_base(:restore_app, app, call(options), restore), do: :ok
  end

  @doc """
  The file names of an app's backups, newest first.

  With `details: true` maps of `:name`, `:path`, `:bytes`, `:at` (`DateTime`), `:verified` (`true` when
  it was read back and compared, `nil` when the disk keeps no such mark).

  Cost: lists one directory; with details opens each backup.

      iex> MaculaBackup.list_backups(:never_backed_up)
      []
  """
  @spec list_backups(app, keyword) :: [String.t()] | [map] | failure
  def list_backups(app, options \\ []) do
    app = Options.app!(app)
    options = Options.validate!(options, details: {false, :boolean})

    with {:ok, backups} <-
           MaculaStorage.on_base(:list_backups, app, [], &Native.backups(&1, &2, app)) do
      if options.details, do: Enum.map(backups, &details/1), else: Enum.map(backups, & &1.name)
    end
  end

  defp details(info) do
    info
    |> Map.take([:name, :path, :bytes, :verified])
    |> Map.put(:at, DateTime.from_unix!(info.at_us, :microsecond))
  end

  defp call(options) do
    [timeout: MaculaStorage.wait_ms(options.timeout), progress: options.progress]
  end

  defp path(tarball) do
    tarball = IO.chardata_to_string(tarball)

    if Path.basename(tarball) == tarball do
      Path.join([Config.get().base_path, "backups", tarball])
    else
      Path.expand(tarball)
    end
  end
end
