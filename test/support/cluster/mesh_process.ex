defmodule MaculaStorage.Cluster.MeshProcess do
  @moduledoc "What is done with replicated files on a node itself: where the content of a large one is made and looked at."

  alias MaculaStorage.{Error, MeshFS}

  @mebibyte 1_048_576

  @doc "The digest of so many mebibytes, as `collect/4` writes them."
  @spec digest(pos_integer, integer) :: binary
  def digest(mebibytes, seed), do: mebibytes |> chunks(seed) |> hashed()

  @doc false
  def collect(app, name, mebibytes, seed) do
    Enum.into(chunks(mebibytes, seed), MeshFS.stream!(app, name))
    :ok
  end

  @doc "As `collect/4`, where it may fail."
  @spec try_collect(String.t(), String.t(), pos_integer, integer) :: :ok | {:error, Error.t()}
  def try_collect(app, name, mebibytes, seed) do
    collect(app, name, mebibytes, seed)
  rescue
    error in Error -> {:error, error}
  end

  @doc false
  def write(app, name, mebibytes, seed, options \\ []),
    do: MeshFS.write(app, name, chunks(mebibytes, seed), options)

  @doc false
  def read(app, name, options \\ []), do: app |> MeshFS.stream!(name, options) |> hashed()

  @doc "Of each of some names the digest of what is read, and how many versions there are."
  @spec seen(String.t(), [String.t()]) :: [{String.t(), binary, pos_integer}]
  def seen(app, names) do
    for name <- names do
      {:ok, content} = MeshFS.read(app, name)
      {:ok, versions} = MeshFS.versions(app, name)
      {name, :erlang.md5(content), length(versions)}
    end
  end

  # no two are the same, and none of its beginning tells of the rest
  defp chunks(mebibytes, seed) do
    :rand.seed(:exsss, seed)
    base = :rand.bytes(@mebibyte - 8)
    Stream.map(1..mebibytes, &[base, <<&1::64>>])
  end

  defp hashed(chunks) do
    chunks
    |> Enum.reduce(:erlang.md5_init(), &:erlang.md5_update(&2, &1))
    |> :erlang.md5_final()
  end
end
