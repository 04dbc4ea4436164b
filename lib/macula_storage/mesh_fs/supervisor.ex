defmodule MaculaStorage.MeshFS.Supervisor do
  @moduledoc false
  # Who carries requests by a transport of the application. What an application does there ends no app of this VM.

  use Supervisor

  alias MaculaStorage.MeshFS.Courier

  def start_link(_options), do: Supervisor.start_link(__MODULE__, nil, name: __MODULE__)

  @impl true
  def init(nil), do: Supervisor.init([Courier], strategy: :one_for_one)
end
