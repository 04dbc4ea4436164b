defmodule Mix.Tasks.Macula.Mesh.Status do
  @shortdoc "Tells how the replicated files of a node are"
  @moduledoc """
  Tells how the replicated files of a node are: who can be asked, what waits, what is on too few members, when they
  were read last.

      mix macula.mesh.status [options]

  The node is the VM that the application runs in, so: mix do app.start + macula.mesh.status. Of one that runs elsewhere,
  by its release: bin/my_app rpc 'MaculaStorage.Operator.mesh_status()'

  Options:

    --timeout SECONDS   give up after that
    --json              answer in JSON
    --help              this text

  Exit codes: 0 done, 1 failed, 2 wrong call.
  """
  use Mix.Task

  @impl true
  def run(args) do
    switches = [timeout: :float]
    task = %{name: "mesh.status", usage: @moduledoc, words: [0], switches: switches}

    Mix.Macula.run(args, task, fn [], options ->
      MaculaStorage.Operator.mesh_status(options)
    end)
  end
end
