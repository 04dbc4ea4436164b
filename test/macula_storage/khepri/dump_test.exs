defmodule MaculaStorage.Khepri.DumpTest do
  @moduledoc "Exports: what comes back is what was there, and a file with a changed byte changes nothing."
  use MaculaStorage.Case, async: true

  alias MaculaStorage.{Error, Khepri}

  setup do
    root = "dump-#{System.unique_integer([:positive])}"
    on_exit(fn -> Khepri.delete([root]) end)
    %{root: root, path: Path.join(unique_dir("dump"), "a.state")}
  end

  test "everything beneath a path comes back, times to live as times", %{root: root, path: file} do
    terms = for n <- 1..700, into: %{}, do: {[root, {:n, n}, n / 1], {n, :binary.copy("v", n)}}

    for chunk <- Enum.chunk_every(terms, 200),
        do: Khepri.txn([], for({path, value} <- chunk, do: {:put, path, value}))

    :ok = Khepri.put([root, :big], :binary.copy("b", 3_000_000))
    :ok = Khepri.put([root, :later], 1, ttl: 600_000)
    {:ok, %{expires_ms: expires_ms}} = Khepri.get([root, :later], details: true)
    {:ok, before} = Khepri.get_many([root, :**])
    assert {:ok, %{entries: 702, bytes: bytes}} = Khepri.export([root], file)
    assert bytes > 3_000_000
    assert [Path.basename(file)] == File.ls!(Path.dirname(file))
    assert {:error, :exists} = Khepri.export([root], file)
    assert {:ok, %{entries: 702}} = Khepri.export([root], file, overwrite: true)

    :ok = Khepri.delete([root])
    :ok = Khepri.put([root, :other], 1)
    assert {:ok, 702} = Khepri.import(file)
    assert {:ok, %{expires_ms: ^expires_ms}} = Khepri.get([root, :later], details: true)
    assert {:ok, 1} = Khepri.get([root, :other])
    {:ok, found} = Khepri.get_many([root, :**])
    assert Map.delete(found, [root, :other]) == before
  end

  test "a pattern exports what it matches; what matches nothing is a file too", %{
    root: root,
    path: file
  } do
    for n <- 1..3, do: Khepri.put([root, n, :port], n)
    for n <- 1..3, do: Khepri.put([root, n, :name], n)
    assert {:ok, %{entries: 2}} = Khepri.export([root, {:*, children: 2}, {:*, matches: 2}], file)
    Khepri.delete([root])
    assert {:ok, 2} = Khepri.import(file)
    assert {:ok, found} = Khepri.get_many([root, :**])
    assert found == %{[root, 2, :port] => 2, [root, 2, :name] => 2}
    assert {:ok, %{entries: 0}} = Khepri.export([root, :none], file, overwrite: true)
    assert {:ok, 0} = Khepri.import(file)
  end

  test "each changed or missing byte is found before anything is changed", %{
    root: root,
    path: file
  } do
    for n <- 1..3, do: Khepri.put([root, n], n)
    {:ok, _} = Khepri.export([root], file)
    Khepri.delete([root])
    whole = File.read!(file)

    damaged =
      for(at <- 0..(byte_size(whole) - 1), do: flipped(whole, at)) ++
        for(len <- 0..(byte_size(whole) - 1), do: binary_part(whole, 0, len)) ++ [whole <> "x"]

    for bytes <- damaged do
      File.write!(file, bytes)
      assert {:error, %Error{kind: kind, op: :import}} = Khepri.import(file)
      assert kind in [:corrupt, :newer_format]
    end

    assert Khepri.exists([root]) == false
    File.write!(file, whole)
    assert {:ok, 3} = Khepri.import(file)
  end

  defp flipped(bytes, at) do
    <<before::binary-size(at), byte, rest::binary>> = bytes
    <<before::binary, Bitwise.bxor(byte, 1), rest::binary>>
  end

  test "the bytes are those that docs/formats.md tells", %{root: root, path: file} do
    Khepri.put([root], :v)
    {:ok, %{bytes: len}} = Khepri.export([root], file)
    name = :erlang.term_to_binary(root)

    body =
      <<0::64, 1::little-16, byte_size(name)::little-32>> <> name <> :erlang.term_to_binary(:v)

    assert byte_size(body) == len
    head = "MACULASX" <> <<1::little-16, 0::48>>
    record = <<len::little-32, :erlang.crc32(body)::little-32>> <> body
    counted = head <> record <> <<0xFFFFFFFF::32, 1::little-64, len::little-64>>
    assert File.read!(file) == counted <> :erlang.md5(counted)
  end

  test "a file that is not there, or cannot be written, says so", %{root: root, path: file} do
    assert {:error, %Error{kind: :io, op: :import}} = Khepri.import(file)
    assert {:error, %Error{kind: :io, op: :export}} = Khepri.export([root], Path.join(file, "x"))
  end
end
