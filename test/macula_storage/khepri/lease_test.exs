defmodule MaculaStorage.Khepri.LeaseTest do
  @moduledoc "Leases: keys go with their process, by `revoke/2`, and with the VM that is killed."
  use MaculaStorage.Case, async: false

  alias MaculaStorage.{Khepri, Wait}
  alias MaculaStorage.Khepri.Leases

  setup do
    root = "lease-#{System.unique_integer([:positive])}"
    on_exit(fn -> Khepri.delete([root]) end)
    %{root: root}
  end

  test "keys go with their process, and with nobody else's", %{root: root} do
    {:ok, mine} = Khepri.lease()
    :ok = Khepri.put([root, :mine], 1, lease: mine)
    {:ok, ref, _} = Khepri.watch([root, :**])
    {other, monitor} = spawn_monitor(fn -> receive(do: (:end -> :ok)) end)
    {:ok, id} = Khepri.lease(other)
    for n <- 1..20, do: :ok = Khepri.put([root, :other, n], n, lease: id)
    send(other, :end)
    assert_receive {:DOWN, ^monitor, _, _, _}
    gone = collect(ref, :deleted, 20, [])
    assert length(gone) == 20
    assert {:ok, 1} = Khepri.get([root, :mine])
    assert {:error, :lease_unknown} = Khepri.put([root, :late], 1, lease: id)
    assert :ok = Khepri.revoke(mine)
    assert {:error, :lease_unknown} = Khepri.revoke(mine)
    assert {:error, :not_found} = Khepri.get([root, :mine])
    Khepri.unwatch(ref)
  end

  defp collect(_ref, _kind, n, paths) when length(paths) >= n, do: paths

  defp collect(ref, kind, n, paths) do
    receive do
      {Khepri, ^ref, _, events} ->
        collect(ref, kind, n, for(%{kind: ^kind, path: path} <- events, do: path) ++ paths)
    after
      10_000 -> flunk("did not go: #{inspect(paths)}")
    end
  end

  test "a process that was dead already leaves nothing" do
    {pid, monitor} = spawn_monitor(fn -> :ok end)
    assert_receive {:DOWN, ^monitor, _, _, _}
    {:ok, id} = Khepri.lease(pid)

    Wait.until("its lease is gone", fn ->
      Khepri.put(["lease-none"], 1, lease: id) == {:error, :lease_unknown}
    end)

    Khepri.delete(["lease-none"])
  end

  test "many leases at once share one session", %{root: root} do
    ids =
      1..50
      |> Enum.map(fn n ->
        Task.async(fn ->
          {:ok, id} = Khepri.lease()
          :ok = Khepri.put([root, n], n, lease: id)
          id
        end)
      end)
      |> Task.await_many()

    assert length(Enum.uniq(ids)) == 50
    Wait.until("all are gone with their tasks", fn -> Khepri.list([root]) == {:ok, []} end)
  end

  test "a session that the state has no more is told to every owner", %{root: root} do
    {:ok, id} = Khepri.lease()
    :ok = Khepri.put([root], 1, lease: id)
    %{session: %{id: session}} = :sys.get_state(Leases)
    # as if it had run out while this VM was cut off
    {:ok, {:lease_revoke, true, _}} = Khepri.Engine.command({:lease_revoke, session}, 5_000)
    send(Leases, {:keep, session})
    assert_receive {Khepri, :lease_lost, ^id}, 10_000
    assert {:error, :not_found} = Khepri.get([root])
    assert {:ok, next} = Khepri.lease()
    assert :ok = Khepri.put([root], 2, lease: next)
    Khepri.revoke(next)
  end

  test "a session that could not be kept alive in time is lost before it can have ended", %{
    root: root
  } do
    {:ok, id} = Khepri.lease()
    :ok = Khepri.put([root], 1, lease: id)
    %{session: %{id: session}} = :sys.get_state(Leases)

    # its time is over and no answer came
    :sys.replace_state(Leases, fn state ->
      put_in(state.session.until, System.monotonic_time(:millisecond))
    end)

    send(Leases, {:until, session})
    assert_receive {Khepri, :lease_lost, ^id}

    Wait.until("its keys go when the state is there again", fn ->
      Khepri.get([root]) == {:error, :not_found}
    end)
  end

  test "without leases the session ends, and nothing is written for it" do
    {:ok, id} = Khepri.lease()
    :ok = Khepri.revoke(id)

    Wait.until("no session", fn ->
      case :sys.get_state(Leases) do
        %{session: %{id: session}, held: held} when map_size(held) == 0 ->
          send(Leases, {:keep, session})
          false

        state ->
          state.session == nil
      end
    end)
  end

  @code """
  Application.load(:macula_storage)
  Application.put_env(:macula_storage, :state_session_ttl_ms, 1500)
  {:ok, _} = Application.ensure_all_started(:macula_storage)
  alias MaculaStorage.Khepri
  IO.puts("before \#{inspect(Khepri.get([:alive], consistency: :local))}")
  case IO.gets("") do
    "hold\\n" ->
      {:ok, id} = Khepri.lease()
      :ok = Khepri.put([:alive], 1, lease: id)
      :ok = Khepri.put([:stays], 1)
      # longer than the session lives by itself
      {:ok, ref, _} = Khepri.watch([:alive])
      receive do {Khepri, ^ref, _, _} -> IO.puts("lost") after 4000 -> IO.puts("held") end
      IO.gets("")
    "look\\n" ->
      {:ok, ref, _} = Khepri.watch([:alive])
      if Khepri.get([:alive]) != {:error, :not_found} do
        receive do {Khepri, ^ref, _, [%{kind: kind}]} -> IO.puts("gone \#{kind}") end
      else
        IO.puts("gone already")
      end
      IO.puts("stays \#{inspect(Khepri.get([:stays]))}")
  end
  """

  test "keys of a VM that was killed go at its session's time, also after its restart" do
    base = unique_dir("lease")
    child = ChildVM.start(@code, base: base)
    {:line, "before {:error, :not_found}"} = ChildVM.next(child)
    ChildVM.tell(child, "hold")
    assert {:line, "held"} = ChildVM.next(child)
    ChildVM.kill(child)
    next = ChildVM.start(@code, base: base)
    {:line, "before " <> _} = ChildVM.next(next)
    ChildVM.tell(next, "look")
    assert {:line, "gone " <> how} = ChildVM.next(next)
    assert how in ["expired", "already"]
    assert {:line, "stays {:ok, 1}"} = ChildVM.next(next)
  end
end
