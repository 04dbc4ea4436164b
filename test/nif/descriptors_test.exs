defmodule MaculaStorage.Nif.DescriptorsTest do
  @moduledoc "Handles that nobody closed give back what they held when their process is gone."
  use MaculaStorage.NifCase, async: false

  @each 250

  test "a thousand handles dropped, and the descriptors are back" do
    app = unique_app()
    :ok = MaculaStorage.file_write(app, "a.txt", "a")
    :ok = CubDB.put(app, 1, 1)
    :ok = SQLite.execute(app, "CREATE TABLE t (n)")
    {:ok, handle} = MaculaStorage.Apps.app(app)
    before = settled()
    test = self()

    {pid, ref} =
      spawn_monitor(fn ->
        handles =
          for n <- 1..@each do
            {:ok, reader} = call(&Native.files_reader(handle, &1, "a.txt"))
            {:ok, writer} = call(&Native.files_writer(handle, &1, "w/#{n}"))
            {:ok, snapshot} = Native.kv_snapshot(handle)
            {:ok, conn} = SQLite.open(app)
            [reader, writer, snapshot, conn]
          end

        send(test, {:open, length(handles), Wait.descriptors()})
        receive do: (:end -> length(handles))
      end)

    assert_receive {:open, @each, held}, 60_000
    assert held >= before + 2 * @each
    send(pid, :end)
    assert_receive {:DOWN, ^ref, :process, ^pid, :normal}, 60_000
    Wait.until("descriptors before=#{before}", fn -> Wait.descriptors() <= before end)

    # nothing of the thousand is left to keep the app from closing, or to be seen in it
    assert {:ok, ["a.txt"]} = MaculaStorage.file_list(app)
    assert :ok = MaculaStorage.close_app(app)
  end

  test "apps opened and closed leave no descriptor and no thread" do
    cycle = fn ->
      app = unique_app()
      :ok = CubDB.put(app, 1, 1)
      # a handle dropped: the one thread that closes such begins with the first
      1 = CubDB.with_snapshot(app, &CubDB.Snapshot.size/1)
      :ok = SQLite.execute(app, "CREATE TABLE t (n)")
      {:ok, _} = SQLite.query(app, "SELECT 1")
      :ok = MaculaStorage.file_write(app, "a.txt", "a")
      :ok = MaculaStorage.close_app(app)
    end

    cycle.()
    before = settled()
    threads = threads()
    for _ <- 1..25, do: cycle.()
    Wait.until("descriptors before=#{before}", fn -> Wait.descriptors() <= before end)
    Wait.until("threads before=#{threads}", fn -> threads() <= threads end)
  end

  # Descriptors that earlier tests let go of may still be on the closer thread: looked at until the
  # number stays the same.
  defp settled do
    Process.put(:seen, {nil, 0})

    Wait.until("a steady number of descriptors", fn ->
      :erlang.garbage_collect()
      now = Wait.descriptors()

      times =
        case Process.get(:seen) do
          {^now, times} -> times + 1
          _ -> 0
        end

      Process.put(:seen, {now, times})
      times >= 20 and now
    end)
  end

  defp threads, do: length(File.ls!("/proc/self/task"))
end
