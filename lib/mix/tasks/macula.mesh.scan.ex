defmodule Mix.Tasks.Macula.Mesh.Scan do
  @shortdoc "Looks for what other programs did to replicated files"
  @moduledoc """
  Looks for what other programs did to the replicated files of an app. It is done every ten minutes by itself.

      mix macula.mesh.scan APP [options]

  The node is the VM that the application runs in, so: mix do app.start + macula.mesh.scan. Of one that runs elsewhere,
  by its release: bin/my_app rpc 'MaculaStorage.Operator.mesh_scan("my_app")'

  Options:

    --deletions         what is missing was deleted, however much it is
    --timeout SECONDS   give up after that
    --json              answer in JSON
    --help              this text

  Exit codes: 0 done, 1 failed, 2 wrong call.
  """
  use Mix.Task

  @impl true
  def run(args) do
    switches = [deletions: :boolean, timeout: :float]
    task = %{name: "mesh.scan", usage: @moduledoc, words: [1], switches: switches}

    Mix.Macula.run(args, task, fn [app], options ->
      MaculaStorage.Operator.mesh_scan(app, options)
    end)
  end
end
