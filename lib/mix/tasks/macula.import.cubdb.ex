defmodule Mix.Tasks.Macula.Import.Cubdb do
  @shortdoc "Imports a CubDB database into an app"
  @moduledoc """
  Imports a CubDB database into the key-value store of an app.

      mix macula.import.cubdb DIR APP [options]

  DIR is the data directory of CubDB (with its .cub file). It is read with the CubDB (version 2) of the
  project in which this runs, as it is at one instant, and never changed. The entries are written in
  batches, each synced; at the end their number is compared. Nobody else may own the app meanwhile.

  Options:

    --merge     into an app whose store is not empty: an entry of the same key is replaced. Also to
                repeat an import that was cut short
    --json      answer in JSON
    --help      this text

  Exit codes: 0 done, 1 failed, 2 wrong call. In a release:
  bin/my_app eval 'MaculaStorage.Operator.import_cubdb("path/to/dir", "my_app")'
  """
  use Mix.Task

  @impl true
  def run(args) do
    task = %{
      name: "import.cubdb",
      usage: @moduledoc,
      words: [2],
      switches: [merge: :boolean]
    }

    Mix.Macula.run(args, task, fn [dir, app], options ->
      MaculaStorage.Operator.import_cubdb(dir, app, options)
    end)
  end
end
