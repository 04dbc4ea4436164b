defmodule MaculaStorage.Nif.AnswersTest do
  @moduledoc "Exactly one answer to each call: also when its job panics, and when there is no room for it."
  use MaculaStorage.NifCase, async: true

  @workers MaculaStorage.Nif.Panics.workers()
  @queue_len_max 1024
  # how long the threads are held: longer than a busy machine needs to fill the queue
  @hold_ms 3_000

  # In a VM of its own, because a panic writes to standard error, and a passing test is quiet.
  test "a job that panics answers, and costs no thread" do
    child = ChildVM.start("MaculaStorage.Nif.Panics.run()", base: unique_dir(), stderr: true)
    {lines, status} = ChildVM.rest(child)
    assert status == 0, Enum.join(lines, "\n")
    assert "all answered" in lines
    assert Enum.any?(lines, &(&1 =~ "asked to panic"))
  end

  test "a full queue is :busy at once, and what was taken is answered" do
    base = own_base()
    test = self()

    callers =
      for _ <- 1..12 do
        spawn_link(fn ->
          taken = for _ <- 1..100, do: Native.probe(base, make_ref(), @hold_ms, false)
          send(test, {:submitted, taken})
          receive do: (:end -> :ok)
        end)
      end

    answers =
      for _ <- callers, {:submitted, answers} <- [receive(do: (answer -> answer))], do: answers

    {taken, refused} = answers |> List.flatten() |> Enum.split_with(&match?({:ok, _}, &1))
    assert Enum.uniq(refused) == [{:error, :busy}]
    # threads may have taken some before the queue was full
    assert length(taken) in @queue_len_max..(@queue_len_max + 3 * @workers)

    # their calls end with them: there is room again
    Enum.each(callers, &send(&1, :end))

    Wait.until("room in the queue", fn ->
      call(&Native.probe(base, &1, 0, false)) == {:ok, :done}
    end)
  end

  test "a call that is given up is never answered, one that was answered says so" do
    base = own_base()
    ref = make_ref()
    {:ok, call} = Native.probe(base, ref, 200, false)
    assert Native.call_cancel(call) == :cancelled
    assert Native.call_cancel(call) == :cancelled

    {:ok, answered} = Native.probe(base, ref, 0, false)
    assert_receive {^ref, {:ok, :done}}, 60_000
    assert Native.call_cancel(answered) == :replied

    # every job of the pool is over when a full round of later ones is
    probes =
      for _ <- 1..@workers, do: Task.async(fn -> call(&Native.probe(base, &1, 250, false)) end)

    Task.await_many(probes, 60_000)
    assert mailbox() == []
  end

  test "the reply carries the caller's own reference, whatever waits in its mailbox" do
    base = own_base()
    for n <- 1..1_000, do: send(self(), {make_ref(), n})
    assert {:ok, :done} = call(&Native.probe(base, &1, 0, false))
    assert length(mailbox()) == 1_000
  end
end
