defmodule MaculaStorage.TaskRun do
  @moduledoc """
  A mix task run as from a shell, in this VM.

  Invariant: its exit code is that of the task, 0 when it returns.
  """
  import ExUnit.Assertions
  import ExUnit.CaptureIO

  @doc "`{exit code, standard output, standard error}`."
  @spec run(module, [String.t()]) :: {non_neg_integer, String.t(), String.t()}
  def run(task, args) do
    me = self()

    err =
      capture_io(:stderr, fn ->
        out =
          capture_io(fn ->
            code =
              try do
                task.run(args)
                0
              catch
                :exit, {:shutdown, code} -> code
              end

            send(me, {:code, code})
          end)

        send(me, {:out, out})
      end)

    assert_received {:code, code}
    assert_received {:out, out}
    {code, out, err}
  end
end
