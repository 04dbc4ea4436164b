defmodule Mix.Tasks.Macula.Mesh.Conflicts do
  @shortdoc "Lists replicated files with more than one version"
  @moduledoc """
  Lists the names of an app's replicated files that two wrote at once: MaculaStorage.MeshFS.resolve/4 chooses.

      mix macula.mesh.conflicts APP [options]

  The node is the VM that the application runs in, so: mix do app.start + macula.mesh.conflicts. Of one that runs elsewhere,
  by its release: bin/my_app rpc 'MaculaStorage.Operator.mesh_conflicts("my_app")'

  Options:

    --prefix DIR        below that only
    --after NAME        behind that only
    --limit N           so many at most
    --timeout SECONDS   give up after that
    --json              answer in JSON
    --help              this text

  Exit codes: 0 done, 1 failed, 2 wrong call.
  """
  use Mix.Task

  @impl true
  def run(args) do
    switches = [prefix: :string, after: :string, limit: :integer, timeout: :float]
    task = %{name: "mesh.conflicts", usage: @moduledoc, words: [1], switches: switches}

    Mix.Macula.run(args, task, fn [app], options ->
      MaculaStorage.Operator.mesh_conflicts(app, options)
    end)
  end
end
