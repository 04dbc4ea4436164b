defmodule Mix.Tasks.Macula.Backups do
  @shortdoc "Lists the backups of an app"
  @moduledoc """
  Lists the backups of an app, newest first, with size, time and whether each was read back.

      mix macula.backups APP [options]

  Options:

    --json              answer in JSON
    --help              this text

  Exit codes: 0 done, 1 failed, 2 wrong call. In a release:
  bin/my_app eval 'MaculaStorage.Operator.backups("my_app")'
  """
  use Mix.Task

  @impl true
  def run(args) do
    task = %{name: "backups", usage: @moduledoc, words: [1], switches: []}

    Mix.Macula.run(args, task, fn [app], options ->
      MaculaStorage.Operator.backups(app, options)
    end)
  end
end
