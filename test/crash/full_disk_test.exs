defmodule MaculaStorage.Crash.FullDiskTest do
  @moduledoc """
  A real file system that is full: a small tmpfs with a store in it. Reads go on, nothing acknowledged is
  lost, writes come back by themselves when there is room, and a VM that is killed while it is full leaves
  everything for the next. Mounting takes root; who may not is told, and the tests are skipped.
  """
  use MaculaStorage.Case, async: false

  alias MaculaStorage.Tmpfs

  @moduletag timeout: 600_000

  # Looked at when this file is compiled, which is when it is run.
  @moduletag Tmpfs.tag()

  setup do
    dir = unique_dir("full")
    Tmpfs.mount(dir, "size=48m")
    on_exit(fn -> Tmpfs.unmount(dir) end)
    {:ok, dir: dir}
  end

  test "an app's store goes on when the disk has grown, and after a kill", %{dir: dir} do
    child = start("fill()", dir)
    first = until_full(child)
    assert first > 1000
    # other programs do not write either
    assert {:error, :enospc} = File.write(Path.join(dir, "other"), :binary.copy("x", 100_000_000))
    File.rm(Path.join(dir, "other"))
    ChildVM.tell(child, "look")
    assert ["whole " <> _] = ChildVM.wait_for(child, "looked")
    Tmpfs.remount(dir, "size=96m")
    ChildVM.tell(child, "fill")
    second = until_full(child)
    assert second > first + 1000
    ChildVM.kill(child)

    child = start("look()", dir)
    assert ["whole " <> found] = ChildVM.wait_for(child, "looked")
    assert String.to_integer(found) >= second
    Tmpfs.remount(dir, "size=160m")
    ChildVM.tell(child, "fill")
    assert until_full(child) > second + 1000
    ChildVM.kill(child)
  end

  test "a full disk takes deletes, and what others leave gives writes back", %{dir: dir} do
    ballast = Path.join(dir, "ballast")
    File.write!(ballast, :binary.copy("x", 24_000_000))
    child = start("fill()", dir)
    first = until_full(child)
    ChildVM.tell(child, "delete")
    left = first - 51
    assert [] = ChildVM.wait_for(child, "deleted to #{left}")
    ChildVM.kill(child)
    child = start("look()", dir)
    assert ["whole #{left}"] == ChildVM.wait_for(child, "looked")
    File.rm!(ballast)
    ChildVM.tell(child, "fill")
    assert until_full(child) > first + 1000
    ChildVM.kill(child)
  end

  defp start(call, dir) do
    base = Path.join(dir, "base")
    ChildVM.start("MaculaStorage.FullChild.#{call}", base: base)
  end

  # The number of the last acknowledged write; what it says is checked by the child itself.
  defp until_full(child), do: ChildVM.last_ack(child, "full")
end
