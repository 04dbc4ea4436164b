defmodule MaculaStorage.Crash.SQLiteFullDiskTest do
  @moduledoc """
  A real file system that is full under an app's SQLite database: every way to write says so, reads go on,
  nothing acknowledged is lost and the file stays sound, writes come back by themselves when there is
  room, and a VM that is killed while it is full leaves everything for the next.
  """
  use MaculaStorage.Case, async: false

  alias MaculaStorage.Tmpfs

  @moduletag timeout: 600_000
  # Looked at when this file is compiled, which is when it is run.
  @moduletag Tmpfs.tag()

  setup do
    dir = unique_dir("sqlite_full")
    Tmpfs.mount(dir, "size=12m")
    on_exit(fn -> Tmpfs.unmount(dir) end)
    {:ok, dir: dir}
  end

  test "refusals, reads, growth, a kill, and growth again", %{dir: dir} do
    child = start("fill()", dir)
    first = until_full(child)
    assert first > 500
    ChildVM.tell(child, "refused")
    assert [] = ChildVM.wait_for(child, "refused to #{first}")
    Tmpfs.remount(dir, "size=20m")
    ChildVM.tell(child, "fill")
    second = until_full(child)
    assert second > first + 500
    ChildVM.kill(child)

    child = start("look()", dir)
    assert ["whole #{second}"] == ChildVM.wait_for(child, "looked")
    Tmpfs.remount(dir, "size=28m")
    ChildVM.tell(child, "fill")
    assert until_full(child) > second + 500
    ChildVM.kill(child)
  end

  test "what others leave gives writes back", %{dir: dir} do
    ballast = Path.join(dir, "ballast")
    File.write!(ballast, :binary.copy("x", 6_000_000))
    child = start("fill()", dir)
    first = until_full(child)
    File.rm!(ballast)
    ChildVM.tell(child, "fill")
    assert until_full(child) > first + 300
    ChildVM.kill(child)
  end

  defp start(call, dir) do
    base = Path.join(dir, "base")
    ChildVM.start("MaculaStorage.SQLiteFullChild.#{call}", base: base)
  end

  # The number of the last acknowledged row; what it says is checked by the child itself.
  defp until_full(child), do: ChildVM.last_ack(child, "full")
end
