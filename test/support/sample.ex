defmodule MaculaStorage.Sample do
  @moduledoc """
  An app with something in every part, and what is to be seen of it.

  Invariant: `seen/1` tells everything that a user can see of the app, so that two that are equal are
  the same app.
  """
  alias MaculaStorage.{CubDB, SQLite}

  @doc "Fills an app. `mark` makes contents that differ from another mark's."
  @spec fill(String.t(), term) :: :ok
  def fill(app, mark) do
    :ok = MaculaStorage.ensure_app_dirs(app)
    entries = for(n <- 1..1_500, do: {{:key, n, n / 1}, {mark, n, [self: :atom]}})
    :ok = CubDB.put_multi(app, [{:large, :binary.copy(inspect(mark), 200_000)} | entries])

    :ok =
      SQLite.execute(app, """
      CREATE TABLE IF NOT EXISTS t (id INTEGER PRIMARY KEY, mark TEXT, b BLOB);
      DELETE FROM t;
      """)

    for n <- 1..5 do
      :ok =
        SQLite.execute(app, "INSERT INTO t VALUES (?, ?, zeroblob(?))", [
          n,
          inspect(mark),
          n * 999
        ])
    end

    for name <- ["a.txt", "dir/b.bin", "dir/deep/ü ñ", "empty"] do
      content =
        if name == "empty", do: "", else: :binary.copy("#{inspect(mark)} #{name}\n", 5_000)

      :ok = MaculaStorage.file_write(app, name, content)
    end

    plain(MaculaStorage.app_uploads_path(app), mark)
    plain(Path.join(MaculaStorage.app_data_path(app), "own"), mark)
    File.write!(Path.join(MaculaStorage.app_cache_path(app), "cached"), inspect(mark))
  end

  # what other programs leave: empty directories, links, modes, odd names
  defp plain(dir, mark) do
    File.rm_rf!(dir)
    File.mkdir_p!(Path.join(dir, "empty/dir"))
    File.write!(Path.join(dir, "plain"), "plain #{inspect(mark)}")
    File.write!(Path.join(dir, "script.sh"), "#!/bin/sh\n")
    File.chmod!(Path.join(dir, "script.sh"), 0o750)
    File.write!(Path.join(dir, String.duplicate("long", 60)), "long")
    File.write!(Path.join(dir, "-n 'quoted' \"x\" \\ \n"), "odd")
    File.ln_s!("plain", Path.join(dir, "link"))
    File.ln_s!("../#{Path.basename(dir)}/empty", Path.join(dir, "dir link"))
    File.write!(Path.join(dir, ".hidden"), "hidden")
  end

  @doc "Everything that can be seen of an app; `cache: true` tells of `cache/`, too."
  @spec seen(String.t(), keyword) :: map
  def seen(app, options \\ []) do
    {:ok, %{rows: rows}} = SQLite.query(app, "SELECT * FROM t ORDER BY id")
    {:ok, names} = MaculaStorage.file_list(app)
    data = MaculaStorage.app_data_path(app)
    cache = if options[:cache], do: tree(MaculaStorage.app_cache_path(app))

    %{
      kv: app |> CubDB.select() |> Enum.to_list(),
      sql: rows,
      files: for(name <- names, do: {name, MaculaStorage.file_read(app, name)}),
      stats: for(name <- names, do: stat(app, name)),
      uploads: tree(MaculaStorage.app_uploads_path(app)),
      own: tree(Path.join(data, "own")),
      cache: cache
    }
  end

  @doc "What of two sights differs, short enough to read; `[]` when they are the same."
  @spec differences(map, map) :: list
  def differences(one, two) do
    for {part, seen} <- one, two[part] != seen do
      {part, short((seen || []) -- (two[part] || [])), short((two[part] || []) -- (seen || []))}
    end
  end

  defp short(items), do: items |> Enum.take(2) |> inspect(limit: 12, printable_limit: 100)

  defp stat(app, name) do
    {:ok, stat} = MaculaStorage.file_stat(app, name)
    {name, stat}
  end

  defp tree(dir) do
    for path <- [dir, "**"] |> Path.join() |> Path.wildcard(match_dot: true) |> Enum.sort() do
      stat = File.lstat!(path, time: :posix)

      content =
        case stat.type do
          :regular -> File.read!(path)
          :symlink -> File.read_link!(path)
          :directory -> nil
        end

      {Path.relative_to(path, dir), stat.type, if(stat.type != :symlink, do: stat.mode),
       if(stat.type == :regular, do: stat.mtime), content}
    end
  end
end
