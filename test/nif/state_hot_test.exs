defmodule MaculaStorage.Nif.StateHotTest do
  @moduledoc "A local read of the replicated state where it is asked: from memory, short, of one node; else `:cold`."
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

  test "misuse and a closed state are told", %{base: base, state: state} do
    assert {:error, {:invalid, _, _}} = Native.state_query_hot(state, {:get, [:no_binary]}, nil)
    assert :ok = call(&Native.state_close(base, &1))
    assert hot(state, [:a]) == {:error, :closed}
  end
end
