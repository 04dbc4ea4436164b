defmodule MaculaStorage.ErlangFacadeTest do
  @moduledoc "The Erlang modules, used from a real Erlang module, are the Elixir ones under the same names."
  use MaculaStorage.Case, async: true

  @source "test/support/facade_user.erl"

  setup_all do
    # no file of it stays
    {:ok, module, beam} = :compile.file(to_charlist(@source), [:binary, :return_errors])
    {:module, ^module} = :code.load_binary(module, to_charlist(@source), beam)

    on_exit(fn ->
      :code.purge(module)
      :code.delete(module)
    end)

    %{user: module}
  end

  test "every tier from Erlang", %{user: user} do
    app = unique_app()
    dir = unique_dir()

    on_exit(fn ->
      for %{path: path} <- MaculaBackup.list_backups(app, details: true), do: File.rm!(path)
    end)

    assert :ok = apply(user, :directories, [app])
    assert :ok = apply(user, :key_value, [app])

    for tier <- [:many, :transactions, :snapshots, :stores],
        do: assert(:ok = apply(user, tier, [app]))

    assert :ok = apply(user, :directory, [Path.join(dir, "store")])
    assert :ok = apply(user, :sqlite, [app, Path.join(dir, "copy.db")])
    assert :ok = apply(user, :files, [app])
    assert :ok = apply(user, :chunks, [app])
    assert :ok = apply(user, :mesh, [unique_app()])
    assert :ok = apply(user, :backups, [app])
    assert :ok = apply(user, :archives, [app, Path.join(dir, "a.tar.gz")])
    assert :ok = apply(user, :state, [to_charlist(app), Path.join(dir, "a.state")])
    assert :ok = apply(user, :certificates, [to_charlist(dir)])
    assert :ok = apply(user, :misuse, [app])
  end

  test "atoms are apps as well", %{user: user} do
    assert :ok = apply(user, :atoms, [:erlang_facade_atom])
    MaculaStorage.close_app(:erlang_facade_atom)
    File.rm_rf!(Path.dirname(MaculaStorage.app_data_path(:erlang_facade_atom)))
  end

  # Streams are for Elixir; Erlang folds, or reads ranges.
  @elixir_only [
    file_stream!: 2,
    file_stream!: 3,
    mesh_stream!: 2,
    mesh_stream!: 3,
    sqlite_stream: 2,
    sqlite_stream: 3,
    sqlite_stream: 4
  ]
  @erlang_only [
    data_fold: 4,
    file_fold: 4,
    file_fold: 5,
    file_unfold: 4,
    data_refetch: 3,
    sqlite_fold: 5
  ]

  # A word of Erlang's own, and what has its tier's name already.
  @renamed %{
    data_has_key?: :data_has_key,
    data_compacting?: :data_compacting,
    data_data_dir: :data_dir
  }

  test "nothing of the front doors is missing" do
    tiers =
      for {prefix, module} <- [
            data: MaculaStorage.CubDB,
            sqlite: MaculaStorage.SQLite,
            mnesia: MaculaStorage.Mnesia,
            state: MaculaStorage.Khepri,
            state_tx: MaculaStorage.Khepri.Tx,
            state_cache: MaculaStorage.Cache,
            authority: MaculaStorage.Authority,
            mesh: MaculaStorage.MeshFS,
            mesh_transport: MaculaStorage.MeshFS.Transport
          ],
          {name, arity} <- documented(module),
          name = :"#{prefix}_#{name}",
          do: {Map.get(@renamed, name, name), arity}

    for {erlang, elixir, own} <- [
          {:macula_storage, documented(MaculaStorage) ++ tiers, @erlang_only},
          {:macula_backup, documented(MaculaBackup), []}
        ] do
      there = erlang.module_info(:exports) -- [module_info: 0, module_info: 1]
      assert Enum.sort(there -- own) == Enum.sort(Enum.uniq(elixir) -- @elixir_only)
    end
  end

  # With every arity that defaults give.
  defp documented(module) do
    {:docs_v1, _, _, _, _, _, docs} = Code.fetch_docs(module)

    for {{:function, name, arity}, _, _, doc, meta} <- docs,
        doc != :hidden,
        n <- (arity - Map.get(meta, :defaults, 0))..arity,
        do: {name, n}
  end
end
