defmodule MaculaStorage.Operator.Mesh do
  @moduledoc false
  # What operators are told of replicated files: as data, and as a person reads it.

  alias MaculaStorage.{Error, MeshFS}
  alias MaculaStorage.Operator.Text

  @doc false
  def status(options) do
    with {:ok, status} <- MeshFS.status(options) do
      # Text in JSON: a reader of numbers that is exact to 53 or 63 bits would tell another replica.
      status = %{status | replica: Integer.to_string(status.replica)}
      {:ok, status, status_text(status)}
    end
  end

  defp status_text(status) do
    peers = if status.peers == [], do: "nobody", else: Enum.join(status.peers, " ")

    rows = [
      ["replica", status.replica],
      ["can be asked", peers],
      ["files", Text.count(status.files)],
      ["on fewer members than shall", Text.count(status.under_replicated)],
      ["bytes here", Text.bytes(status.bytes_here)],
      ["directories watched", Text.count(status.watched_dirs)],
      ["apps not wholly watched", Text.count(status.unwatched_apps)],
      ["changes to be told", Text.count(status.untold)],
      ["to be fetched", Text.count(status.fetching)],
      ["of these tried in vain so far", Text.count(status.failed)],
      ["refused", refused_text(status.refused)],
      ["sent", Text.bytes(status.sent_bytes)],
      ["received", Text.bytes(status.received_bytes)],
      ["last scrub", last_text(status.scrub.last)],
      ["scrub under way", now_text(status.scrub.now)],
      ["next scrub", due_text(status.scrub)]
    ]

    Enum.map_intersperse(rows, ?\n, fn [what, value] -> [String.pad_trailing(what, 31), value] end)
  end

  defp refused_text([]), do: "nothing"

  defp refused_text(refused) do
    told =
      for of <- refused, do: "of #{of.member} #{Text.count(of.count)}, last #{inspect(of.why)}"

    Enum.join(told, "; ")
  end

  defp last_text(nil), do: "none yet"
  defp last_text(last), do: [time(last.ended_ms), ": ", found_text(last)]

  defp now_text(nil), do: "no"
  defp now_text(now), do: ["since ", time(now.began_ms), ": ", found_text(now)]

  defp due_text(%{now: now}) when now != nil, do: "after that"
  defp due_text(%{due_ms: nil}), do: "never by itself"
  defp due_text(%{due_ms: due_ms}), do: time(due_ms)

  @doc false
  def scrub(options) do
    with {:ok, found} <- MeshFS.scrub(options) do
      {if(found.rotten > 0, do: :failed, else: :ok), found, found_text(found)}
    end
  end

  defp found_text(found) do
    skipped = if found.skipped > 0, do: [", ", Text.count(found.skipped), " skipped"], else: []

    [
      [Text.count(found.files), " files, ", Text.bytes(found.bytes), ", "],
      [Text.count(found.mended), " mended, ", Text.count(found.rotten), " rotten"],
      skipped
    ]
  end

  @doc false
  def scan(app, options) do
    with {:ok, found} <- MeshFS.scan(app, options) do
      counts =
        for what <- [:known, :found, :changed, :deleted, :lost],
            do: [Text.count(found[what]), " ", Atom.to_string(what)]

      {:ok, Map.put(found, :app, app), Enum.intersperse(counts, ", ")}
    end
  end

  @doc false
  def conflicts(app, options) do
    with {:ok, names} <- MeshFS.conflicts(app, options) do
      text = if names == [], do: "no conflicts in #{app}", else: Enum.intersperse(names, ?\n)
      {:ok, %{app: app, conflicts: names}, text}
    end
  end

  @doc false
  def elsewhere do
    %Error{
      kind: :unsupported,
      op: :mesh,
      app: nil,
      message: "replicated files are those of a node that runs, and this VM is none",
      hint: "ask that one: bin/my_app rpc 'MaculaStorage.Operator.mesh_status()'"
    }
  end

  defp time(ms) do
    case DateTime.from_unix(ms, :millisecond) do
      {:ok, time} -> time |> DateTime.truncate(:second) |> DateTime.to_string()
      {:error, _} -> "in #{ms} ms of 1970"
    end
  end
end
