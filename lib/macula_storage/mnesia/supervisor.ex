defmodule MaculaStorage.Mnesia.Supervisor do
  @moduledoc false
  # What stands beside mnesia on each node: who listens, and who syncs. Both are idle, and mnesia not even
  # loaded, until `MaculaStorage.Mnesia.setup/1`.
  #
  # Invariant: they hold nothing that a restart would lose for good, so that one may crash without the apps.

  use Supervisor

  alias MaculaStorage.Mnesia.{Syncer, Watch}

  @doc false
  def start_link(_options), do: Supervisor.start_link(__MODULE__, nil, name: __MODULE__)

  @impl true
  def init(nil) do
    children = [{Registry, keys: :duplicate, name: Watch.subscribers()}, Syncer, Watch]
    Supervisor.init(children, strategy: :one_for_one, max_restarts: 20, max_seconds: 5)
  end
end
