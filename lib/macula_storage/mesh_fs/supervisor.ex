defmodule MaculaStorage.MeshFS.Supervisor do
  @moduledoc false
  # Who carries requests by a transport of the application, and who writes to the log what other members did. What an
  # application does there ends no app of this VM.

  use Supervisor

  alias MaculaStorage.MeshFS.{Courier, Refusals}

  def start_link(_options), do: Supervisor.start_link(__MODULE__, nil, name: __MODULE__)

  @impl true
  def init(nil), do: Supervisor.init([Courier, Refusals], strategy: :one_for_one)
end
