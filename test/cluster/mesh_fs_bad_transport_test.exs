defmodule MaculaStorage.Cluster.MeshFSBadTransportTest do
  @moduledoc """
  A transport of replicated files that breaks, hangs, lies, and goes: its node goes on, says why something failed, and is
  well again when the transport is.
  """
  use MaculaStorage.Case, async: false

  import MaculaStorage.BeamNode
  import MaculaStorage.Cluster.Meshes
  alias MaculaStorage.{Apps, Error, MeshFS, Wait}
  alias MaculaStorage.Cluster.{Loopback, OverLoopback, TransportProcess}
  alias MaculaStorage.MeshFS.{Courier, Transport}

  @moduletag timeout: 300_000

  # the content is on `a` alone: `b` has to ask for it
  setup_all do
    over = OverLoopback.start([mesh_copies: 0, timeout_ms: 30_000], 2)
    [a, b] = for n <- [1, 2], do: OverLoopback.node(over, n)
    :ok = call(b, TransportProcess, :keep_log, [])
    content = :rand.bytes(1_000_000)
    :ok = mesh(a, :write, ["f", content])
    eventually_replicas(b, "f", [a.name])
    %{a: a, b: b, content: content}
  end

  setup %{b: b, content: content} do
    on_exit(fn ->
      :ok = call(b, Loopback, :be, [:good])
      :ok = call(b, Loopback, :cut, [[]])
    end)

    Wait.until("all well", fn -> mesh(b, :read, ["f"]) == {:ok, content} end)
    :ok
  end

  defp be(node, mode), do: :ok = call(node, Loopback, :be, [mode])

  defp read_fails(node) do
    assert {:error, %Error{kind: :unreachable} = error} = mesh(node, :read, ["f"])
    assert Exception.message(error) =~ "nobody who has the file can be reached"
  end

  for {name, mode, why} <- [
        {"raises", :raise, "it broke"},
        {"throws", :throw, ":it_broke"},
        {"exits", :exit, ":it_broke"},
        {"dies", :die, "no answer in time"},
        {"says that it failed", {:error, :no_way}, ":no_way"},
        {"answers with no binary", {:ok, [1, 2]}, "it returned {:ok, [1, 2]}"},
        {"answers with bits", {:ok, <<1::3>>}, "it returned {:ok, <<1::size(3)>>}"},
        {"answers with something else", :what, "it returned :what"},
        {"answers with too much", {:ok, :binary.copy("x", 2_097_153)},
         "an answer of 2097153 bytes"}
      ] do
    test "one that #{name}: an error with its reason, and nothing else", %{b: b, content: content} do
      call(b, TransportProcess, :forget_log, [])
      be(b, unquote(Macro.escape(mode)))
      read_fails(b)
      Wait.until("word of it", fn -> logged(b, "mesh transport, ") != [] end)
      assert [said] = logged(b, "mesh transport, ")
      assert said =~ "mesh transport, to n1@127.0.0.1: "
      assert said =~ unquote(why)
      assert :ok = mesh(b, :write, ["other", "here"])
      assert {:ok, "here"} = mesh(b, :read, ["other"])

      # said once, however often it fails
      for _ <- 1..10, do: read_fails(b)
      assert [_] = logged(b, "mesh transport, ")
      be(b, :good)
      Wait.until("it again", fn -> mesh(b, :read, ["f"]) == {:ok, content} end)
      Wait.until("none left", fn -> call(b, Loopback, :carriers, []) == [] end)
    end
  end

  test "what cannot be an answer is not believed, and the log and the status tell of it",
       context do
    %{a: a, b: b, content: content} = context

    for answer <- [
          "",
          <<0, 0, 0, 0>>,
          # words that are none, another version, blocks of something else
          <<1, 255, 255, 255>>,
          <<9, 1, 2, 3>>,
          <<0>> <> :binary.copy("x", 1_048_576)
        ] do
      before = refused(b)
      be(b, {:ok, answer})
      read_fails(b)
      be(b, :good)
      assert refused(b) > before
      Wait.until("it again", fn -> mesh(b, :read, ["f"]) == {:ok, content} end)
    end

    Wait.until("word of it", fn -> logged(b, "refused what #{a.name} sent or said") != [] end)
    assert {:ok, %{refused: [%{why: why, at_ms: at_ms}]}} = call(b, MeshFS, :status, [])
    assert why != "" and abs(System.os_time(:millisecond) - at_ms) < 600_000
  end

  defp refused(node) do
    {:ok, %{refused: refused}} = call(node, MeshFS, :status, [])
    Enum.sum(for of <- refused, do: of.count)
  end

  defp logged(node, what), do: Enum.filter(call(node, TransportProcess, :log, []), &(&1 =~ what))

  test "what hangs is ended when nobody can be asked any more", %{a: a, b: b} do
    for mode <- [:hang, :trap] do
      be(b, mode)
      reads = for _ <- 1..100, do: Task.async(fn -> mesh(b, :read, ["f"]) end)
      Wait.until("some hang", fn -> length(call(b, Loopback, :carriers, [])) >= 30 end)
      # so many of one member, however many wait
      assert length(call(b, Loopback, :carriers, [])) <= 32
      # the node's own work is not held up by them
      assert :ok = mesh(b, :write, ["other", "here"])
      :ok = call(b, Transport, :down, [a.name])

      for {:error, error} <- Task.await_many(reads, 60_000),
          do: assert(error.kind == :unreachable)

      Wait.until("all ended", fn -> call(b, Loopback, :carriers, []) == [] end)
      be(b, :good)
      :ok = call(b, Transport, :up, [a.name])
      Wait.until("it again", fn -> match?({:ok, _}, mesh(b, :read, ["f"])) end)
    end
  end

  # it takes half a minute; `native/mesh/tests/relay.rs` has one with a shorter deadline
  if System.get_env("MACULA_TORTURE") do
    test "what hangs is ended at its deadline", %{b: b} do
      be(b, :hang)
      # as long as a request waits, and no longer
      read_fails(b)
      be(b, :good)
      Wait.until("all ended", fn -> call(b, Loopback, :carriers, []) == [] end)
    end
  end

  test "who carries is killed: the next one goes on", %{b: b, content: content} do
    be(b, :hang)
    read = Task.async(fn -> mesh(b, :read, ["f"]) end)
    Wait.until("it hangs", fn -> call(b, Loopback, :carriers, []) != [] end)
    killed = call(b, Process, :whereis, [Courier])
    be(b, :good)
    true = call(b, Process, :exit, [killed, :kill])
    assert {:error, %Error{kind: :unreachable}} = Task.await(read, 60_000)
    Wait.until("it again", fn -> mesh(b, :read, ["f"]) == {:ok, content} end)
    Wait.until("none left", fn -> call(b, Loopback, :carriers, []) == [] end)
    assert call(b, Process, :whereis, [Courier]) not in [nil, killed]
  end

  test "the files are closed while something hangs, and opened again", %{b: b, content: content} do
    for _ <- 1..3 do
      be(b, :hang)
      read = Task.async(fn -> mesh(b, :read, ["f"]) end)
      Wait.until("it hangs", fn -> call(b, Loopback, :carriers, []) != [] end)
      assert :ok = call(b, Apps, :close_state, [])
      assert {:error, _} = Task.await(read, 60_000)
      Wait.until("all ended", fn -> call(b, Loopback, :carriers, []) == [] end)
      be(b, :good)
      Wait.until("it again", fn -> mesh(b, :read, ["f"]) == {:ok, content} end)
    end
  end

  test "the library is started again while something hangs", %{a: a, b: b, content: content} do
    be(b, :hang)
    read = Task.async(fn -> mesh(b, :read, ["f"]) end)
    Wait.until("it hangs", fn -> call(b, Loopback, :carriers, []) != [] end)
    assert :ok = call(b, Application, :stop, [:macula_storage])
    assert {:error, _} = Task.await(read, 60_000)
    assert call(b, Loopback, :carriers, []) == []
    assert {:error, :closed} = call(b, Transport, :up, [a.name])
    assert {:error, :closed} = call(b, Transport, :down, [a.name])
    assert {:error, :closed} = call(b, Transport, :answer, [a.name, "request"])
    be(b, :good)
    assert :ok = call(b, Application, :start, [:macula_storage])
    # nobody said `up`: it asked who is reachable
    Wait.until("it again", fn -> mesh(b, :read, ["f"]) == {:ok, content} end)
  end

  test "who is asked for who is reachable may fail, hang or lie at first", %{
    b: b,
    content: content
  } do
    for mode <- [:raise, :hang, {:ok, "no list"}, [:"n1@127.0.0.1", "a" | "b"], [1]] do
      call(b, TransportProcess, :forget_log, [])
      call(b, Loopback, :reach, [mode])
      killed = call(b, Process, :whereis, [Courier])
      true = call(b, Process, :exit, [killed, :kill])

      Wait.until("it is said", fn ->
        Enum.any?(call(b, TransportProcess, :log, []), &(&1 =~ "who is reachable"))
      end)

      # up said meanwhile counts, and what is listed later does not undo it
      Wait.until("the next one", fn ->
        call(b, Process, :whereis, [Courier]) not in [nil, killed]
      end)

      assert :ok = call(b, Transport, :up, ["n1@127.0.0.1"])
      Wait.until("it again", fn -> mesh(b, :read, ["f"]) == {:ok, content} end)
    end

    call(b, Loopback, :reach, [:good])
  end

  test "names", %{a: a, b: b} do
    for bad <- [nil, true, 1, "", [], self(), String.duplicate("x", 256), <<255>>],
        fun <- [:up, :down] do
      assert {:argument_error, message} = call(b, TransportProcess, :raised, [fun, [bad]])
      assert message =~ "expected a member's name"
    end

    # of no member: remembered, up to a number
    many = for n <- 1..1_100, do: call(b, Transport, :up, ["nobody#{n}"])
    assert Enum.uniq(many) == [:ok, {:error, :busy}]
    assert :ok = call(b, Transport, :up, [a.name])
    for n <- 1..1_100, do: assert(:ok = call(b, Transport, :down, ["nobody#{n}"]))
    assert {:ok, _} = mesh(b, :read, ["f"])
  end

  test "answers", %{a: a, b: b} do
    answer = &call(b, TransportProcess, :answered, [&1, &2])

    for from <- ["nobody", :nobody, b.name, String.duplicate("x", 255)] do
      assert {:error, %Error{kind: :invalid} = error} = answer.(from, "request")
      assert error.message =~ "no other member of this cluster"
    end

    # of a member: refused in words, for who asked
    for request <- ["", "request", <<1>>, <<1, 255, 255>>, :binary.copy("x", 2_097_152)],
        from <- [a.name, to_string(a.name)] do
      assert {:ok, answer} = answer.(from, request)
      assert answer =~ "a message of files"
    end

    assert {:error, :too_large} = answer.(a.name, :binary.copy("x", 2_097_153))

    for bad <- [nil, [1], <<1::3>>, :request, {1}] do
      assert {:argument_error, message} =
               call(b, TransportProcess, :raised, [:answer, [a.name, bad]])

      assert message =~ "expected a request as a binary"
    end

    for bad <- [nil, 7, "", {:a}],
        do:
          assert({:argument_error, _} = call(b, TransportProcess, :raised, [:answer, [bad, "r"]]))

    assert {:argument_error, _} =
             call(b, TransportProcess, :raised, [:answer, [a.name, "r", [x: 1]]])
  end

  test "callers of answers that are impatient or die leave nothing behind", %{a: a, b: b} do
    counts = call(b, TransportProcess, :impatient, [a.name, 2_000])
    # both ways of the race were taken, or the test says nothing
    assert counts.timeout > 40
    assert counts.other > 40
    assert :ok = call(b, TransportProcess, :dying, [a.name, 500])
    # none of their places is held
    assert [{:ok, _}] =
             b
             |> call_at_once(TransportProcess, :answered, for(_ <- 1..200, do: [a.name, "r"]))
             |> Enum.uniq()
  end
end
