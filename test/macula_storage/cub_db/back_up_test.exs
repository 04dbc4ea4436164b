defmodule MaculaStorage.CubDB.BackUpTest do
  @moduledoc "Copies of one instant that open as stores, whole or not at all; and checks of what is stored."
  use MaculaStorage.Case, async: true

  alias MaculaStorage.{CubDB, Error, Wait}
  alias MaculaStorage.CubDB.Snapshot

  setup do
    db = unique_app()
    entries = for n <- 1..3_000, do: {{:key, n}, {n, "value"}}
    # noise, which is not compressed, and of which a file has each part once
    large = :crypto.strong_rand_bytes(2_000_000)
    :ok = CubDB.put_multi(db, [{:large, large} | entries])
    %{db: db, dir: unique_dir("back_up"), large: large}
  end

  defp all(db), do: db |> CubDB.select() |> Enum.to_list()

  defp opened(dir) do
    {:ok, db} = CubDB.start_link(data_dir: dir)
    entries = all(db)
    assert {:ok, _} = CubDB.check(db)
    :ok = CubDB.stop(db)
    entries
  end

  test "of an app's store, of a directory's, of that copy again", %{db: db, dir: dir} do
    expected = all(db)
    assert :ok = CubDB.back_up(db, Path.join(dir, "one"))
    :ok = CubDB.clear(db)
    {:ok, one} = CubDB.start_link(data_dir: Path.join(dir, "one"))
    assert :ok = CubDB.back_up(one, to_charlist(Path.join(dir, "two")))
    :ok = CubDB.put(one, :only, :here)
    assert opened(Path.join(dir, "two")) == expected
    :ok = CubDB.stop(one)
    assert File.ls!(dir) |> Enum.sort() == ["one", "two"]
  end

  test "of an empty store", %{dir: dir} do
    assert :ok = CubDB.back_up(unique_app(), Path.join(dir, "empty"))
    assert opened(Path.join(dir, "empty")) == []
  end

  test "of one instant, while others write", %{db: db, dir: dir} do
    :ok = CubDB.put_multi(db, for(n <- 1..100, do: {n, 0}))

    writer =
      Task.async(fn ->
        for v <- 1..60, do: :ok = CubDB.put_multi(db, for(n <- 1..100, do: {n, v}))
      end)

    for n <- 1..3, do: assert(:ok = CubDB.back_up(db, Path.join(dir, "#{n}")))
    Task.await(writer, 60_000)

    for n <- 1..3 do
      values = for {key, value} when is_integer(key) <- opened(Path.join(dir, "#{n}")), do: value
      assert length(values) == 100 and length(Enum.uniq(values)) == 1
    end
  end

  test "of a snapshot: that instant, whatever came after", %{db: db, dir: dir} do
    expected = all(db)

    CubDB.with_snapshot(db, fn snapshot ->
      :ok = CubDB.clear(db)
      assert :ok = Snapshot.back_up(snapshot, Path.join(dir, "then"))
      assert {:error, :eexist} = Snapshot.back_up(snapshot, Path.join(dir, "then"))
    end)

    assert opened(Path.join(dir, "then")) == expected
    released = CubDB.with_snapshot(db, & &1)
    assert {:error, :closed} = Snapshot.back_up(released, Path.join(dir, "late"))
    assert File.ls!(dir) == ["then"]
  end

  # As CubDB: the default time of a snapshot, five seconds, is no limit for a copy of it.
  test "of a snapshot that ends meanwhile", %{db: db, dir: dir} do
    for n <- 1..30, do: :ok = CubDB.put(db, n, :binary.copy(<<n>>, 1_000_000))
    expected = all(db)
    snapshot = CubDB.snapshot(db, :infinity)
    :ok = CubDB.put(db, :later, 1)
    copy = Task.async(fn -> Snapshot.back_up(snapshot, Path.join(dir, "copy")) end)
    Wait.until("its beginning", fn -> File.ls!(dir) != [] end)
    # as its limit does
    CubDB.release_snapshot(snapshot)
    assert_raise Error, fn -> Snapshot.get(snapshot, 1) end
    assert :ok = Task.await(copy, 60_000)
    assert opened(Path.join(dir, "copy")) == expected
  end

  test "nothing is written over, and what cannot be leaves nothing", %{db: db, dir: dir} do
    file = Path.join(dir, "file")
    File.write!(file, "mine")
    File.mkdir!(Path.join(dir, "empty"))
    File.ln_s!("nowhere", Path.join(dir, "link"))

    for name <- ["file", "empty", "link"],
        do: assert({:error, :eexist} = CubDB.back_up(db, Path.join(dir, name)))

    assert {:error, :not_found} = CubDB.back_up(db, Path.join(dir, "none/copy"))
    inside = Path.join(MaculaStorage.app_data_path(db), "copy")
    assert {:error, %Error{kind: :invalid}} = CubDB.back_up(db, inside)
    assert_raise ArgumentError, fn -> CubDB.back_up(db, nil) end
    assert_raise ArgumentError, fn -> CubDB.back_up(db, "") end
    assert File.read!(file) == "mine"
    assert File.ls!(dir) |> Enum.sort() == ["empty", "file", "link"]
  end

  test "one whose caller was killed ends, and leaves nothing", %{db: db, dir: dir} do
    for n <- 1..30, do: :ok = CubDB.put(db, n, :binary.copy(<<n>>, 1_000_000))
    {pid, ref} = spawn_monitor(fn -> CubDB.back_up(db, Path.join(dir, "copy")) end)
    Wait.until("its beginning", fn -> File.ls!(dir) != [] end)
    Process.exit(pid, :kill)
    assert_receive {:DOWN, ^ref, _, _, _}, 60_000

    # ended before it was killed, or not at all
    Wait.until("its end", fn -> File.ls!(dir) in [[], ["copy"]] end)
    assert :ok = CubDB.back_up(db, Path.join(dir, "again"))
  end

  test "check: how much was read, and which is damaged", %{db: db, large: large} do
    assert {:ok, %{entries: 3_001, blocks: blocks}} = CubDB.check(db)
    assert blocks > 500
    # in the large value, under the open store
    file = CubDB.current_db_file(db)
    bytes = File.read!(file)
    # one of them, at least, lies in one block
    {at, _} =
      :binary.match(bytes, for(n <- [0, 1_000], do: binary_part(large, 1_000_000 + n, 100)))

    {:ok, device} = :file.open(file, [:read, :write, :raw])
    :ok = :file.pwrite(device, at, <<Bitwise.bxor(:binary.at(bytes, at), 1)>>)
    :ok = :file.close(device)
    assert {:error, %Error{kind: :corrupt, message: message}} = CubDB.check(db)
    assert message =~ "kv.redb"
    # what is good is read as before
    assert CubDB.get(db, {:key, 1}) == {1, "value"}
    assert :ok = CubDB.put(db, :a, 1)
  end

  test "closed names", %{db: db, dir: dir} do
    name = unique_app("name")
    {:ok, pid} = CubDB.start_link(db, name: name)
    assert {:ok, %{entries: 3_001}} = CubDB.check(name)
    :ok = CubDB.stop(pid)
    assert {:error, :closed} = CubDB.check(name)
    assert {:error, :closed} = CubDB.back_up(name, Path.join(dir, "copy"))
  end
end
