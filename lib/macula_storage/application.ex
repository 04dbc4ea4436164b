defmodule MaculaStorage.Application do
  @moduledoc false
  # Reads the configuration and supervises the owner of the apps, who carries requests of replicated files where
  # an application has a transport for them, and what listens to a mnesia that is set up. The base directory is opened on first use, so that a host application boots with a directory that is not there yet.

  use Application

  @impl true
  def start(_type, _args) do
    MaculaStorage.Config.load()

    children = [
      {Registry, keys: :unique, name: MaculaStorage.Stores},
      MaculaStorage.Apps,
      MaculaStorage.MeshFS.Supervisor,
      MaculaStorage.Khepri.Supervisor,
      MaculaStorage.MeshFS.Feeds,
      MaculaStorage.Mnesia.Supervisor
    ]

    Supervisor.start_link(children, strategy: :one_for_all, name: MaculaStorage.Supervisor)
  end
end
