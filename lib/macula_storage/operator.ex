defmodule MaculaStorage.Operator do
  @moduledoc """
  What an operator does from a shell, without Mix too:

      bin/my_app eval 'MaculaStorage.Operator.backup("my_app")'
      bin/my_app rpc  'MaculaStorage.Operator.usage()'

  and what stands behind `mix macula.backup`, `mix macula.restore`, `mix macula.backups`,
  `mix macula.usage`, `mix macula.import.cubdb`, `mix macula.cluster.*` and `mix macula.mesh.*`. Each function starts `:macula_storage` when it is not running, prints what it did
  and returns `:ok`. They work while another OS process owns the app (that process does it; not an import) and
  when nobody does. Replicated files are those of a node that runs: what is of them is asked by `rpc` only.

  A failure is printed to standard error and the caller exits with `{:shutdown, code}`, which Elixir's
  command line, Mix and `eval` of a release make their exit code: 1, it failed; 2, the call was wrong.

  With `json: true` the answer, or `{"error": {"kind", "message", "hint"}}`, is one line of JSON on
  standard output. A progress line is shown when standard error is a terminal.
  """

  alias MaculaStorage.{Config, Error, Options}
  alias MaculaStorage.Operator.{Certificates, Import, JSON, Mesh, Text}

  @type app :: MaculaStorage.app()

  @parts [:kv, :sqlite, :files, :uploads, :cache, :other]

  @doc """
  Backs an app up. Options: those of `MaculaBackup.backup_app/2`, and `:json`.

  Durability: `:ok` means that the archive is synced and, unless `verify: false`, was read back.
  Cost: reads and compresses everything.
  """
  @spec backup(app, keyword) :: :ok
  def backup(app, options \\ []) do
    perform("backup", app, with_progress("backup", options), fn options ->
      with :ok <- known(app), {:ok, info} <- MaculaBackup.backup(app, options) do
        {:ok, info |> Map.drop([:at_us]) |> Map.put(:app, name(app)), backup_text(info)}
      end
    end)
  end

  defp backup_text(info) do
    verified = if info.verified, do: ", verified", else: ", not verified"

    size =
      "#{Text.bytes(info.bytes)} for #{Text.bytes(info.bytes_in)} in #{Text.count(info.entries)} entries"

    changed =
      if info.changed > 0,
        do: "\n#{Text.count(info.changed)} entries were changed by other programs meanwhile",
        else: ""

    [info.path, ?\n, size, verified, changed | Enum.map(info.left_out, &["\nleft out: ", &1])]
  end

  @doc """
  Restores an app from a path, or from a name that `backups/2` printed. Options: those of
  `MaculaBackup.restore_app/3`, and `:json`.

  Durability: `:ok` means synced; the app is wholly the old one or wholly the new one, whenever the
  machine stops. Cost: unpacks beside the app, then exchanges two directories.
  """
  @spec restore(app, Path.t(), keyword) :: :ok
  def restore(app, tarball, options \\ []) do
    perform("restore", app, with_progress("restore", options), fn options ->
      case MaculaBackup.restore_app(app, tarball, options) do
        :ok ->
          {:ok, %{app: name(app), restored: tarball}, "#{name(app)} restored from #{tarball}"}

        {:error, :not_found} ->
          {:error,
           not_found("no such backup: #{tarball}", "names are looked up in #{backups_dir()}")}

        {:error, _} = error ->
          error
      end
    end)
  end

  @doc """
  Lists an app's backups, newest first. Options: `:json`.

  Durability: nothing is written. Cost: lists one directory, and opens each backup.
  """
  @spec backups(app, keyword) :: :ok
  def backups(app, options \\ []) do
    perform("backups", app, options, fn options ->
      case MaculaBackup.list_backups(app, [details: true] ++ options) do
        {:error, _} = error -> error
        backups -> {:ok, %{app: name(app), backups: backups}, backups_text(app, backups)}
      end
    end)
  end

  defp backups_text(app, []), do: "no backups of #{name(app)} in #{backups_dir()}"

  defp backups_text(_app, backups) do
    head = ["NAME", "SIZE", "TIME", "VERIFIED"]

    Text.table([
      head
      | for backup <- backups do
          time = backup.at |> DateTime.truncate(:second) |> DateTime.to_string()
          [backup.name, Text.bytes(backup.bytes), time, verified(backup.verified)]
        end
    ])
  end

  defp verified(true), do: "yes"
  defp verified(_), do: "-"

  @doc """
  Prints how many bytes an app uses, by part; all apps with `nil`. Options: those of
  `MaculaStorage.app_usage/2`, and `:json`.

  Durability: nothing is written. Cost: no walk unless `fresh: true`.
  """
  @spec usage(app | nil, keyword) :: :ok
  def usage(app \\ nil, options \\ [])

  def usage(nil, options) do
    perform("usage", nil, options, fn options ->
      with {:ok, apps} <- apps() do
        usages = for app <- apps, do: {app, MaculaStorage.app_usage(app, options)}
        outcome = if Enum.all?(usages, &match?({_, {:ok, _}}, &1)), do: :ok, else: :failed
        {outcome, %{apps: Enum.map(usages, &usage_data/1)}, usage_text(usages)}
      end
    end)
  end

  def usage(app, options) do
    perform("usage", app, options, fn options ->
      with :ok <- known(app), {:ok, usage} <- MaculaStorage.app_usage(app, options) do
        usages = [{name(app), {:ok, usage}}]
        {:ok, usage_data(hd(usages)), usage_text(usages)}
      end
    end)
  end

  defp usage_data({app, {:ok, usage}}), do: Map.put(usage, :app, app)
  defp usage_data({app, {:error, reason}}), do: %{app: app, error: explain(reason, app)}

  defp usage_text([]), do: "no apps in #{Config.get().base_path}"

  defp usage_text(usages) do
    head = ["APP", "TOTAL" | Enum.map(@parts, &(&1 |> Atom.to_string() |> String.upcase()))]

    rows =
      for {app, {:ok, usage}} <- usages do
        [
          app,
          Text.count(usage.total) | Enum.map(@parts, &Text.count(Map.get(usage.parts, &1, 0)))
        ]
      end

    failures =
      for {app, {:error, reason}} <- usages, do: ["\n", app, ": ", explain(reason, app).message]

    [Text.table([head | rows]), failures]
  end

  @doc """
  Imports a CubDB database, which is not changed, into the key-value store of an app. Options: `:merge`
  (default `false`: the store must be empty), and `:json`.

  Durability: each batch of up to 1,000 entries is synced; one that is cut short leaves those before,
  and is repeated with `merge: true`. Cost: reads the whole database.
  """
  @spec import_cubdb(Path.t(), app, keyword) :: :ok
  def import_cubdb(dir, app, options \\ []) do
    perform("import.cubdb", app, with_progress("import", options), fn options ->
      options = Options.validate!(options, merge: {false, :boolean}, progress: {nil, :progress})
      dir = Path.expand(dir)

      with {:ok, done} <- Import.run(dir, name(app), options) do
        {:ok, Map.merge(done, %{app: name(app), source: dir}), import_text(done, dir, app)}
      end
    end)
  end

  defp import_text(done, dir, app) do
    changed =
      if done.changed,
        do:
          "\nsomebody else wrote to it meanwhile: what came after the beginning is not imported",
        else: ""

    "#{Text.count(done.entries)} entries imported from #{dir} into #{name(app)}#{changed}"
  end

  @doc """
  Makes a cluster's authority in `dir`. Options: those of `MaculaStorage.Authority.create/2`, and `:json`.

  Durability: `:ok` means synced. Cost: six syncs.
  """
  @spec cluster_init(Path.t(), keyword) :: :ok
  def cluster_init(dir, options \\ []) do
    perform("cluster.init", nil, options, &Certificates.init(dir, &1))
  end

  @doc """
  Issues or renews the certificate of a node. Options: those of `MaculaStorage.Authority.issue/3`, and `:json`.

  Durability: `:ok` means synced; the files are wholly those before or wholly the new ones, whenever the
  machine stops. Cost: about ten syncs.
  """
  @spec cluster_issue(Path.t(), MaculaStorage.Authority.node_name(), keyword) :: :ok
  def cluster_issue(dir, node, options \\ []) do
    perform("cluster.issue", nil, options, &Certificates.issue(dir, node, &1))
  end

  @doc """
  Prints what a directory of certificates is, and how long it is good. Options: `:json`.

  Durability: nothing is written. Cost: reads its files.
  """
  @spec cluster_show(Path.t(), keyword) :: :ok
  def cluster_show(dir, options \\ []) do
    perform("cluster.show", nil, options, &Certificates.show(dir, &1))
  end

  @doc """
  Prints how the replicated files of this node are. Options: those of `MaculaStorage.MeshFS.status/1`, and `:json`.

  Durability: nothing is written. Cost: memory.
  """
  @spec mesh_status(keyword) :: :ok
  def mesh_status(options \\ []), do: of_node("mesh.status", nil, options, &Mesh.status/1)

  @doc """
  Reads all replicated files of this node and mends what rotted. Options: those of `MaculaStorage.MeshFS.scrub/1`, and
  `:json`. It failed (1) when something is rotten that nobody who is there can mend.

  Durability: what is right is not changed. Cost: reads everything.
  """
  @spec mesh_scrub(keyword) :: :ok
  def mesh_scrub(options \\ []),
    do: of_node("mesh.scrub", nil, with_progress("scrub", options), &Mesh.scrub/1)

  @doc """
  Looks for what other programs did to an app's replicated files. Options: those of `MaculaStorage.MeshFS.scan/2`, and
  `:json`.

  Durability: what was found is synced in the index. Cost: looks at each file, reads what looks different.
  """
  @spec mesh_scan(app, keyword) :: :ok
  def mesh_scan(app, options \\ []) do
    of_node("mesh.scan", app, options, fn options ->
      with :ok <- known(app), do: Mesh.scan(name(app), options)
    end)
  end

  @doc """
  Lists the names of an app's replicated files with more than one version. Options: those of
  `MaculaStorage.MeshFS.conflicts/2`, and `:json`.

  Durability: nothing is written. Cost: reads the index of all of the app's files.
  """
  @spec mesh_conflicts(app, keyword) :: :ok
  def mesh_conflicts(app, options \\ []),
    do: of_node("mesh.conflicts", app, options, &Mesh.conflicts(name(app), &1))

  # In a VM of its own, which has another name, it would be another member of the cluster on the same directory.
  defp of_node(command, app, options, work) do
    runs? = List.keymember?(Application.started_applications(), :macula_storage, 0)
    perform(command, app, options, &if(runs?, do: work.(&1), else: {:error, Mesh.elsewhere()}))
  end

  @doc false
  # For the tasks: a call that is wrong before it names a function of ours.
  @spec refuse(String.t(), String.t(), boolean) :: no_return
  def refuse(command, message, json?), do: fail(command, {:usage, message}, nil, json?)

  defp with_progress(label, options), do: Keyword.put(options, :progress, Text.line(label))

  defp perform(command, app, options, work) do
    {json?, options} = Keyword.pop(options, :json, false)
    {line, options} = Keyword.pop(options, :progress)
    options = if line, do: [progress: &Text.show(line, &1)] ++ options, else: options

    try do
      # Misuse is misuse, also where the base directory is not there.
      if app, do: Options.app!(app)
      with :ok <- start(), do: work.(options)
    rescue
      error in ArgumentError -> {:usage, Exception.message(error)}
    after
      Text.clear(line)
    end
    |> finish(command, app, json?)
  end

  defp start do
    case Application.ensure_all_started(:macula_storage) do
      {:ok, _started} -> :ok
      {:error, {app, reason}} -> {:error, not_started(app, reason)}
    end
  end

  defp not_started(app, reason) do
    message = "#{app} does not start: #{inspect(reason, limit: 20)}"
    %Error{kind: :internal, op: :start, app: nil, message: message}
  end

  defp finish({:ok, data, text}, _command, _app, json?), do: say(data, text, json?)

  defp finish({:failed, data, text}, _command, _app, json?) do
    say(data, text, json?)
    exit({:shutdown, 1})
  end

  defp finish(failure, command, app, json?), do: fail(command, failure, app && name(app), json?)

  defp say(data, text, json?), do: IO.puts(if json?, do: JSON.encode(data), else: text)

  @spec fail(String.t(), {:usage, String.t()} | {:error, term}, String.t() | nil, boolean) ::
          no_return
  defp fail(command, {kind, reason}, app, json?) do
    {code, error} =
      case kind do
        :usage -> {2, %{kind: :usage, message: reason, hint: nil}}
        :error -> {1, explain(reason, app)}
      end

    if json? do
      IO.puts(JSON.encode(%{error: error}))
    else
      hint = if error.hint, do: ["\n", error.hint], else: []
      IO.puts(stderr(), ["macula.", command, ": ", error.message, hint])
    end

    exit({:shutdown, code})
  end

  # Asked through `rpc`, standard error would be another machine's.
  defp stderr, do: if(node(Process.group_leader()) == node(), do: :stderr, else: :stdio)

  defp explain(%Error{} = error, _app), do: Map.take(error, [:kind, :message, :hint])

  defp explain(outcome, app) do
    {message, hint} = outcome_text(outcome, owner(app))
    %{kind: outcome, message: message, hint: hint}
  end

  defp outcome_text(:timeout, nil) do
    {"no answer in time", "it may or may not have been done: look, then repeat it"}
  end

  defp outcome_text(:timeout, pid) do
    {"the process that owns the app did not answer in time: os_pid=#{pid}",
     "see whether that process is stopped or overloaded; the command may still run"}
  end

  defp outcome_text(:locked, pid) do
    {"another process owns the app and cannot be asked: os_pid=#{pid || "unknown"}",
     "run this as the user of that process, or stop it first"}
  end

  defp outcome_text(:not_found, _), do: {"not found", nil}
  defp outcome_text(:disk_full, _), do: {"the disk is full", "free space, then repeat it"}
  defp outcome_text(:busy, _), do: {"too many commands at a time", "repeat it later"}

  defp outcome_text(:poisoned, _),
    do: {"an earlier sync failed: nothing is written until the app is reopened", nil}

  defp outcome_text(:unknown_result, _) do
    {"the process that did it ended, or a sync failed: it may or may not have been done",
     "look (list the backups), then repeat it"}
  end

  defp outcome_text(:opened_by_other_sqlite, _) do
    {"somebody else has the app's database open",
     "close it there first: another copy of SQLite (exqlite, the sqlite3 shell) holds the file"}
  end

  defp outcome_text(other, _), do: {to_string(other), nil}

  defp owner(nil), do: nil

  defp owner(app) do
    case MaculaStorage.app_owner(app) do
      {:ok, pid} -> if pid != String.to_integer(System.pid()), do: pid
      _ -> nil
    end
  end

  # Backing up or measuring an app that is not there would create it.
  defp known(app) do
    with {:ok, apps} <- apps() do
      if name(app) in apps do
        :ok
      else
        {:error,
         not_found(
           "no such app: app=#{name(app)}, base=#{Config.get().base_path}",
           "the apps that are there: #{Enum.join(apps, ", ")}"
         )}
      end
    end
  end

  defp apps do
    case MaculaStorage.list_apps() do
      {:error, :not_found} ->
        base = Config.get().base_path

        {:error,
         not_found("the base directory cannot be made: #{base}", "set MACULA_STORAGE_BASE")}

      result ->
        result
    end
  end

  defp not_found(message, hint),
    do: %Error{kind: :not_found, op: :look, app: nil, message: message, hint: hint}

  defp name(app), do: to_string(app)
  defp backups_dir, do: Path.join(Config.get().base_path, "backups")
end
