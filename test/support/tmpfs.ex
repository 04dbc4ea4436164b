defmodule MaculaStorage.Tmpfs do
  @moduledoc """
  Small file systems in memory, for tests of full disks. Mounting takes root.

  Invariant: what is mounted is unmounted by the test that mounted it.
  """

  @doc "A `@moduletag` for tests that mount: one that skips them, with the reason, where that cannot be done."
  @spec tag() :: keyword
  def tag do
    probe =
      Path.join(
        System.tmp_dir!(),
        "macula_mount_#{System.pid()}_#{System.unique_integer([:positive])}"
      )

    File.mkdir_p!(probe)

    try do
      if System.find_executable("mount") && run(["-o", "size=1m", "tmpfs", probe]) == :ok do
        {_, 0} = System.cmd("umount", [probe])
        [tmpfs: true]
      else
        [skip: "a tmpfs cannot be mounted here (it takes root)"]
      end
    after
      File.rmdir!(probe)
    end
  end

  @doc "Mounts one at `dir` with options such as `size=16m`."
  @spec mount(Path.t(), String.t()) :: :ok
  def mount(dir, options), do: :ok = run(["-o", options, "tmpfs", dir])

  @doc "Changes the size of one that is mounted."
  @spec remount(Path.t(), String.t()) :: :ok
  def remount(dir, options), do: mount(dir, "remount," <> options)

  @doc "Ends one, after whoever used it has ended, and removes its directory."
  @spec unmount(Path.t()) :: :ok
  def unmount(dir) do
    {_, 0} = System.cmd("umount", [dir], stderr_to_stdout: true)
    File.rm_rf!(dir)
    :ok
  end

  defp run(args) do
    case System.cmd("mount", ["-n", "-t", "tmpfs" | args], stderr_to_stdout: true) do
      {_, 0} -> :ok
      {said, _} -> {:error, said}
    end
  end
end
