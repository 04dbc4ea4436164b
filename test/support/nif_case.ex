defmodule MaculaStorage.NifCase do
  @moduledoc """
  The case template of tests that call NIFs directly, on a base directory of their own.

  Invariant: such a base has its own threads and queues, so that filling or closing them disturbs no
  other test.
  """
  use ExUnit.CaseTemplate

  alias MaculaStorage.{Call, Native}

  using do
    quote do
      use MaculaStorage.Case
      import MaculaStorage.NifCase
      alias MaculaStorage.{Call, CubDB, Error, Native, SQLite, Wait}
    end
  end

  @doc "A base directory of this test's own, closed and removed when the test ends."
  @spec own_base() :: reference
  def own_base do
    dir = MaculaStorage.Case.unique_dir("base")
    {:ok, base} = Native.base_open(dir, 4_194_304, 4_194_304, :full, 60_000)

    ExUnit.Callbacks.on_exit(fn ->
      assert call(&Native.base_close(base, &1)) in [:ok, {:error, :closed}]
    end)

    base
  end

  @doc "The reply to a NIF that answers by a message."
  @spec call((reference -> term)) :: term
  def call(start), do: Call.run(start, op: :test, timeout: 60_000)

  @doc "An app's handle, with its key-value store open."
  @spec own_app(reference, String.t()) :: reference
  def own_app(base, name \\ "app") do
    {:ok, app} = call(&Native.app_open(base, &1, name))
    :ok = call(&Native.kv_open(app, &1))
    app
  end

  @doc "Starts a process, kills it when `fun` has told `:ready`, and returns what `fun` told with it."
  @spec killed_when_ready(((term -> term) -> term)) :: term
  def killed_when_ready(fun) do
    test = self()

    {pid, ref} =
      spawn_monitor(fn ->
        fun.(fn told -> send(test, {self(), :ready, told}) end)
        receive do: (:never -> :ok)
      end)

    receive do
      {^pid, :ready, told} ->
        Process.exit(pid, :kill)
        receive do: ({:DOWN, ^ref, _, _, :killed} -> told)

      {:DOWN, ^ref, _, _, reason} ->
        flunk("the process ended by itself: #{inspect(reason)}")
    end
  end

  @doc "What is in the mailbox."
  @spec mailbox() :: [term]
  def mailbox do
    {:messages, messages} = Process.info(self(), :messages)
    messages
  end
end
