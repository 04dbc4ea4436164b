defmodule MaculaStorage.ConfigTest do
  @moduledoc "Where the configuration comes from, which of two goes first, and what cannot be."
  use MaculaStorage.Case, async: true

  # In VMs of their own: the configuration is the whole VM's.
  defp config(env, settings, shown \\ ~w(base_path kv_cache_bytes timeout_ms)a) do
    base = unique_dir()

    child =
      ChildVM.start(
        """
        for {key, value} <- #{inspect(settings)}, do: Application.put_env(:macula_storage, key, value)
        env = #{inspect(env)}
        if env, do: System.put_env("MACULA_STORAGE_BASE", env), else: System.delete_env("MACULA_STORAGE_BASE")

        try do
          config = MaculaStorage.Config.load()
          ^config = MaculaStorage.Config.get()
          shown = &if is_tuple(&1) or is_list(&1), do: inspect(&1), else: &1
          IO.puts(Enum.map_join(#{inspect(shown)}, " ", &shown.(Map.fetch!(config, &1))))
        rescue
          error in ArgumentError -> IO.puts(error.message)
        end
        """,
        base: base
      )

    assert {[line], 0} = ChildVM.rest(child)
    line
  end

  test "the environment goes before the configuration, that before the default" do
    assert config("/from/env", base_path: "/from/config") == "/from/env 67108864 15000"
    assert config(nil, base_path: "/from/config/../there") == "/from/there 67108864 15000"
    assert config(nil, []) == "/var/lib/maculaos 67108864 15000"
    assert config("/b", kv_cache_bytes: 1_000_000, timeout_ms: 5) == "/b 1000000 5"
  end

  test "values that cannot be are refused by name" do
    assert config("/b", kv_cache_bytes: 0) =~ "expected kv_cache_bytes to be a positive integer"
    assert config("/b", kv_history_bytes: -1) =~ "expected kv_history_bytes"
    assert config("/b", kv_history_bytes: 0) == "/b 67108864 15000"
    assert config("/b", timeout_ms: :infinity) =~ "expected timeout_ms"
    assert config("/b", usage_interval_ms: "1") =~ "expected usage_interval_ms"
    assert config(nil, base_path: :here) =~ "expected base_path to be a path"
    assert config("", base_path: "/from/config") =~ "expected base_path to be a path"
  end

  test "where replicated files of this node lie, and how many copies they have" do
    mesh = &config("/b", &1, ~w(mesh_zone mesh_class mesh_copies)a)
    # each node is a zone of its own
    assert mesh.([]) == " fast 2"
    assert mesh.(mesh_zone: nil, mesh_class: :fast) == " fast 2"
    assert mesh.(mesh_zone: "rack-1", mesh_class: :bulk, mesh_copies: 0) == "rack-1 bulk 0"
    longest = String.duplicate("z", 255)
    assert mesh.(mesh_zone: longest, mesh_copies: 5) == longest <> " fast 5"

    for zone <- ["", longest <> "z", :rack],
        do: assert(mesh.(mesh_zone: zone) =~ "expected mesh_zone to be a short string")

    for class <- [:slow, "bulk"], do: assert(mesh.(mesh_class: class) =~ "expected mesh_class")
    for copies <- [-1, "2"], do: assert(mesh.(mesh_copies: copies) =~ "expected mesh_copies")
  end

  test "where some replicated files lie" do
    rules = &config("/b", &1, ~w(mesh_rules)a)
    assert rules.([]) == "[]"

    given = [{:films, copies: 1}, {{"films", "a/b"}, class: :bulk, copies: 0, keep_versions: 9}]

    assert rules.(mesh_rules: given, mesh_copies: 3) ==
             ~s([{"films", nil, 1, :fast, 0}, {"films", "a/b", 0, :bulk, 9}])

    assert rules.(mesh_rules: [{"films", class: :bulk}], mesh_copies: 3) ==
             ~s([{"films", nil, 3, :bulk, 0}])

    for rule <- [
          {"films", copies: -1},
          {"films", copies: 256},
          {"films", keep_versions: 256},
          {{"films", ""}, []},
          {{1, 2}, []},
          1
        ] do
      assert rules.(mesh_rules: [rule]) =~ "expected mesh_rules"
    end

    assert rules.(mesh_rules: [{"films", cope: 1}]) =~ "unknown option :cope"
    assert rules.(mesh_rules: [{"films", class: :slow}]) =~ "class"
    assert rules.(mesh_rules: [{"..", []}]) =~ "app"
  end

  test "who carries what replicated files ask of other members" do
    mesh = &config("/b", [mesh_transport: &1], ~w(base_path mesh_transport)a)
    assert mesh.(nil) == "/b "
    assert mesh.(MyApp.Transport) == "/b {MyApp.Transport, nil}"
    assert mesh.(:transport) == "/b {:transport, nil}"
    assert mesh.({MyApp.Transport, [at: 1]}) == "/b {MyApp.Transport, [at: 1]}"

    for other <- ["MyApp", true, {nil, 1}, {"MyApp", 1}, {MyApp, 1, 2}, [MyApp]],
        do: assert(mesh.(other) =~ "expected mesh_transport to be a module or {module, arg}")
  end

  test "what replicated files cost in the background" do
    mesh = &config("/b", &1, ~w(mesh_scrub_every mesh_scrub_rate)a)
    assert mesh.([]) == "604800000 8388608"
    assert mesh.(mesh_scrub_every: :never, mesh_scrub_rate: 1) == "never 1"

    watch = &config("/b", &1, ~w(mesh_watch)a)
    assert watch.([]) == "true"
    assert watch.(mesh_watch: false) == "false"
    assert watch.(mesh_watch: nil) =~ "expected mesh_watch"

    rates = &config("/b", &1, ~w(mesh_bandwidth mesh_repair_rate)a)
    assert rates.([]) == "infinity 33554432"
    assert rates.(mesh_bandwidth: 5, mesh_repair_rate: 6) == "5 6"

    for rate <- [0, :never, nil, 0.5] do
      assert rates.(mesh_bandwidth: rate) =~ "expected mesh_bandwidth"
      assert rates.(mesh_repair_rate: rate) =~ "expected mesh_repair_rate"
    end

    for every <- [0, -1, :infinity, "1d", 0x8000_0000_0000_0000],
        do: assert(mesh.(mesh_scrub_every: every) =~ "expected mesh_scrub_every")

    for rate <- [0, :never, 1.5, 0x8000_0000_0000_0000],
        do: assert(mesh.(mesh_scrub_rate: rate) =~ "expected mesh_scrub_rate")
  end
end
