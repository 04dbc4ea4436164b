defmodule MaculaStorage.ChildVMTest do
  @moduledoc "What the crash tests stand on: a killed child's whole lines count, and the child is gone."
  use MaculaStorage.Case, async: true

  test "lines go both ways and the exit status arrives" do
    child = ChildVM.start(~S|IO.puts("ready"); IO.puts("got " <> IO.gets("")); System.halt(3)|)
    assert [] = ChildVM.wait_for(child, "ready")
    ChildVM.tell(child, "hello")
    assert {["got hello" | _], 3} = ChildVM.rest(child)
  end

  test "a killed child's printed lines are all seen, half a line is not" do
    child =
      ChildVM.start(
        ~S|for n <- 1..1000, do: IO.puts(n); IO.puts("done"); IO.write("half"); IO.gets("")|
      )

    assert Enum.map(1..1000, &to_string/1) == ChildVM.wait_for(child, "done")
    assert [] = ChildVM.kill(child)
    refute File.exists?("/proc/#{child.os_pid}")
  end

  test "a child has our code and this run's base directory" do
    child =
      ChildVM.start(
        ~S|IO.puts(Code.ensure_loaded?(MaculaStorage.Case)); IO.puts(System.get_env("MACULA_STORAGE_BASE"))|
      )

    assert {["true", base], 0} = ChildVM.rest(child)
    assert base == base_path()
  end
end
