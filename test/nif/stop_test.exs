defmodule MaculaStorage.Nif.StopTest do
  @moduledoc """
  A VM that ends while everything of ours is at work ends as it was told: no crash, no hanging, and
  what it leaves opens.

  Regression ground: our threads send messages into a VM that is being torn down, and C's `exit` runs
  destructors under their feet.
  """
  use MaculaStorage.Case, async: true

  alias MaculaStorage.CubDB

  @rounds if System.get_env("MACULA_TORTURE"), do: 500, else: 10
  @at_once 2

  # An orderly stop, a halt that flushes, and one that does not even do that.
  @ends ["System.stop(0)", ":erlang.halt(0)", ":erlang.halt(0, flush: false)"]

  @tag timeout: 3_600_000
  test "init:stop and halt under load" do
    dir = unique_dir("stop")

    1..(2 * @rounds)
    |> Task.async_stream(&one_life(Path.join(dir, "#{&1}"), &1),
      max_concurrency: @at_once,
      timeout: :infinity
    )
    |> Enum.each(fn {:ok, told} -> assert told == :ended_well end)
  end

  # No assertion here: it runs in a task, and its failure is to be told with all that was seen.
  defp one_life(dir, n) do
    File.mkdir_p!(dir)
    ending = Enum.at(@ends, rem(n, length(@ends)))

    {output, status} = child(dir, ending)
    dumped = File.exists?(Path.join(dir, "erl_crash.dump"))

    ready = File.exists?(Path.join(dir, "ready"))

    if status == 0 and ready and not dumped and output == "",
      do: :ended_well,
      else: {ending, n, status, ready, dumped, output}
  end

  defp child(dir, ending) do
    code = """
    Logger.configure(level: :emergency)
    {:ok, _} = Application.ensure_all_started(:macula_storage)
    MaculaStorage.Load.start("stopped", 21)
    MaculaStorage.Load.await(3)
    File.write!("ready", "")
    spawn(fn -> #{ending} end)
    receive do: (:never -> :ok)
    """

    ebin = CubDB |> :code.which() |> Path.dirname()
    env = [{"MACULA_STORAGE_BASE", Path.join(dir, "base")}]

    # as ChildVM, which belongs to the process that started it and so not to a task; bounded, because
    # a VM that does not end would keep the test
    System.cmd("timeout", ["-s", "KILL", "120", "elixir", "-pa", ebin, "-e", code],
      cd: dir,
      env: env,
      stderr_to_stdout: true
    )
  end
end
