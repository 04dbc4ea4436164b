defmodule MaculaStorage.Nif.StateHotTest do
  @moduledoc """
  What is read of the replicated state where it is asked: from memory, short, of one node, or a little of what has just
  happened; else `:cold`.
  """
  use MaculaStorage.NifCase, async: true
  alias MaculaStorage.Khepri.Wire

  setup do
    base = own_base()
    {:ok, state} = call(&Native.state_open(base, &1, "one@test", nil))
    %{base: base, state: state}
  end

  defp put(state, path, value) do
    op = {:put, Wire.path!(path), Wire.value(value), nil, nil, []}
    {:ok, {:txn, true, _}} = call(&Native.state_command(state, &1, {:txn, [], [op], []}, 5_000))
  end

  defp hot(state, path), do: Native.state_query_hot(state, {:get, Wire.path!(path)}, nil)

  test "what was put is seen at once, and what is not there too", %{state: state} do
    for n <- 1..50 do
      put(state, [:a, n], {:value, n})
      assert {:ok, node} = hot(state, [:a, n])
      assert Wire.term(elem(node, 0)) == {:value, n}
      assert {:ok, ^node} = Native.state_query_here(state, {:get, Wire.path!([:a, n])})
    end

    assert hot(state, [:a, 51]) == {:ok, nil}
  end

  test "what may be no older than so much is cold until the others were asked", %{state: state} do
    put(state, [:a], 1)
    get = {:get, Wire.path!([:a])}
    assert Native.state_query_hot(state, get, 60_000) == :cold
    assert {:ok, found} = call(&Native.state_query(state, &1, get, 60_000, 5_000))
    assert Native.state_query_hot(state, get, 60_000) == {:ok, found}
  end

  test "a long value and any other query are for a thread that may wait", %{state: state} do
    put(state, [:long], String.duplicate("x", 16 * 1024))
    put(state, [:short], String.duplicate("x", 15 * 1024))
    assert hot(state, [:long]) == :cold
    assert {:ok, _} = hot(state, [:short])
    assert Native.state_query_hot(state, :status, nil) == :cold
  end

  defp watch(state) do
    {:ok, {watch, _}} = Native.state_watch(state, Wire.pattern!([:**]), 0)
    watch
  end

  # as the feeder of a watch reads: what is cold by the other one
  defp events(watch, told \\ {[], 0}) do
    {events, cold} = told

    case Native.state_watch_next_hot(watch) do
      :cold ->
        {:ok, {more, _, again}} = Native.state_watch_next(watch)
        read_on(watch, {events ++ more, cold + 1}, again)

      {:ok, {more, _, again}} ->
        read_on(watch, {events ++ more, cold}, again)
    end
  end

  defp read_on(watch, told, true), do: events(watch, told)
  defp read_on(_watch, told, false), do: told

  test "a watch gets what happened in the same pieces and order, from memory", %{state: state} do
    for n <- 1..300, do: put(state, [:w, n], {n, String.duplicate("v", 50)})
    {told, cold} = events(watch(state))
    assert cold == 0

    assert for({_, :put, path, _, _, _} <- told, do: Wire.path(path)) ==
             for(n <- 1..300, do: [:w, n])

    {:ok, {all, _, false}} = Native.state_watch_next(watch(state))
    assert told == all
  end

  test "a long event is for a thread that may wait, and is neither lost nor told twice", %{
    state: state
  } do
    for n <- 1..9,
        do: put(state, [:w, n], String.duplicate("v", if(n == 5, do: 20_000, else: 50)))

    {told, cold} = events(watch(state))
    assert cold > 0
    assert for({_, _, path, _, _, _} <- told, do: Wire.path(path)) == for(n <- 1..9, do: [:w, n])
  end

  test "misuse and a closed state are told", %{base: base, state: state} do
    assert {:error, {:invalid, _, _}} = Native.state_query_hot(state, {:get, [:no_binary]}, nil)
    watch = watch(state)
    assert :ok = call(&Native.state_close(base, &1))
    assert Native.state_watch_next_hot(watch) == {:error, :closed}
    assert hot(state, [:a]) == {:error, :closed}
  end
end
