defmodule Mix.Tasks.Macula.Cluster.Init do
  @shortdoc "Makes the authority of a cluster"
  @moduledoc """
  Makes the authority of a cluster, which issues the nodes' certificates, in a directory that is not there.

      mix macula.cluster.init DIR [options]

  Who has its key lets anybody into the cluster: run this on a machine that is no member, keep a copy.

  Options:

    --days N            for how long it issues (3650)
    --successor-of DIR  of the cluster of that authority, to replace it
    --json              answer in JSON
    --help              this text

  Exit codes: 0 done, 1 failed, 2 wrong call. In a release:
  bin/my_app eval 'MaculaStorage.Operator.cluster_init("DIR")'
  """
  use Mix.Task

  @impl true
  def run(args) do
    switches = [days: :integer, successor_of: :string]
    task = %{name: "cluster.init", usage: @moduledoc, words: [1], switches: switches}

    Mix.Macula.run(args, task, fn [dir], options ->
      MaculaStorage.Operator.cluster_init(dir, options)
    end)
  end
end
