defmodule MaculaStorage.MeshFS.Care do
  @moduledoc false
  # How replicated files are, and what is done about them by hand that is else done by itself.

  alias MaculaStorage.{Apps, Call, Config, MeshFS, Native, Options}

  @doc false
  def scan(app, options) do
    options =
      Options.validate!(options, deletions: {false, :boolean}, timeout: {:infinity, :timeout})

    start = &Native.mesh_scan(&1, &2, Options.app!(app), options.deletions)

    with {:ok, {known, found, changed, deleted, lost}} <-
           MeshFS.on_mesh(:mesh_scan, app, options, start) do
      {:ok, %{known: known, found: found, changed: changed, deleted: deleted, lost: lost}}
    end
  end

  @doc false
  def scrub(options) do
    options =
      Options.validate!(options,
        pause_us: {1_000, :positive},
        progress: {nil, :progress},
        timeout: {:infinity, :timeout}
      )

    start = &Native.mesh_scrub(&1, &2, options.pause_us)

    with {:ok, found} <- on_all(:mesh_scrub, options, start, progress: options.progress),
         do: {:ok, scrubbed(found)}
  end

  @doc false
  def status(options) do
    options = Options.validate!(options, timeout: {nil, :timeout})

    with {:ok,
          {here, {failed, sent, received}, {{files, under, bytes_here}, {dirs, partly}}, rounds,
           refused}} <-
           on_all(:mesh_status, options, &Native.mesh_status/2) do
      {replica, peers, untold, fetching} = here

      {:ok,
       %{
         replica: replica,
         peers: peers,
         untold: untold,
         fetching: fetching,
         failed: failed,
         sent_bytes: sent,
         received_bytes: received,
         files: files,
         under_replicated: under,
         bytes_here: bytes_here,
         watched_dirs: dirs,
         unwatched_apps: partly,
         refused: Enum.map(refused, &refusal/1),
         scrub: rounds(rounds)
       }}
    end
  end

  defp on_all(op, options, start, more \\ []) do
    Apps.with_mesh(fn mesh ->
      Call.run(&start.(mesh, &1), [op: op, timeout: options.timeout] ++ more)
    end)
  end

  @doc "What was refused of a member."
  @spec refusal(tuple) :: map
  def refusal({member, count, why, at_ms}),
    do: %{member: member, count: count, why: why, at_ms: at_ms}

  defp rounds({since_ms, now, last}) do
    every = Config.get().mesh_scrub_every
    %{now: now(now), last: last(last), due_ms: if(every != :never, do: since_ms + every)}
  end

  defp now(nil), do: nil
  defp now({began_ms, found}), do: found |> scrubbed() |> Map.put(:began_ms, began_ms)

  defp last(nil), do: nil

  defp last({began_ms, ended_ms, found}),
    do: {began_ms, found} |> now() |> Map.put(:ended_ms, ended_ms)

  defp scrubbed({files, bytes, mended, rotten, skipped}),
    do: %{files: files, bytes: bytes, mended: mended, rotten: rotten, skipped: skipped}
end
