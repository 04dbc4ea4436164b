defmodule MaculaStorage.CubDB.OrderTest do
  @moduledoc """
  The order of keys is the BEAM's own, and every key comes back identical.

  The BEAM itself is the model. Its `==` leaves the order of 1 and 1.0 open, ours puts the integer
  first; everything else must be exactly as `<` says. PropEr makes the terms where it is installed.
  """
  use MaculaStorage.Case, async: true

  alias MaculaStorage.CubDB

  # As keys of a map -0.0 and 0.0 are one to OTP before 27, and two to us; they are compared as keys
  # of the store below, on every OTP.
  @zeros if String.to_integer(System.otp_release()) >= 27, do: [-0.0, 0.0, 0], else: [0.0, 0]
  @tries if System.get_env("MACULA_TORTURE"), do: 3_000, else: 60
  @keys_per_try 60

  setup do
    :rand.seed(:exsss, {ExUnit.configuration()[:seed], 7, 7})
    %{db: unique_app()}
  end

  test "random terms as keys", %{db: db} do
    for _ <- 1..@tries, do: check(db, for(_ <- 1..@keys_per_try, do: term(4)))
  end

  test "near numbers of both kinds", %{db: db} do
    powers = for e <- [0, 1, 31, 52, 53, 54, 62, 63, 64, 100, 1_000], do: Bitwise.bsl(1, e)
    integers = for p <- powers, d <- -2..2, s <- [1, -1], do: s * (p + d)
    floats = for n <- integers, do: n / 1
    fractions = for f <- floats, d <- [0.5, -0.5, 1.0e-300], do: f + d
    check(db, integers ++ floats ++ fractions ++ [-0.0, 0.0, 5.0e-324, -5.0e-324, 1.7e308])
  end

  if :code.which(:proper_types) != :non_existing do
    test "PropEr's terms as keys", %{db: db} do
      # by apply, because the library may be missing where this is compiled
      any = apply(:proper_types, :list, [apply(:proper_types, :any, [])])

      for _ <- 1..@tries do
        {:ok, keys} = apply(:proper_gen, :pick, [any, 30])
        check(db, keys)
      end
    end
  end

  defp check(db, keys) do
    # by identity: a map tells 1 and 1.0 apart
    keys = keys |> Map.new(&{&1, true}) |> Map.keys()
    :ok = CubDB.clear(db)
    :ok = CubDB.put_multi(db, Enum.map(keys, &{&1, {:value_of, &1}}))
    entries = db |> CubDB.select() |> Enum.to_list()
    seed = "seed=#{ExUnit.configuration()[:seed]}"

    assert length(entries) == length(keys), seed
    assert Enum.all?(entries, fn {key, {:value_of, same}} -> key === same end), seed
    stored = Enum.map(entries, &elem(&1, 0))
    assert MapSet.new(stored) === MapSet.new(keys), seed

    for [a, b] <- Enum.chunk_every(stored, 2, 1, :discard) do
      assert a <= b, "#{inspect(a)} came before #{inspect(b)} #{seed}"
    end

    assert Enum.reverse(entries) === db |> CubDB.select(reverse: true) |> Enum.to_list(), seed
    for key <- keys, do: assert(CubDB.fetch(db, key) === {:ok, {:value_of, key}}, seed)
    bounds(db, stored, seed)
  end

  defp bounds(_db, [], _seed), do: :ok

  defp bounds(db, stored, seed) do
    {min, max} = {Enum.random(stored), Enum.random(stored)}

    for min_in <- [true, false], max_in <- [true, false] do
      options = [min_key: min, max_key: max, min_key_inclusive: min_in, max_key_inclusive: max_in]
      selected = db |> CubDB.select(options) |> Enum.map(&elem(&1, 0))

      expected =
        Enum.filter(stored, fn key ->
          if(min_in, do: key >= min, else: key > min) and
            if(max_in, do: key <= max, else: key < max)
        end)

      assert selected === expected, "#{inspect(options)} #{seed}"
    end
  end

  defp term(0), do: leaf()

  defp term(depth) do
    case :rand.uniform(10) do
      1 -> List.to_tuple(terms(depth))
      2 -> terms(depth)
      3 -> [term(depth - 1) | leaf()]
      4 -> Map.new(map_keys(depth), &{&1, leaf()})
      _ -> leaf()
    end
  end

  defp terms(depth), do: for(_ <- 1..:rand.uniform(3), do: term(depth - 1))

  # From OTP 26 on maps with atoms as keys, inside keys of maps, have an order that differs from VM to VM.
  if String.to_integer(System.otp_release()) >= 26 do
    defp map_keys(_depth), do: for(_ <- 1..:rand.uniform(3), do: leaf())
  else
    defp map_keys(depth), do: terms(depth)
  end

  defp leaf do
    case :rand.uniform(13) do
      1 -> :rand.uniform(5)
      2 -> :rand.uniform(5) / 1
      3 -> :rand.uniform(Bitwise.bsl(1, 200)) - Bitwise.bsl(1, 199)
      4 -> :rand.normal() * :math.pow(10, :rand.uniform(40) - 20)
      5 -> Enum.random([:a, :ab, :b, nil, true, :"", :ü, :日本])
      6 -> :rand.bytes(:rand.uniform(6) - 1)
      7 -> <<:rand.uniform(255)::size(Enum.random([1, 3, 7]))>>
      8 -> Enum.random([self(), :c.pid(0, 250, 0), Process.whereis(:init)])
      9 -> make_ref()
      10 -> Enum.random([&Enum.map/2, &:lists.map/2, fn -> :a end])
      11 -> Enum.random([[], {}, "", %{}])
      12 -> Enum.random(@zeros)
      13 -> hd(Port.list())
    end
  end
end
