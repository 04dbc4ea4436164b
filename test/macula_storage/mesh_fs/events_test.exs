defmodule MaculaStorage.MeshFS.EventsTest do
  @moduledoc "Subscriptions to replicated files on one node: who is told, until when. See also test/cluster."
  use MaculaStorage.Case, async: false

  alias MaculaStorage.Cluster.Meshes
  alias MaculaStorage.{Apps, MeshFS, Wait}
  alias MaculaStorage.MeshFS.Feeds

  setup do
    :ok = Meshes.look()
    %{app: unique_app()}
  end

  defp feeds, do: map_size(:sys.get_state(Feeds).refs)

  defp rot(app, name) do
    :ok = MeshFS.write(app, name, "right")
    [MaculaStorage.app_data_path(app), "files", name] |> Path.join() |> Meshes.rot(0)
    {:error, %{kind: :corrupt}} = MeshFS.read(app, name)
    :ok
  end

  test "what is not of its app, directory or kinds is not told, and nothing after its end", %{
    app: app
  } do
    {:ok, all} = MeshFS.subscribe(app)
    {:ok, below} = MeshFS.subscribe(app, prefix: "d")
    {:ok, file} = MeshFS.subscribe(app, prefix: "d/a", kinds: [:rotten])
    {:ok, other} = MeshFS.subscribe(app, kinds: [:conflict, :changed, :deleted, :mended])
    {:ok, elsewhere} = MeshFS.subscribe(unique_app())
    for name <- ["d/a", "da", "d/b"], do: rot(app, name)

    told = fn ref, name ->
      assert_receive {MeshFS, ^ref, %{kind: :rotten, name: ^name}}, 60_000
    end

    for name <- ["d/a", "da", "d/b"], do: told.(all, name)
    for name <- ["d/a", "d/b"], do: told.(below, name)
    told.(file, "d/a")

    rot(app, "da")
    told.(all, "da")
    assert :ok = MeshFS.unsubscribe(all)
    assert :ok = MeshFS.unsubscribe(all)
    rot(app, "d/a")
    told.(below, "d/a")
    told.(file, "d/a")
    # read by the feeders, of which none waits
    refute_received {MeshFS, _, _}
    for ref <- [below, file, other, elsewhere], do: assert(:ok = MeshFS.unsubscribe(ref))
    refute_received {MeshFS, _, _}
  end

  test "it ends with its process, and is told when its feeder is killed or the state closed", %{
    app: app
  } do
    before = feeds()
    me = self()

    {pid, monitor} =
      spawn_monitor(fn ->
        {:ok, _} = MeshFS.subscribe(app)
        send(me, :subscribed)
        receive(do: (:never -> :ok))
      end)

    assert_receive :subscribed, 60_000
    assert feeds() == before + 1
    Process.exit(pid, :kill)
    assert_receive {:DOWN, ^monitor, _, _, _}
    Wait.until("the end of its feeder", fn -> feeds() == before end)

    {:ok, killed} = MeshFS.subscribe(app)
    Process.exit(:sys.get_state(Feeds).refs[killed], :kill)
    assert_receive {MeshFS, ^killed, :closed}, 60_000

    {:ok, ref} = MeshFS.subscribe(app)
    assert :ok = Apps.close_state()
    assert_receive {MeshFS, ^ref, :closed}, 60_000
    assert feeds() == before
    assert {:ok, ref} = MeshFS.subscribe(app)
    rot(app, "a")
    assert_receive {MeshFS, ^ref, %{kind: :rotten, name: "a"}}, 60_000
    # the first look of what was opened again opens each app, those too that another test closed
    assert :ok = Meshes.look()
  end

  test "misuse", %{app: app} do
    for bad <- [
          [kinds: []],
          [kinds: [:put]],
          [kinds: :conflict],
          [kinds: [:conflict | :rotten]],
          [prefix: ""],
          [prefix: 1],
          [from: 1],
          :all
        ],
        do: assert_raise(ArgumentError, fn -> MeshFS.subscribe(app, bad) end)

    assert_raise ArgumentError, fn -> MeshFS.subscribe("No App") end
    assert {:error, %{kind: :invalid}} = MeshFS.subscribe(app, prefix: "../a")
    assert_raise FunctionClauseError, fn -> MeshFS.unsubscribe(:all) end
  end
end
