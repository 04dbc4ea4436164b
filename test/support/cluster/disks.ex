defmodule MaculaStorage.Scenario.Disks do
  @moduledoc """
  A small disk for each node, where the machine allows to mount some: one that can be filled, and, where it is an
  image of a file system, one that forgets what was not synced when the power goes.

  Invariant: what a disk holds behind a loss of power is what had been written to its image by then, which the
  kernel does for who syncs, or by itself after minutes. All are unmounted by `unmount/1`.
  """
  alias MaculaStorage.{Tmpfs, Wait}

  @enforce_keys [:dir, :count, :images?]
  defstruct @enforce_keys

  @type t :: %__MODULE__{}

  # with less, room for what a table may still need is thought to be missing after some scenarios
  @mib 256
  # nothing is written back but for who asks
  @unsynced "nobody waits for this"
  @options "loop,commit=600,nodev"

  @doc "Mounts `count` of them in a directory; `nil` where nothing can be mounted."
  @spec mount(Path.t(), pos_integer) :: t | nil
  def mount(dir, count) do
    if Keyword.has_key?(Tmpfs.tag(), :tmpfs) do
      disks = %__MODULE__{dir: dir, count: count, images?: true}
      File.mkdir_p!(images(disks))
      :ok = Tmpfs.mount(images(disks), "size=#{2 * count * @mib}m")
      images? = Enum.all?(1..count, &(make(disks, &1) == :ok))
      unless images?, do: for(n <- 1..count, do: on_tmpfs(disks, n))
      %{disks | images?: images?}
    end
  end

  @doc "Where the n-th is mounted."
  @spec path(t, pos_integer) :: Path.t()
  def path(disks, n), do: Path.join(disks.dir, "disk#{n}")

  defp images(disks), do: Path.join(disks.dir, "disks")
  defp image(disks, n), do: Path.join(images(disks), "#{n}.img")

  defp make(disks, n) do
    File.mkdir_p!(path(disks, n))
    image = image(disks, n)

    with :ok <- run("truncate", ["-s", "#{@mib}M", image]),
         :ok <- run("mkfs.ext4", ["-q", "-F", "-m", "0", image]),
         do: run("mount", ["-n", "-o", @options, image, path(disks, n)])
  end

  defp on_tmpfs(disks, n) do
    run("umount", [path(disks, n)])
    File.mkdir_p!(path(disks, n))
    :ok = Tmpfs.mount(path(disks, n), "size=#{@mib}m")
  end

  @doc """
  The power of the n-th goes: its image as it is, then `die`, which ends who uses the disk, then the image again.
  Raises when a file that nobody synced outlived it: then nothing is proven here.
  """
  @spec lose_power(t, pos_integer, fun) :: :ok
  def lose_power(%{images?: true} = disks, n, die) do
    [image, path] = [image(disks, n), path(disks, n)]
    File.write!(Path.join(path, "unsynced"), @unsynced)
    :ok = run("cp", ["--sparse=always", image, image <> ".then"])
    :ok = die.()
    unmount(path)
    File.rename!(image <> ".then", image)
    :ok = run("mount", ["-n", "-o", @options, image, path])

    if File.read(Path.join(path, "unsynced")) == {:ok, @unsynced},
      do: raise("a disk did not forget n=#{n}"),
      else: :ok
  end

  @doc "Ends all, when nobody uses them."
  @spec unmount(t | Path.t()) :: :ok
  def unmount(%__MODULE__{} = disks) do
    for n <- 1..disks.count, do: unmount(path(disks, n))
    unmount(images(disks))
  end

  # who was killed may not be gone yet
  def unmount(path) do
    Wait.until("nobody uses #{path}", fn -> run("umount", [path]) == :ok end)
    :ok
  end

  defp run(program, args) do
    with found when found != nil <- find(program),
         {_, 0} <- System.cmd(found, args, stderr_to_stdout: true),
         do: :ok,
         else: (failed -> {:error, failed})
  end

  # where a user's PATH does not lead
  defp find(program) do
    System.find_executable(program) ||
      Enum.find(["/usr/sbin/" <> program, "/sbin/" <> program], &File.exists?/1)
  end
end
