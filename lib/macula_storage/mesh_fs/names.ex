defmodule MaculaStorage.MeshFS.Names do
  @moduledoc false
  # Names of replicated files, page by page: of all, or of those in conflict.

  alias MaculaStorage.{MeshFS, Native, Options}

  @page 1_000

  @doc false
  def list(op, app, options) do
    options =
      Options.validate!(options,
        prefix: {nil, :path},
        after: {nil, :path},
        limit: {1_000_000_000, :positive},
        timeout: {nil, :timeout}
      )

    options = Map.update!(options, :prefix, &(&1 && String.trim_trailing(&1, "/")))
    pages(op, Options.app!(app), options, options.after, options.limit, [])
  end

  defp pages(op, app, options, from, left, pages) do
    conflicts? = op == :mesh_conflicts
    range = {options.prefix, from}
    page = &Native.mesh_list(&1, &2, app, range, min(left, @page), conflicts?)

    case MeshFS.on_mesh(op, app, options, page) do
      {:ok, {names, more?}} when more? and length(names) < left ->
        pages(op, app, options, List.last(names), left - length(names), [names | pages])

      {:ok, {names, _more?}} ->
        {:ok, [names | pages] |> Enum.reverse() |> Enum.concat()}

      {:error, _} = error ->
        error
    end
  end
end
