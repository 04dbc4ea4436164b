defmodule Mix.Tasks.Macula.Usage do
  @shortdoc "Tells how many bytes apps use"
  @moduledoc """
  Tells how many bytes an app uses, by part; without APP, each app.

      mix macula.usage [APP] [options]

  Works while another OS process owns the app, and when nobody does.

  Options:

    --fresh             count first what other programs wrote
    --timeout SECONDS   give up after that (30)
    --json              answer in JSON
    --help              this text

  Exit codes: 0 done, 1 failed (for one of the apps), 2 wrong call. In a release:
  bin/my_app eval 'MaculaStorage.Operator.usage()'
  """
  use Mix.Task

  @impl true
  def run(args) do
    task = %{
      name: "usage",
      usage: @moduledoc,
      words: [0, 1],
      switches: [fresh: :boolean, timeout: :float]
    }

    Mix.Macula.run(args, task, fn words, options ->
      MaculaStorage.Operator.usage(List.first(words), options)
    end)
  end
end
