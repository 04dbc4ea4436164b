defmodule Mix.Tasks.Macula.Backup do
  @shortdoc "Backs an app up"
  @moduledoc """
  Backs an app up: one instant of its database, key-value store and files.

      mix macula.backup APP [options]

  Works while another OS process owns the app, and when nobody does. Prints the path of the archive
  under backups/ of the base directory (MACULA_STORAGE_BASE, or the project's configuration).

  Options:

    --format zst|gz     what the archive is compressed with (zst)
    --level N           how hard
    --cache             take cache/ in too
    --no-verify         do not read the archive back
    --timeout SECONDS   give up after that
    --json              answer in JSON
    --help              this text

  Exit codes: 0 done, 1 failed, 2 wrong call. In a release:
  bin/my_app eval 'MaculaStorage.Operator.backup("my_app")'
  """
  use Mix.Task

  @impl true
  def run(args) do
    switches = [
      format: :string,
      level: :integer,
      cache: :boolean,
      verify: :boolean,
      timeout: :float
    ]

    task = %{name: "backup", usage: @moduledoc, words: [1], switches: switches}

    Mix.Macula.run(args, task, fn [app], options ->
      MaculaStorage.Operator.backup(app, options)
    end)
  end
end
