defmodule MaculaStorage.MnesiaTest do
  @moduledoc """
  Mnesia on one node, which is this VM: what is written, what is refused, backups and what damages them. Several
  nodes are in `test/cluster/mnesia_test.exs`.
  """
  use MaculaStorage.Case, async: false

  alias MaculaStorage.{Config, Error, Mnesia}
  alias MaculaStorage.Mnesia.{BackupFile, Syncer, Watch}

  setup_all do
    on_exit(fn ->
      :logger.set_primary_config(:level, :warning)
      :mnesia.stop()
      Application.unload(:mnesia)
      # not the directory above: the replicated state of this VM is there, too
      for path <- Path.wildcard(Config.mnesia_dir() <> "*"), do: File.rm_rf!(path)
    end)

    :ok = Mnesia.setup([node()])
  end

  doctest MaculaStorage.Mnesia

  defp table(options \\ []) do
    app = unique_app("mnesia")
    :ok = Mnesia.create_app_table(app, options)
    on_exit(fn -> :mnesia.delete_table(:"#{app}_data") end)
    app
  end

  test "entries of any terms are put, got, listed and deleted" do
    app = table()
    keys = [1, 1.0, "a", :a, {:user, [1]}, nil, %{a: 1}]
    for key <- keys, do: assert(:ok = Mnesia.put(app, key, {:value, key}))
    for key <- keys, do: assert({:ok, {:value, ^key}} = Mnesia.get(app, key))
    for key <- keys, do: assert({:ok, {:value, ^key}} = Mnesia.get(app, key, consistency: :local))
    assert {:ok, listed} = Mnesia.list_keys(app)
    assert Enum.sort(listed) == Enum.sort(keys)
    assert :ok = Mnesia.put(app, 1, nil)
    assert {:ok, nil} = Mnesia.get(app, 1)
    assert :ok = Mnesia.delete(app, 1)
    assert :ok = Mnesia.delete(app, 1, durability: :async)
    assert {:error, :not_found} = Mnesia.get(app, 1)
    assert {:error, :not_found} = Mnesia.get(app, 1, consistency: :local)
  end

  test "the records are the document's, for mnesia's own functions" do
    app = table()
    :ok = Mnesia.put(app, :k, 1)
    table = :"#{app}_data"
    assert [{^table, :k, 1, %DateTime{}}] = :mnesia.dirty_read(table, :k)
    assert [:key, :value, :updated_at] = :mnesia.table_info(table, :attributes)
    assert :mnesia.table_info(table, :disc_copies) == [node()]
  end

  test "attributes, type and storage of one's own" do
    app = table(attributes: [:id, :name, :note, :updated_at], type: :ordered_set)
    for n <- [3, 1, 2], do: :ok = Mnesia.put(app, n, "n")
    assert {:ok, [1, 2, 3]} = Mnesia.list_keys(app)
    assert [{_, 1, "n", nil, %DateTime{}}] = :mnesia.dirty_read(:"#{app}_data", 1)

    memory = table(storage: :ram_copies, majority: true)
    assert :ok = Mnesia.put(memory, 1, 2)
    assert {:ok, 2} = Mnesia.get(memory, 1)
  end

  test "setup and create_app_table again are fine; another definition is told" do
    app = table()
    :ok = Mnesia.put(app, 1, 1)
    assert :ok = Mnesia.setup([node()])
    assert :ok = Mnesia.create_app_table(app)
    assert {:ok, 1} = Mnesia.get(app, 1)

    assert {:error, %Error{kind: :conflict, app: ^app} = error} =
             Mnesia.create_app_table(app, type: :ordered_set)

    assert Exception.message(error) =~ "type=:set wanted=:ordered_set"
  end

  test "misuse raises and makes no atom" do
    assert_raise ArgumentError, ~r/unknown option :replica,/, fn ->
      Mnesia.create_app_table(:app, replica: [node()])
    end

    for options <- [
          [attributes: [:key]],
          [attributes: [:key, :key]],
          [attributes: "key"],
          [replicas: []],
          [replicas: ["a"]],
          [storage: :disk],
          [type: :bag],
          [majority: 1],
          [type: :ordered_set, storage: :disc_only_copies]
        ] do
      assert_raise ArgumentError, fn -> Mnesia.create_app_table(:app, options) end
    end

    assert_raise ArgumentError, fn -> Mnesia.put(:app, 1, 1, durability: :none) end
    assert_raise ArgumentError, fn -> Mnesia.get(:app, 1, consistency: :linearizable) end
    assert_raise ArgumentError, fn -> Mnesia.setup([]) end
    assert_raise ArgumentError, ~r/this node/, fn -> Mnesia.setup([:"elsewhere@127.0.0.1"]) end
    assert_raise ArgumentError, fn -> Mnesia.resolve("node") end
    assert_raise ArgumentError, fn -> Mnesia.backup(:app, :path) end

    # asked for by a name that came from outside
    name = "no-such-#{System.unique_integer([:positive])}"
    assert {:error, {:aborted, {:no_exists, _}}} = Mnesia.put(name, 1, 1)
    assert {:error, {:aborted, {:no_exists, _}}} = Mnesia.get(name, 1)
    assert {:error, {:aborted, {:no_exists, _}}} = Mnesia.delete(name, 1)
    assert {:error, {:aborted, {:no_exists, _}}} = Mnesia.list_keys(name)
    assert {:error, {:aborted, {:no_exists, _}}} = Mnesia.backup(name, "/nowhere")
    assert {:error, {:aborted, {:no_exists, _}}} = Mnesia.restore(name, "/nowhere")
    assert_raise ArgumentError, fn -> String.to_existing_atom(name <> "_data") end

    for bad <- ["", "../up", "Upper", String.duplicate("a", 65), nil, 1] do
      assert_raise ArgumentError, ~r/app name/, fn -> Mnesia.create_app_table(bad) end
      assert_raise ArgumentError, ~r/app name/, fn -> Mnesia.put(bad, 1, 1) end
    end

    # its atom is there, the table is not
    :gone_data
    assert {:error, {:aborted, {:no_exists, _}}} = Mnesia.get(:gone, 1)
    assert {:error, {:aborted, {:no_exists, _}}} = Mnesia.get(:gone, 1, consistency: :local)
    assert {:error, {:aborted, {:no_exists, :gone_data, _}}} = Mnesia.restore(:gone, "/nowhere")
  end

  test "within a transaction of mnesia's own a put is a part of it" do
    app = table()

    assert {:aborted, :no} =
             :mnesia.transaction(fn ->
               :ok = Mnesia.put(app, :a, 1)
               {:ok, 1} = Mnesia.get(app, :a)
               :mnesia.abort(:no)
             end)

    assert {:error, :not_found} = Mnesia.get(app, :a)
    assert {:atomic, :ok} = :mnesia.transaction(fn -> Mnesia.put(app, :a, 2) end)
    assert {:ok, 2} = Mnesia.get(app, :a)
  end

  test "status of one node" do
    assert Mnesia.status() == %{
             running: true,
             directory: Path.join(base_path(), "state/mnesia"),
             nodes: [node()],
             running_nodes: [node()],
             inconsistent: [],
             poisoned: false
           }

    assert {:ok, %{}} = Mnesia.resolve(node())
    assert {:error, %Error{kind: :unreachable}} = Mnesia.resolve(:"nobody@127.0.0.1")
  end

  test "events of mnesia are told to subscribers, logged once, and outlive a crash of ours" do
    {:ok, ref} = Mnesia.subscribe()
    {:ok, other} = Mnesia.subscribe()
    :ok = Mnesia.unsubscribe(other)
    split = {:mnesia_system_event, {:inconsistent_database, :running_partitioned_network, :far}}

    log =
      ExUnit.CaptureLog.capture_log(fn ->
        for _ <- 1..2, do: send(Watch, split)
        :ok = Watch.watch()
      end)

    assert [_, _] = String.split(log, "MaculaStorage.Mnesia.resolve/1")
    told = {:inconsistent_database, :far, :running_partitioned_network}
    assert_received {Mnesia, ^ref, ^told}
    # it was none, as a look at the nodes shows
    assert_received {Mnesia, ^ref, {:consistent, :far}}

    watch = Process.whereis(Watch)
    monitor = Process.monitor(watch)
    Process.exit(watch, :kill)
    assert_receive {:DOWN, ^monitor, _, _, :killed}

    MaculaStorage.Wait.until("a new listener", fn ->
      Process.whereis(Watch) not in [nil, watch] and
        Process.whereis(Watch) in :mnesia.system_info(:subscribers)
    end)

    ExUnit.CaptureLog.capture_log(fn ->
      send(Watch, split)
      assert_receive {Mnesia, ^ref, ^told}
      :ok = Watch.watch()
    end)

    refute_received {Mnesia, ^other, _}
  end

  describe "backups" do
    test "come back, on what was written since, and are looked into" do
      app = table()
      path = Path.join(unique_dir(), "a.backup")
      for n <- 1..2000, do: :ok = Mnesia.put(app, n, {:old, n}, durability: :async)
      assert :ok = Mnesia.backup(app, path)
      assert {:error, :exists} = Mnesia.backup(app, path)
      assert :ok = Mnesia.backup(app, path, overwrite: true)
      assert [_only] = path |> Path.dirname() |> File.ls!()

      :ok = Mnesia.put(app, 1, :new)
      :ok = Mnesia.put(app, :more, :new)
      :ok = Mnesia.delete(app, 2)
      assert :ok = Mnesia.restore(app, path)
      assert {:ok, keys} = Mnesia.list_keys(app)
      assert Enum.sort(keys) == Enum.to_list(1..2000)
      for n <- 1..2000, do: assert({:ok, {:old, ^n}} = Mnesia.get(app, n))

      assert {:ok, sum} =
               Mnesia.backup_fold(app, path, 0, fn {key, {:old, key}}, sum -> sum + key end)

      assert sum == Enum.sum(1..2000)
    end

    test "of an empty table too, and not of another app's" do
      [app, other] = [table(), table()]
      path = Path.join(unique_dir(), "empty.backup")
      assert :ok = Mnesia.backup(app, path)
      :ok = Mnesia.put(app, 1, 1)
      :ok = Mnesia.put(other, 1, 1)
      assert :ok = Mnesia.restore(app, path)
      assert {:ok, []} = Mnesia.list_keys(app)
      assert {:error, %Error{kind: :invalid, message: message}} = Mnesia.restore(other, path)
      assert message =~ "no table of this app"
      assert {:ok, [1]} = Mnesia.list_keys(other)
    end

    test "of a table with other attributes are refused" do
      app = table()
      path = Path.join(unique_dir(), "shape.backup")
      :ok = Mnesia.put(app, 1, 1)
      :ok = Mnesia.backup(app, path)
      {:atomic, :ok} = :mnesia.delete_table(:"#{app}_data")
      :ok = Mnesia.create_app_table(app, attributes: [:key, :value])
      :ok = Mnesia.put(app, 2, 2)
      assert {:error, %Error{kind: :invalid, message: message}} = Mnesia.restore(app, path)
      assert message =~ "other attributes"
      assert {:ok, [2]} = Mnesia.list_keys(app)
    end

    # Each byte flipped, each length: mnesia's own format takes what it can read of such a file.
    test "that are damaged change nothing" do
      app = table()
      dir = unique_dir()
      path = Path.join(dir, "good.backup")
      for n <- 1..3, do: :ok = Mnesia.put(app, n, n)
      :ok = Mnesia.backup(app, path)
      :ok = Mnesia.put(app, :later, 1)
      good = File.read!(path)
      size = byte_size(good)
      bad_path = Path.join(dir, "bad.backup")

      # every so many of them, from another one each time (by ExUnit's seed)
      step = if System.get_env("MACULA_TORTURE"), do: 1, else: 11
      places = (:rand.uniform(step) - 1)..(size - 1)//step

      damaged =
        for(at <- places, do: flipped(good, at)) ++
          for(at <- places, do: binary_part(good, 0, at)) ++ [good <> "x"]

      for {bad, n} <- Enum.with_index(damaged) do
        File.write!(bad_path, bad)
        assert {:error, %Error{kind: kind}} = Mnesia.restore(app, bad_path), "damage #{n}"
        assert kind in [:corrupt, :invalid, :newer_format], "damage #{n}: #{kind}"
      end

      assert {:ok, keys} = Mnesia.list_keys(app)
      assert Enum.sort(keys) == [1, 2, 3, :later]
      assert {:error, :not_found} = Mnesia.restore(app, Path.join(dir, "missing"))

      assert {:error, :not_found} =
               Mnesia.backup_fold(app, Path.join(dir, "missing"), 0, &{&1, &2})

      newer = "MACMNBUP" <> <<2::little-32>> <> binary_part(good, 12, size - 12)
      File.write!(bad_path, newer)

      assert {:error, %Error{kind: :newer_format, message: message}} =
               Mnesia.restore(app, bad_path)

      assert message =~ "version=2"
      assert :ok = Mnesia.restore(app, path)
    end

    defp flipped(bytes, at) do
      <<before::binary-size(at), byte, rest::binary>> = bytes
      <<before::binary, Bitwise.bxor(byte, 0x10), rest::binary>>
    end

    test "to a place that cannot be leave nothing" do
      app = table()
      dir = unique_dir()
      assert {:error, :not_found} = Mnesia.backup(app, Path.join(dir, "no/such/a.backup"))
      File.mkdir!(Path.join(dir, "taken"))
      assert {:error, :exists} = Mnesia.backup(app, Path.join(dir, "taken"))
      assert {:error, %Error{}} = Mnesia.backup(app, Path.join(dir, "taken"), overwrite: true)
      assert ["taken"] = File.ls!(dir)
      assert :mnesia.system_info(:checkpoints) == []
    end

    test "are read by mnesia itself, through the module of their format" do
      app = table()
      path = Path.join(unique_dir(), "a.backup")
      :ok = Mnesia.put(app, 1, 1)
      :ok = Mnesia.backup(app, path)
      :ok = Mnesia.put(app, 2, 2)
      table = :"#{app}_data"

      assert {:atomic, [^table]} =
               :mnesia.restore(path,
                 module: BackupFile,
                 default_op: :skip_tables,
                 clear_tables: [table]
               )

      assert {:ok, [1]} = Mnesia.list_keys(app)
    end
  end

  test "from Erlang" do
    source = to_charlist("test/support/facade_user.erl")
    {:ok, user, beam} = :compile.file(source, [:binary, :return_errors])
    {:module, ^user} = :code.load_binary(user, source, beam)
    app = table()
    assert :ok = apply(user, :mnesia, [app, Path.join(unique_dir(), "a.backup")])
  end

  test "writers that wait together share one sync" do
    app = table()
    syncer = Process.whereis(Syncer)
    :erlang.trace(syncer, true, [:call])
    :erlang.trace_pattern({:mnesia, :sync_log, 0}, true, [])
    :ok = :sys.suspend(syncer)
    puts = for n <- 1..20, do: Task.async(fn -> Mnesia.put(app, n, n) end)

    MaculaStorage.Wait.until("all wait", fn ->
      {:message_queue_len, 20} == Process.info(syncer, :message_queue_len)
    end)

    :ok = :sys.resume(syncer)
    assert Enum.uniq(Task.await_many(puts)) == [:ok]
    assert_received {:trace, ^syncer, :call, {:mnesia, :sync_log, []}}
    refute_received {:trace, ^syncer, :call, {:mnesia, :sync_log, []}}
    assert :ok = Mnesia.put(app, 1, 2)
    assert_received {:trace, ^syncer, :call, {:mnesia, :sync_log, []}}
    assert :ok = Mnesia.put(app, 1, 3, durability: :async)
    refute_received {:trace, ^syncer, :call, {:mnesia, :sync_log, []}}
    :erlang.trace(syncer, false, [:call])
  end

  test "a sync that fails is told, and everyone after it until mnesia was started anew" do
    app = table()
    :ok = Mnesia.put(app, 1, 1)
    # to who wants to sync it, a blocked log is one whose sync fails
    :ok = :disk_log.block(:latest_log, false)
    assert {:error, :unknown_result} = Syncer.sync([node()])
    :ok = :disk_log.unblock(:latest_log)
    assert {:error, :poisoned} = Mnesia.put(app, 2, 2)
    assert {:error, :poisoned} = Mnesia.delete(app, 1)
    assert {:error, :not_found} = Mnesia.get(app, 2)
    assert Mnesia.status().poisoned
    restart(app)

    # the part of the log that is being emptied counts too: this one cannot be synced
    previous = Path.join(Mnesia.status().directory, "PREVIOUS.LOG")
    File.mkdir!(previous)
    assert {:error, :unknown_result} = Mnesia.put(app, 3, 3)
    File.rmdir!(previous)
    restart(app)
  end

  defp restart(app) do
    ExUnit.CaptureLog.capture_log(fn ->
      :mnesia.stop()
      assert {:error, {:aborted, {:node_not_running, _}}} = Mnesia.put(app, 2, 2)
      assert {:error, {:aborted, {:node_not_running, _}}} = Mnesia.create_app_table("later")
      refute Mnesia.status().running
      assert :ok = Mnesia.setup([node()])
    end)

    refute Mnesia.status().poisoned
    assert :ok = Mnesia.put(app, 2, 2)
  end
end
