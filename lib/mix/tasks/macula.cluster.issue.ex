defmodule Mix.Tasks.Macula.Cluster.Issue do
  @shortdoc "Issues or renews a node's certificate"
  @moduledoc """
  Issues the certificate of a node, or renews it: three files, ca.pem, cert.pem and key.pem, for the node alone.

      mix macula.cluster.issue DIR NODE [options]

  DIR is the authority's, made by mix macula.cluster.init. NODE is the node's name as Erlang has it,
  name@host. The files replace those that were issued to that node before.

  Options:

    --role member|client  what it may do: be in the cluster, or ask it (member)
    --out DIR             where the files go (issued/NODE in the authority's directory)
    --days N              for how long (365)
    --trust DIR           another authority of the cluster that the node trusts too, during a rotation
    --json                answer in JSON
    --help                this text

  Exit codes: 0 done, 1 failed, 2 wrong call. In a release:
  bin/my_app eval 'MaculaStorage.Operator.cluster_issue("DIR", "name@host")'
  """
  use Mix.Task

  @impl true
  def run(args) do
    switches = [role: :string, out: :string, days: :integer, trust: :keep]
    task = %{name: "cluster.issue", usage: @moduledoc, words: [2], switches: switches}

    Mix.Macula.run(args, task, fn [dir, node], options ->
      MaculaStorage.Operator.cluster_issue(dir, node, options)
    end)
  end
end
