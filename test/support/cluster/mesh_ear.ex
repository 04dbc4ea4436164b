defmodule MaculaStorage.Cluster.MeshEar do
  @moduledoc "Processes of a node that subscribe to replicated files, and what operators are told there."
  import ExUnit.CaptureIO
  alias MaculaStorage.{MeshFS, Operator}
  alias MaculaStorage.Cluster.Meshes

  @doc "Starts one under a name, which keeps what it hears. One that is deaf reads nothing until `hear/1`."
  @spec start(atom, keyword, boolean) :: :ok
  def start(name, options, deaf?) do
    parent = self()

    pid =
      spawn(fn ->
        {:ok, ref} = MeshFS.subscribe(Meshes.app(), options)
        Process.register(self(), name)
        send(parent, {:listens, self()})
        if deaf?, do: receive(do: (:hear -> :ok))
        loop(ref, [])
      end)

    receive do
      {:listens, ^pid} -> :ok
    end
  end

  @doc "All that one heard."
  @spec heard(atom) :: [term]
  def heard(name) do
    send(name, {:heard, self()})

    receive do
      {:all, heard} -> heard
    end
  end

  @doc false
  def hear(name) do
    send(name, :hear)
    :ok
  end

  @doc "What lies in one's mailbox."
  @spec unread(atom) :: non_neg_integer
  def unread(name) do
    {_, len} = Process.info(Process.whereis(name), :message_queue_len)
    len
  end

  defp loop(ref, heard) do
    receive do
      {MeshFS, ^ref, event} ->
        loop(ref, [event | heard])

      {:heard, from} ->
        send(from, {:all, Enum.reverse(heard)})
        loop(ref, heard)
    end
  end

  @doc "What a function of `MaculaStorage.Operator` prints."
  @spec printed(atom, list) :: String.t()
  def printed(fun, arguments) do
    {:ok, _} = Application.ensure_all_started(:ex_unit)
    capture_io(fn -> :ok = apply(Operator, fun, arguments) end)
  end
end
