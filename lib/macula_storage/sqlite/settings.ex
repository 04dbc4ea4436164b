defmodule MaculaStorage.SQLite.Settings do
  @moduledoc false
  # A Repo's options as pragmas: exqlite's names, values and defaults.
  #
  # Invariant: on an app's file nothing here touches the log, which is the app's own business, or weakens what
  # others were promised; what asks for that is refused, and never passed over.

  alias MaculaStorage.{Config, SQLite}

  @on_off %{on: 1, off: 0, true: 1, false: 0}
  @modes ~w(delete memory off persist truncate wal)a

  # option, pragma, exqlite's default (nil: left as it is), and values by their names
  @pragmas [
    {:journal_mode, "journal_mode", :delete, Map.new(@modes, &{&1, Atom.to_string(&1)})},
    {:temp_store, "temp_store", :default, %{default: 0, file: 1, memory: 2}},
    {:synchronous, "synchronous", :normal, %{off: 0, normal: 1, full: 2, extra: 3}},
    {:foreign_keys, "foreign_keys", :on, @on_off},
    {:cache_size, "cache_size", -2000, :integer},
    {:cache_spill, "cache_spill", :on, @on_off},
    {:auto_vacuum, "auto_vacuum", nil, %{none: 0, full: 1, incremental: 2}},
    {:locking_mode, "locking_mode", :normal, %{normal: "NORMAL", exclusive: "EXCLUSIVE"}},
    {:secure_delete, "secure_delete", :off, @on_off},
    {:wal_auto_check_point, "wal_autocheckpoint", 1000, :integer},
    {:case_sensitive_like, "case_sensitive_like", nil, @on_off},
    {:journal_size_limit, "journal_size_limit", nil, :integer},
    {:soft_heap_limit, "soft_heap_limit", nil, :integer},
    {:hard_heap_limit, "hard_heap_limit", nil, :integer}
  ]
  @apps_business [:journal_mode, :locking_mode, :wal_auto_check_point]

  @doc "The pragmas of a connection, in their order. `app` is whose file it is, or nil."
  @spec pragmas!(keyword, String.t() | nil) :: [String.t()]
  def pragmas!(options, app) do
    refuse!(options, app)
    custom = for {name, value} <- options[:custom_pragmas] || [], do: pragma(name, value)

    known =
      for {option, pragma, default, values} <- @pragmas,
          given = Keyword.get(options, option, default(option, default, app)),
          given != nil,
          value = value!(option, given, values),
          app == nil or option not in @apps_business,
          do: pragma(pragma, value)

    custom ++ known
  end

  @doc "The extensions to load. The bridge is for exqlite's copy: here it means nothing."
  @spec extensions(keyword) :: [String.t()]
  def extensions(options),
    do: Enum.uniq(options[:load_extensions] || []) -- [SQLite.bridge_path()]

  defp default(:synchronous, _default, app) when app != nil, do: Config.get().sqlite_synchronous
  defp default(_option, default, _app), do: default

  defp pragma(name, value), do: "PRAGMA #{name} = #{value}"

  defp value!(_option, value, :integer) when is_integer(value), do: value

  defp value!(option, value, :integer),
    do:
      raise(ArgumentError, "expected #{inspect(option)} to be an integer, got: #{inspect(value)}")

  defp value!(option, given, values) do
    case values do
      %{^given => value} ->
        value

      _ ->
        names = values |> Map.keys() |> Enum.map_join(", ", &inspect/1)

        raise ArgumentError,
              "expected #{inspect(option)} to be one of #{names}, got: #{inspect(given)}"
    end
  end

  defp refuse!(options, app) do
    for {true, why} <- [
          {options[:key] != nil, ":key: this copy of SQLite does not encrypt"},
          {app && options[:journal_mode] not in [nil, :wal],
           ":journal_mode: an app's database is in WAL mode"},
          {app && options[:locking_mode] not in [nil, :normal],
           ":locking_mode: the app's own connections have the file open, too"},
          {app && options[:synchronous] == :off,
           ":synchronous: commits of an app's database are synced, at checkpoints at least"},
          {app && options[:serialized] != nil,
           ":serialized: it would take the place of the app's file in this connection alone"}
        ] do
      raise ArgumentError, "refused option #{why}#{app && " app=#{app}"}"
    end
  end
end
