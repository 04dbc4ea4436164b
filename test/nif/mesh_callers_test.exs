defmodule MaculaStorage.Nif.MeshCallersTest do
  @moduledoc "Callers of replicated files that are impatient, or die: nothing late comes to them, and nothing of theirs stays."
  # not beside a scrub, which opens each app
  use MaculaStorage.NifCase, async: false

  alias MaculaStorage.{Apps, MeshFS}
  alias MaculaStorage.Cluster.Meshes

  @rounds if System.get_env("MACULA_TORTURE"), do: 50_000, else: 1_500

  setup do
    %{app: unique_app()}
  end

  defp tree(app) do
    [MaculaStorage.app_data_path(app), "**"]
    |> Path.join()
    |> Path.wildcard(match_dot: true)
    |> Enum.filter(&File.regular?/1)
    |> Enum.sort()
  end

  test "a caller that gives up after a millisecond finds no late answer", %{app: app} do
    {:ok, %{version: version}} = MeshFS.write(app, "a", "a", return: :info)
    calls = calls(app, version)

    results =
      for n <- 1..@rounds do
        result = Enum.at(calls, rem(n, length(calls))).()
        assert mailbox() == []
        if result == {:error, :timeout}, do: :timeout, else: :other
      end

    # both ways of the race were taken, or the test says nothing
    counts = Enum.frequencies(results)
    assert Map.get(counts, :timeout, 0) > @rounds / 50
    assert Map.get(counts, :other, 0) > @rounds / 50

    # after these, nothing older is under way
    for name <- ["b", "s", "a"], do: assert(:ok = MeshFS.write(app, name, "end"))
    assert {:ok, "end"} = MeshFS.read(app, "b")
    assert mailbox() == []
    Wait.until("no trace", fn -> length(tree(app)) == 3 end)
  end

  # The public timeouts where there are, the machinery under them for the rest.
  defp calls(app, version) do
    run = fn start, ms ->
      Apps.with_mesh(fn mesh -> Call.run(&start.(mesh, &1), op: :test, timeout: ms) end)
    end

    b = {app, "b"}
    {:ok, {reader, _told}} = run.(&Native.mesh_reader(&1, &2, {app, "a"}, {nil, false}), 60_000)

    for ms <- [0, 1],
        call <- [
          fn -> run.(&Native.mesh_write(&1, &2, b, "b", {nil, 1}, {nil, nil}), ms) end,
          fn -> run.(&Native.mesh_write(&1, &2, b, "b", {1, 1}, {nil, nil}), ms) end,
          fn -> run.(&Native.mesh_delete(&1, &2, b, {:local, 1}), ms) end,
          fn -> run.(&Native.mesh_resolve(&1, &2, {app, "a"}, version, {nil, 1}), ms) end,
          fn -> run.(&Native.mesh_reader(&1, &2, {app, "a"}, {nil, false}), ms) end,
          fn -> Call.run(&Native.mesh_read_part(reader, &1, 0, 100), timeout: ms) end,
          fn -> run.(&Native.mesh_stat(&1, &2, b), ms) end,
          fn -> run.(&Native.mesh_versions(&1, &2, b), ms) end,
          fn -> run.(&Native.mesh_list(&1, &2, app, {nil, nil}, 10, false), ms) end,
          fn -> run.(&Native.mesh_status/2, ms) end,
          fn -> run.(&Native.mesh_writer(&1, &2, {app, "s"}, {nil, nil}), ms) end,
          fn -> MeshFS.write(app, "b", "b", timeout: 1) end,
          fn -> MeshFS.write(app, "b", Stream.take(["b"], 1), timeout: 1, ack: 1) end,
          fn -> MeshFS.read(app, "a", timeout: 1) end,
          fn -> MeshFS.stat(app, "a", timeout: 1) end,
          fn -> MeshFS.list(app, timeout: 1) end
        ],
        do: call
  end

  # It kept the mesh open until its end, and every call that came behind the closing.
  test "a scrub under way keeps nobody waiting, and ends with the state", %{app: app} do
    for name <- ["a", "b"], do: assert(:ok = MeshFS.write(app, name, name))
    {:ok, mesh} = Apps.with_mesh(&{:ok, &1})
    test = self()

    scrub =
      Task.async(fn ->
        Call.run(&Native.mesh_scrub(mesh, &1, 600_000_000), timeout: :infinity, progress: test)
      end)

    assert_receive {:macula_progress, _}, 60_000
    assert {:ok, "a"} = MeshFS.read(app, "a")
    assert :ok = Apps.close_state()
    assert {:error, :closed} = Task.await(scrub, 60_000)
    assert {:ok, "b"} = MeshFS.read(app, "b")
    # the first look of what was opened again opens each app, those too that another test closed
    assert :ok = Meshes.look()
  end

  defmodule Server do
    @moduledoc false
    use GenServer

    def init(app), do: {:ok, app}

    def handle_call(n, _from, app) do
      answer = MeshFS.write(app, "a", "#{n}", ack: 1, timeout: 1)
      {:messages, messages} = Process.info(self(), :messages)
      {:reply, {answer, messages}, app}
    end

    # a late answer that slipped past would end the server
    def handle_info(message, _app), do: exit({:late, message})
  end

  test "a server that gives up waiting for others gets no message", %{app: app} do
    {:ok, server} = GenServer.start_link(Server, app)

    for n <- 1..100 do
      assert {answer, []} = GenServer.call(server, n, 60_000)
      assert {:error, %Error{kind: :unreachable}} = answer
      assert {:ok, "#{n}"} == MeshFS.read(app, "a")
    end

    assert Process.alive?(server)
  end

  test "a file that a killed process was writing leaves no trace", %{app: app} do
    :ok = MeshFS.write(app, "dir/a.txt", "old")
    before = tree(app)
    chunk = :binary.copy("x", 3_000_000)

    for writes <- [
          fn ready ->
            {_, into} = Collectable.into(MeshFS.stream!(app, "dir/a.txt"))
            into.(:ok, {:cont, chunk})
            ready.(:written)
          end,
          # in the middle of the stream that it is given
          fn ready ->
            parts =
              Stream.map(
                1..9,
                &if(&1 == 5, do: ready.(:written) && receive(do: (:never -> "")), else: chunk)
              )

            MeshFS.write(app, "dir/b.txt", parts)
          end
        ] do
      assert :written = killed_when_ready(writes)
      Wait.until("removal of what was written", fn -> tree(app) == before end)
    end

    assert {:ok, "old"} = MeshFS.read(app, "dir/a.txt")
    assert {:ok, ["dir/a.txt"]} = MeshFS.list(app)
  end

  test "many that die anywhere in a write leave whole files and no trace", %{app: app} do
    large = :crypto.strong_rand_bytes(400_000)
    names = for n <- 1..40, do: "n#{n}"

    for {name, n} <- Enum.with_index(names) do
      {pid, monitor} = spawn_monitor(fn -> MeshFS.write(app, name, [large]) end)
      Wait.pause(rem(n, 8))
      Process.exit(pid, :kill)
      assert_receive {:DOWN, ^monitor, _, _, _}
    end

    # what had begun is done or not: for each name in its turn
    for name <- names, do: assert(MeshFS.delete(app, name) in [:ok, {:error, :not_found}])
    Wait.until("no trace", fn -> tree(app) == [] end)
  end

  # Each in a VM of its own: a line is told when the write was acknowledged.
  @writes """
  {:ok, _} = Application.ensure_all_started(:macula_storage)
  alias MaculaStorage.MeshFS
  content = &:binary.copy(<<&1::32>>, rem(&1 * 7_919, 90_000))

  Enum.each(1..100_000, fn n ->
    :ok = MeshFS.write(:app, "n/\#{n}", content.(n))
    :ok = MeshFS.write(:app, "last", "\#{n}")
    if rem(n, 3) == 0, do: :ok = MeshFS.delete(:app, "n/\#{n}")
    IO.puts("ack \#{n}")
  end)
  """

  @reads """
  {:ok, _} = Application.ensure_all_started(:macula_storage)
  alias MaculaStorage.MeshFS
  content = &:binary.copy(<<&1::32>>, rem(&1 * 7_919, 90_000))
  acked = String.to_integer(System.fetch_env!("ACKED"))
  {:ok, last} = MeshFS.read(:app, "last")
  last = String.to_integer(last)
  true = last in acked..(acked + 1)

  for n <- 1..acked do
    expected = if rem(n, 3) == 0, do: {:error, :not_found}, else: {:ok, content.(n)}
    ^expected = MeshFS.read(:app, "n/\#{n}")
  end

  {:ok, names} = MeshFS.list(:app)
  {:ok, ^names} = MaculaStorage.file_list(:app)
  for name <- names, do: {:ok, %{here: true, conflicts: 0}} = MeshFS.stat(:app, name)
  IO.puts("all of it")
  """

  test "after SIGKILL all that was acknowledged is there, file and index say the same" do
    base = unique_dir("base")

    Enum.reduce([40, 90], nil, fn count, _ ->
      writer = ChildVM.start(@writes, base: base)
      ChildVM.wait_for(writer, "ack #{count}")
      acked = count + length(ChildVM.kill(writer))
      reader = ChildVM.start(@reads, base: base, env: [{"ACKED", "#{acked}"}])
      assert {["all of it"], 0} = ChildVM.rest(reader)
    end)
  end

  @half """
  {:ok, _} = Application.ensure_all_started(:macula_storage)
  alias MaculaStorage.MeshFS
  :ok = MeshFS.write(:app, "a", "old")
  {_, into} = Collectable.into(MeshFS.stream!(:app, "a"))
  :ok = into.(:ok, {:cont, :binary.copy("x", 3_000_000)})
  IO.puts("half")
  Process.sleep(:infinity)
  """

  @next """
  {:ok, _} = Application.ensure_all_started(:macula_storage)
  {:ok, "old"} = MaculaStorage.MeshFS.read(:app, "a")
  :ok = MaculaStorage.MeshFS.write(:app, "a", "new")
  IO.puts("used")
  IO.gets("")
  """

  test "what a killed VM was putting together is gone when the next one uses the app" do
    base = unique_dir("base")
    staged = Path.join(base, "apps/app/data/.macula/staged")
    writer = ChildVM.start(@half, base: base)
    ChildVM.wait_for(writer, "half")
    ChildVM.kill(writer)
    assert [_] = File.ls!(staged)
    next = ChildVM.start(@next, base: base)
    ChildVM.wait_for(next, "used")
    Wait.until("no trace", fn -> File.ls!(staged) == [] end)
    ChildVM.tell(next, "end")
    assert {[], 0} = ChildVM.rest(next)
  end

  test "an app that was closed stays closed" do
    app = unique_app()

    # by the moment it is synced before or behind the closing
    for n <- 1..4 do
      :ok = MeshFS.write(app, "a", "#{n}")
      assert :ok = MaculaStorage.close_app(app)
      assert {:ok, nil} = MaculaStorage.app_owner(app)
      # what was short is synced half a second later
      Wait.pause(700)
      assert {:ok, nil} = MaculaStorage.app_owner(app)
      assert {:ok, "#{n}"} == MeshFS.read(app, "a")
    end
  end
end
