defmodule MaculaStorage.Nif.ArgumentsTest do
  @moduledoc """
  Any term in any place of any NIF: an ArgumentError or an error, never a crash of the VM, and never a
  success where a handle is none.
  """
  use MaculaStorage.NifCase, async: true

  @not_nifs [:load, :module_info, :__info__]
  @rounds_per_nif 150

  defp nifs do
    for {name, arity} <- Native.module_info(:exports), name not in @not_nifs, do: {name, arity}
  end

  # No absolute path and no number that a probe could sleep for.
  defp junk do
    [
      :atom,
      nil,
      true,
      0,
      1,
      -1,
      17,
      0x8000_0000_0000_0000_0000,
      -0x8000_0000_0000_0000_0000,
      1.0e300,
      "",
      "a",
      "app",
      <<0>>,
      <<255, 254>>,
      "../../etc/passwd",
      String.duplicate("x", 100_000),
      <<1::3>>,
      [],
      [1, "a", :b],
      [1 | 2],
      [{:put, "a", "b"}, :clear],
      [{:put, <<131, 97, 1>>, "b", -1}],
      {},
      {:incl, "a"},
      {:raw, <<0, 255>>},
      {:prefix, <<131, 109, 0, 0, 0, 1, 255>>, nil},
      [{:prefix, <<131, 104, 0>>, 3}, {:incl, <<131, 97, 1>>}, :none],
      [{:absent, "a"}, {:is, "a", 1}],
      [{:is, <<131, 97, 1>>, :none}],
      {:positional, [1 | 2]},
      {:named, [{"a", self()}]},
      {:blob, "a"},
      %{},
      %{format: :gz, level: -5, cache: 1, verify: nil, overwrite: "x"},
      make_ref(),
      self(),
      &Function.identity/1,
      hd(Port.list()),
      :erlang.term_to_binary({:a, 1.0}),
      <<131, 108, 255, 255, 255, 255>>
    ]
  end

  # A path that is absolute is a directory of this test's own.
  defp handles do
    base = own_base()
    app = own_app(base)
    {:ok, conn} = call(&Native.sqlite_open(app, &1))
    {:ok, snapshot} = Native.kv_snapshot(app)
    {:ok, writer} = call(&Native.files_writer(app, &1, "a.txt"))
    {:ok, pending} = Native.probe(base, make_ref(), 0, false)
    [base, app, conn, snapshot, writer, pending]
  end

  defp try_nif(name, args) do
    apply(Native, name, args)
  rescue
    ArgumentError -> :argument_error
  end

  @tag timeout: 300_000
  test "junk in every place" do
    # they need no handle: the first takes nothing, the second any process, the others any bytes, of which
    # none is a changeset, too
    no_handle = [
      probe_heap: 0,
      sqlite3_set_log_hook: 1,
      sqlite3_changeset_invert: 1,
      sqlite3_changeset_concat: 2,
      sqlite3_changeset_info: 1
    ]

    for {name, arity} <- nifs() -- no_handle do
      seed = seed_random({name, arity})

      for _ <- 1..@rounds_per_nif do
        args = for _ <- 1..arity//1, do: Enum.random(junk())
        result = try_nif(name, args)

        assert match?(:argument_error, result) or match?({:error, _}, result),
               "#{name}(#{inspect(args, limit: 8)}) answered #{inspect(result)} seed=#{seed}"
      end
    end

    assert mailbox() == []
  end

  test "bytes that are no changeset" do
    seed = seed_random(:changesets)
    junk = Enum.filter(junk(), &is_binary/1) ++ for n <- 1..500, do: :rand.bytes(rem(n, 60))

    for bytes <- junk, other <- ["", bytes] do
      for result <- [
            Native.sqlite3_changeset_invert(bytes),
            Native.sqlite3_changeset_concat(bytes, other),
            Native.sqlite3_changeset_info(bytes)
          ],
          do: assert({tag, _} = result) && assert(tag in [:ok, :error], "seed=#{seed}")
    end
  end

  test "real handles of the wrong kind, and junk beside real handles" do
    handles = handles()
    # closing what the other calls need would make the test blunt
    nifs = nifs() -- [base_close: 2, sqlite_close: 1, app_close: 3, kv_snapshot_release: 1]

    for {name, arity} <- nifs, arity > 0, handle <- handles, _ <- 1..10 do
      args = [handle | for(_ <- 2..arity//1, do: Enum.random(handles ++ junk()))]
      # in a process of its own: what it begins, holds or is answered ends with it
      {pid, ref} = spawn_monitor(fn -> exit({:shutdown, try_nif(name, args)}) end)
      assert_receive {:DOWN, ^ref, :process, ^pid, reason}, 60_000

      assert match?({:shutdown, _}, reason),
             "#{name}(#{inspect(args, limit: 8)}) ended in #{inspect(reason)}"

      {:shutdown, result} = reason

      # those that answer at once may say that it takes longer, or that no row is left
      assert result in [:argument_error, :ok, :cancelled, :replied, :cold, :done] or
               match?({tag, _} when tag in [:error, :ok, :etf, :row], result) or
               match?({:ok, _, _}, result),
             "#{name}(#{inspect(args, limit: 8)}) answered #{inspect(result)}"
    end

    [base | _] = handles
    assert :ok = call(&Native.app_close(base, &1, "app"))
    app = own_app(base)
    assert :ok = call(&Native.kv_write(app, &1, [:clear], [], nil))
    assert {:ok, 0} = call(&Native.kv_count(app, &1, :none, :none))
    assert {:ok, :done} = call(&Native.probe(base, &1, 0, false))
  end

  test "keys and values that are no terms are refused and change nothing" do
    app = own_app(own_base())
    etf = :erlang.term_to_binary(:key)

    for bad <- ["", "junk", <<131>>, <<131, 104, 2, 97, 1>>, etf <> "x", <<131, 109, 255::32>>] do
      assert {:error, {:invalid, _, _}} =
               call_raw(&Native.kv_write(app, &1, [{:put, bad, etf}], [], nil))

      assert {:error, {:invalid, _, _}} =
               call_raw(&Native.kv_write(app, &1, [], [{:absent, bad}], nil))

      assert {:error, {:invalid, _, _}} =
               call_raw(&Native.kv_write(app, &1, [], [{:is, bad, nil}], nil))

      assert {:error, {:invalid, _, _}} = Native.kv_get(app, bad)
      assert {:error, {:invalid, _, _}} = Native.kv_get_many(app, [etf, bad])
      assert {:error, {:invalid, _, _}} = Native.kv_page(app, {:incl, bad}, :none, false, 10)
    end

    assert {:ok, 0} = call(&Native.kv_count(app, &1, :none, :none))
  end

  defp call_raw(start) do
    case start.(make_ref()) do
      {:error, _} = error -> error
      other -> flunk("it was taken: #{inspect(other)}")
    end
  end

  defp seed_random(what) do
    seed = {:erlang.phash2(what), ExUnit.configuration()[:seed], 1}
    :rand.seed(:exsss, seed)
    inspect(seed)
  end
end
