defmodule MaculaStorage.Config do
  @moduledoc """
  The configuration, and the only module that reads the application environment.

      config :macula_storage,
        base_path: "/var/lib/maculaos",   # MACULA_STORAGE_BASE in the environment goes first
        kv_cache_bytes: 67_108_864,       # memory for pages of each key-value store, at most
        kv_history_bytes: 4_194_304,      # changes that are kept for MaculaStorage.CubDB.subscribe/2
        sqlite_synchronous: :full,        # :normal: apps' databases sync at checkpoints, not at each commit
        state_listen: "10.0.0.1:4377",    # where other members reach this node; nil: nobody, until it is of a cluster
        state_advertise: "203.0.113.7:4377", # what they are told, where that is another address (NAT, a container)
        state_certificates: "/etc/macula", # of MaculaStorage.Authority; nil: state/certificates in the base
        state_members: [{:"a@host", "10.0.0.1:4377"}], # this node is a client: it asks these; nil: it is a member
        state_plain: false,               # true: links without TLS, on loopback addresses only
        state_session_ttl_ms: 10_000,     # how long keys of a VM's leases stay once it is dead
        mesh_zone: "rack-1",              # machines of one zone fail together; nil: each is a zone of its own
        mesh_class: :fast,                # what this node's disk is good for, or :bulk
        mesh_copies: 2,                   # of a replicated file, beside the one where it was written
        mesh_rules: [                     # of what is written here to some: an app, or a directory of one
          {"my_app", copies: 1},
          {{"my_app", "films"}, copies: 1, class: :bulk},
          {{"my_app", "notes"}, keep_versions: 10}  # of what is replaced or deleted the last ten, where they are
        ],
        mesh_transport: MyApp.Transport,  # or {module, arg}, see MaculaStorage.MeshFS.Transport; nil: our links
        mesh_bandwidth: :infinity,        # bytes in a second of copies that it sends, and that it fetches: below
        mesh_repair_rate: 33_554_432,     # of copies for which no writer waits: members came or went, cache: true
        mesh_watch: true,                 # find what other programs do to files at once, or false: by scans only
        mesh_scrub_every: 604_800_000,    # all that is here is read once in so many milliseconds, or :never
        mesh_scrub_rate: 8_388_608,       # bytes of that in a second, at most; a file counts for 32 KiB at least
        usage_interval_ms: 10_000,        # how often files of other programs are counted at most
        timeout_ms: 15_000                # how long a call waits when it is not told

  It is read once, when the application starts.

  `:mesh_bandwidth` is of blocks: those that this node fetches to have them, and, by themselves, those that it sends to
  nodes that do; in any span of time so much at most, and a burst of 1 MiB or a tenth of a second. What a caller reads does not
  count, and waits for nothing; nor does a written content of up to 256 KiB that goes with the news of it to nodes that
  are there. What a node that was away has missed counts.
  """

  @default_base "/var/lib/maculaos"

  alias MaculaStorage.Options

  @enforce_keys [
    :base_path,
    :kv_cache_bytes,
    :kv_history_bytes,
    :sqlite_synchronous,
    :state_listen,
    :state_advertise,
    :state_certificates,
    :state_members,
    :state_plain,
    :state_session_ttl_ms,
    :mesh_zone,
    :mesh_class,
    :mesh_copies,
    :mesh_rules,
    :mesh_transport,
    :mesh_bandwidth,
    :mesh_repair_rate,
    :mesh_watch,
    :mesh_scrub_every,
    :mesh_scrub_rate,
    :usage_interval_ms,
    :timeout_ms
  ]
  defstruct @enforce_keys

  @type t :: %__MODULE__{
          base_path: String.t(),
          kv_cache_bytes: pos_integer,
          kv_history_bytes: non_neg_integer,
          sqlite_synchronous: :full | :normal,
          state_listen: {String.t(), :inet.port_number()} | nil,
          state_advertise: {String.t(), :inet.port_number()} | nil,
          state_certificates: String.t(),
          state_members: [{String.t(), String.t()}] | nil,
          state_plain: boolean,
          state_session_ttl_ms: pos_integer,
          mesh_zone: String.t(),
          mesh_class: :fast | :bulk,
          mesh_copies: non_neg_integer,
          mesh_rules: [{String.t(), String.t() | nil, 0..255, :fast | :bulk, 0..255}],
          mesh_transport: {module, term} | nil,
          mesh_bandwidth: pos_integer | :infinity,
          mesh_repair_rate: pos_integer,
          mesh_watch: boolean,
          mesh_scrub_every: pos_integer | :never,
          mesh_scrub_rate: pos_integer,
          usage_interval_ms: pos_integer,
          timeout_ms: pos_integer
        }

  @doc """
  Reads and keeps the configuration. Called when the application starts.

  Raises `ArgumentError` on a value that cannot be.
  """
  @spec load() :: t
  def load do
    base_path = Path.expand(base_path())

    config = %__MODULE__{
      base_path: base_path,
      kv_cache_bytes: positive(:kv_cache_bytes, 64 * 1024 * 1024),
      kv_history_bytes: non_negative(:kv_history_bytes, 4 * 1024 * 1024),
      sqlite_synchronous: one_of(:sqlite_synchronous, [:full, :normal]),
      state_listen: address(:state_listen),
      state_advertise: address(:state_advertise),
      state_certificates: path(:state_certificates, Path.join(base_path, "state/certificates")),
      state_members: members(:state_members),
      state_plain: one_of(:state_plain, [false, true]),
      state_session_ttl_ms: positive(:state_session_ttl_ms, 10_000),
      mesh_zone: zone(:mesh_zone),
      mesh_class: one_of(:mesh_class, [:fast, :bulk]),
      mesh_copies: non_negative(:mesh_copies, 2),
      mesh_rules: rules(:mesh_rules),
      mesh_transport: transport(:mesh_transport),
      mesh_bandwidth: positive_or(:mesh_bandwidth, :infinity, :infinity),
      mesh_repair_rate: positive(:mesh_repair_rate, 32 * 1024 * 1024),
      mesh_watch: one_of(:mesh_watch, [true, false]),
      mesh_scrub_every: positive_or(:mesh_scrub_every, 7 * 24 * 3_600_000, :never),
      mesh_scrub_rate: positive(:mesh_scrub_rate, 8 * 1024 * 1024),
      usage_interval_ms: positive(:usage_interval_ms, 10_000),
      timeout_ms: positive(:timeout_ms, 15_000)
    }

    :persistent_term.put(__MODULE__, config)
    config
  end

  @doc "The configuration that `load/0` kept."
  @spec get() :: t
  def get do
    case :persistent_term.get(__MODULE__, nil) do
      nil -> load()
      config -> config
    end
  end

  @doc "Where mnesia lies. Touches no disk."
  @spec mnesia_dir() :: String.t()
  def mnesia_dir, do: Path.join(get().base_path, "state/mnesia")

  @doc "Where a node of a split puts its data before it takes another's."
  @spec mnesia_set_aside_dir() :: String.t()
  def mnesia_set_aside_dir, do: mnesia_dir() <> "-set-aside"

  @doc "There while this node has others as masters, see `MaculaStorage.Mnesia.resolve/2`."
  @spec mnesia_yielding_file() :: String.t()
  def mnesia_yielding_file, do: mnesia_dir() <> "-yields"

  @doc "The directory that someone else configured for mnesia, `nil` when nobody did or it is ours."
  @spec mnesia_dir_elsewhere() :: String.t() | nil
  def mnesia_dir_elsewhere do
    with dir when dir != nil <- Application.get_env(:mnesia, :dir),
         dir = dir |> to_string() |> Path.expand(),
         true <- dir != mnesia_dir() do
      dir
    else
      _ours -> nil
    end
  end

  defp base_path do
    with nil <- System.get_env("MACULA_STORAGE_BASE"),
         nil <- Application.get_env(:macula_storage, :base_path) do
      @default_base
    else
      path when is_binary(path) and path != "" -> path
      other -> raise ArgumentError, "expected base_path to be a path, got: #{inspect(other)}"
    end
  end

  defp path(name, default) do
    case Application.get_env(:macula_storage, name, default) do
      path when is_binary(path) and path != "" -> Path.expand(path)
      other -> raise ArgumentError, "expected #{name} to be a path, got: #{inspect(other)}"
    end
  end

  defp zone(name) do
    case Application.get_env(:macula_storage, name) do
      nil ->
        ""

      zone when is_binary(zone) and byte_size(zone) in 1..255 ->
        zone

      other ->
        raise ArgumentError, "expected #{name} to be a short string, got: #{inspect(other)}"
    end
  end

  defp rules(name) do
    copies = min(non_negative(:mesh_copies, 2), 255)

    case Application.get_env(:macula_storage, name, []) do
      rules when is_list(rules) -> Enum.map(rules, &rule(name, &1, copies))
      other -> bad_rule!(name, other)
    end
  end

  defp rule(name, {{app, prefix}, place} = rule, copies)
       when (is_binary(prefix) and prefix != "") or is_nil(prefix) do
    known = [
      copies: {copies, :any},
      class: {:fast, {:one_of, [:fast, :bulk]}},
      keep_versions: {0, :any}
    ]

    case Options.validate!(place, known) do
      %{copies: copies, keep_versions: keep} = options when copies in 0..255 and keep in 0..255 ->
        {Options.app!(app), prefix, copies, options.class, keep}

      _ ->
        bad_rule!(name, rule)
    end
  end

  defp rule(name, {{_, _}, _} = rule, _copies), do: bad_rule!(name, rule)
  defp rule(name, {app, place}, copies), do: rule(name, {{app, nil}, place}, copies)
  defp rule(name, other, _copies), do: bad_rule!(name, other)

  defp bad_rule!(name, other) do
    raise ArgumentError,
          "expected #{name} to be a list of {app, copies: 0..255, class: :fast | :bulk, " <>
            "keep_versions: 0..255} or {{app, directory}, ...}, got: #{inspect(other)}"
  end

  defp transport(name) do
    case Application.get_env(:macula_storage, name) do
      nil ->
        nil

      module when is_atom(module) and not is_boolean(module) ->
        {module, nil}

      {module, arg} when is_atom(module) and not is_boolean(module) and module != nil ->
        {module, arg}

      other ->
        raise ArgumentError,
              "expected #{name} to be a module or {module, arg}, got: #{inspect(other)}"
    end
  end

  defp members(name) do
    case Application.get_env(:macula_storage, name) do
      nil -> nil
      [_ | _] = members -> Enum.map(members, &member(name, &1))
      other -> bad_members!(name, other)
    end
  end

  defp member(name, {node, address})
       when (is_atom(node) or is_binary(node)) and is_binary(address) do
    if parsed_address(address),
      do: {to_string(node), address},
      else: bad_address!(name, address)
  end

  defp member(name, other), do: bad_members!(name, other)

  defp bad_members!(name, other) do
    raise ArgumentError,
          "expected #{name} to be a list of {node, \"host:port\"}, got: #{inspect(other)}"
  end

  # "host:port", or "[ip6]:port"
  defp address(name) do
    case Application.get_env(:macula_storage, name) do
      nil -> nil
      text when is_binary(text) -> parsed_address(text) || bad_address!(name, text)
      other -> bad_address!(name, other)
    end
  end

  defp parsed_address(text) do
    with [_, host, digits] <- Regex.run(~r/^\[?([^\[\]]+)\]?:(\d{1,5})$/, text),
         port when port < 65_536 <- String.to_integer(digits),
         do: {host, port},
         else: (_ -> nil)
  end

  defp bad_address!(name, other),
    do: raise(ArgumentError, "expected #{name} to be \"host:port\", got: #{inspect(other)}")

  defp one_of(name, [default | _] = values) do
    value = Application.get_env(:macula_storage, name, default)

    if value in values,
      do: value,
      else:
        raise(
          ArgumentError,
          "expected #{name} to be one of #{inspect(values)}, got: #{inspect(value)}"
        )
  end

  defp non_negative(name, default) do
    case Application.get_env(:macula_storage, name, default) do
      n when n in 0..0x7FFF_FFFF_FFFF_FFFF//1 ->
        n

      other ->
        raise ArgumentError,
              "expected #{name} to be an integer that is not negative, got: #{inspect(other)}"
    end
  end

  defp positive(name, default) do
    case Application.get_env(:macula_storage, name, default) do
      n when n in 1..0x7FFF_FFFF_FFFF_FFFF//1 ->
        n

      other ->
        raise ArgumentError, "expected #{name} to be a positive integer, got: #{inspect(other)}"
    end
  end

  defp positive_or(name, default, word) do
    case Application.get_env(:macula_storage, name, default) do
      ^word ->
        word

      n when n in 1..0x7FFF_FFFF_FFFF_FFFF//1 ->
        n

      other ->
        raise ArgumentError,
              "expected #{name} to be a positive integer or #{inspect(word)}, got: #{inspect(other)}"
    end
  end
end
