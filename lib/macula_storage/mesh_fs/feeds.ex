defmodule MaculaStorage.MeshFS.Feeds do
  @moduledoc false
  # The feeders of subscriptions to replicated files (MaculaStorage.MeshFS.Feed), one each; see MaculaStorage.Feeders.

  alias MaculaStorage.{Apps, Feeders, MeshFS, Options}
  alias MaculaStorage.MeshFS.Feed

  @kinds [:conflict, :changed, :deleted, :rotten, :mended]

  @doc false
  def child_spec(_options),
    do: %{id: __MODULE__, start: {Feeders, :start_link, [__MODULE__, MeshFS, Feed]}}

  @doc false
  def subscribe(app, options) do
    options = Options.validate!(options, prefix: {nil, :path}, kinds: {@kinds, :any})
    prefix = options.prefix && String.trim_trailing(options.prefix, "/")
    wish = {Options.app!(app), prefix, kinds!(options.kinds)}
    # opened here: the feeders' server waits for no disk
    with {:ok, _mesh} <- Apps.with_mesh(&{:ok, &1}), do: Feeders.begin(__MODULE__, wish)
  end

  @doc false
  def unsubscribe(ref), do: Feeders.stop(__MODULE__, MeshFS, ref)

  defp kinds!([_ | _] = kinds) do
    if List.improper?(kinds) or kinds -- @kinds != [], do: bad_kinds!(kinds), else: kinds
  end

  defp kinds!(other), do: bad_kinds!(other)

  defp bad_kinds!(other) do
    raise ArgumentError,
          "expected :kinds to be a list of #{inspect(@kinds)}, got: #{inspect(other, limit: 10)}"
  end
end
