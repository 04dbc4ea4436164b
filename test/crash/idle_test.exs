defmodule MaculaStorage.Crash.IdleTest do
  @moduledoc """
  What 200 idle open stores cost one VM, all together: memory, room on the disk, threads. A VM of their own,
  so that nothing else is measured.
  """
  use MaculaStorage.Case, async: false

  @moduletag timeout: 300_000

  @stores 200
  @mib 1_048_576

  test "200 idle stores stay under 256 MiB of memory, 512 MiB of disk and 32 threads" do
    base = unique_dir("idle")
    child = ChildVM.start("MaculaStorage.IdleChild.open(#{@stores})", base: base)
    figures = for line <- ChildVM.wait_for(child, "open"), do: String.split(line)
    figures = Map.new(figures, fn [what, n] -> {what, String.to_integer(n)} end)
    {said, 0} = System.cmd("du", ["-sk", base])
    disk = String.to_integer(hd(String.split(said))) * 1024
    ChildVM.kill(child)

    IO.puts(
      "\nidle_test: stores=#{@stores} memory_mib=#{div(figures["rss"], @mib)} " <>
        "disk_mib=#{div(disk, @mib)} threads=#{figures["threads"]} descriptors=#{figures["descriptors"]}"
    )

    assert figures["rss"] < 256 * @mib
    assert disk < 512 * @mib
    assert figures["threads"] < 32
  end
end
