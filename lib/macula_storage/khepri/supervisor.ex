defmodule MaculaStorage.Khepri.Supervisor do
  @moduledoc false
  # The processes of the replicated state: those that watch, and those that keep this VM's leases alive.

  use Supervisor

  alias MaculaStorage.Khepri.{Endpoint, Leases, Watches}

  def start_link(_options), do: Supervisor.start_link(__MODULE__, nil, name: __MODULE__)

  @impl true
  def init(nil) do
    children = [Endpoint, Watches, {Task.Supervisor, name: Leases.Tasks}, Leases]
    Supervisor.init(children, strategy: :one_for_one)
  end
end
