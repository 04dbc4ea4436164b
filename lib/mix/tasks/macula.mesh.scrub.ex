defmodule Mix.Tasks.Macula.Mesh.Scrub do
  @shortdoc "Reads all replicated files of a node and mends what rotted"
  @moduledoc """
  Reads all replicated files of a node, and mends what rotted with others' blocks. It is done once a week by itself.

      mix macula.mesh.scrub [options]

  The node is the VM that the application runs in, so: mix do app.start + macula.mesh.scrub. Of one that runs elsewhere,
  by its release: bin/my_app rpc 'MaculaStorage.Operator.mesh_scrub()'

  Options:

    --pause-us N        microseconds after each file (1000)
    --timeout SECONDS   give up after that
    --json              answer in JSON
    --help              this text

  Exit codes: 0 done, 1 failed or something rotten stays, 2 wrong call.
  """
  use Mix.Task

  @impl true
  def run(args) do
    switches = [pause_us: :integer, timeout: :float]
    task = %{name: "mesh.scrub", usage: @moduledoc, words: [0], switches: switches}

    Mix.Macula.run(args, task, fn [], options ->
      MaculaStorage.Operator.mesh_scrub(options)
    end)
  end
end
