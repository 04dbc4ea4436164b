defmodule Mix.Tasks.Macula.Restore do
  @shortdoc "Restores an app from a backup"
  @moduledoc """
  Replaces an app by what a backup holds: wholly or not at all, also if the machine stops meanwhile.

      mix macula.restore APP TARBALL [options]

  TARBALL is a path, or a name that mix macula.backups printed. Works on a running app: the process
  that owns it does it, and goes on with the restored data.

  Options:

    --foreign           also an archive that is not ours, unverified
    --from-other-app    also a backup of another app
    --bytes-max N       refuse to unpack more bytes (default: what the disk has free)
    --timeout SECONDS   give up after that
    --json              answer in JSON
    --help              this text

  Exit codes: 0 done, 1 failed, 2 wrong call. In a release:
  bin/my_app eval 'MaculaStorage.Operator.restore("my_app", "TARBALL")'
  """
  use Mix.Task

  @impl true
  def run(args) do
    switches = [foreign: :boolean, from_other_app: :boolean, bytes_max: :integer, timeout: :float]
    task = %{name: "restore", usage: @moduledoc, words: [2], switches: switches}

    Mix.Macula.run(args, task, fn [app, tarball], options ->
      MaculaStorage.Operator.restore(app, tarball, options)
    end)
  end
end
