defmodule Mix.Tasks.Macula.Cluster.Show do
  @shortdoc "Tells what a certificate's directory is"
  @moduledoc """
  Tells whether a directory is an authority's or a node's certificate, whose, and how many days are left.

      mix macula.cluster.show DIR [options]

  Options:

    --json              answer in JSON
    --help              this text

  Exit codes: 0 done, 1 failed, 2 wrong call. In a release:
  bin/my_app eval 'MaculaStorage.Operator.cluster_show("DIR")'
  """
  use Mix.Task

  @impl true
  def run(args) do
    task = %{name: "cluster.show", usage: @moduledoc, words: [1], switches: []}

    Mix.Macula.run(args, task, fn [dir], options ->
      MaculaStorage.Operator.cluster_show(dir, options)
    end)
  end
end
