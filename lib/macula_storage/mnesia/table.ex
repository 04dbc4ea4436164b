defmodule MaculaStorage.Mnesia.Table do
  @moduledoc false
  # An app's one table: its name, its options, its records.
  #
  # Invariant: an atom is made only here and only for a table that is about to be created, from a validated
  # app name; everyone else finds the atom that is there, or there is no such table.

  alias MaculaStorage.Options

  @attributes [:key, :value, :updated_at]

  @doc false
  @spec find(term) :: {:ok, atom} | {:error, {:aborted, term}}
  def find(app) do
    name = name!(app)

    try do
      {:ok, String.to_existing_atom(name)}
    rescue
      ArgumentError -> {:error, {:aborted, {:no_exists, name}}}
    end
  end

  @doc false
  @spec create!(term) :: atom
  def create!(app), do: app |> name!() |> :erlang.binary_to_atom(:utf8)

  defp name!(app), do: Options.app!(app) <> "_data"

  # What create_app_table/2 takes; `replicas: nil` is all nodes that were set up.
  @doc false
  @spec options!(keyword) :: map
  def options!(options) do
    options =
      Options.validate!(options,
        attributes: {@attributes, :any},
        replicas: {nil, :any},
        storage: {:disc_copies, {:one_of, [:disc_copies, :disc_only_copies, :ram_copies]}},
        type: {:set, {:one_of, [:set, :ordered_set]}},
        majority: {false, :boolean},
        timeout: {30_000, :timeout}
      )

    attributes!(options.attributes)
    replicas!(options.replicas)

    if options.type == :ordered_set and options.storage == :disc_only_copies,
      do: raise(ArgumentError, "mnesia keeps no :ordered_set with storage :disc_only_copies")

    options
  end

  defp attributes!([_, _ | _] = attributes) do
    unless Enum.all?(attributes, &(is_atom(&1) and &1 != nil)) and
             Enum.uniq(attributes) == attributes,
           do: bad_attributes!(attributes)
  end

  defp attributes!(attributes), do: bad_attributes!(attributes)

  defp bad_attributes!(attributes) do
    raise ArgumentError,
          "expected option :attributes to be different atoms, at least two (the key, the value), " <>
            "got: #{inspect(attributes)}"
  end

  defp replicas!(nil), do: :ok
  defp replicas!(nodes), do: nodes!(nodes, "option :replicas")

  @doc false
  @spec nodes!(term, String.t()) :: :ok
  def nodes!([_ | _] = nodes, what) do
    if Enum.all?(nodes, &(is_atom(&1) and &1 != nil)) and Enum.uniq(nodes) == nodes,
      do: :ok,
      else: bad_nodes!(nodes, what)
  end

  def nodes!(nodes, what), do: bad_nodes!(nodes, what)

  defp bad_nodes!(nodes, what) do
    raise ArgumentError,
          "expected #{what} to be a list of different node names, got: #{inspect(nodes)}"
  end

  # What a table of these options is for mnesia. A table of a host's own may have the name already: what is
  # compared is what put/4 and get/3 rely on.
  @doc false
  @spec definition(map, [node]) :: keyword
  def definition(options, nodes) do
    [
      {:attributes, options.attributes},
      {options.storage, nodes},
      {:type, options.type},
      {:majority, options.majority}
    ]
  end

  @doc false
  @spec differs(atom, map) :: [{atom, term, term}]
  def differs(table, options) do
    for {item, wanted} <- [
          attributes: options.attributes,
          type: options.type,
          majority: options.majority
        ],
        there = :mnesia.table_info(table, item),
        there != wanted,
        do: {item, there, wanted}
  end

  @doc false
  @spec record(atom, term, term) :: tuple
  def record(table, key, value) do
    # asked in a transaction, so that a table that is missing aborts it
    case :mnesia.table_info(table, :attributes) do
      @attributes ->
        {table, key, value, DateTime.utc_now()}

      [_key, _value | rest] ->
        now = fn attribute -> if attribute == :updated_at, do: DateTime.utc_now() end
        List.to_tuple([table, key, value | Enum.map(rest, now)])
    end
  end

  @doc false
  @spec storages() :: [atom]
  def storages, do: [:disc_copies, :disc_only_copies, :ram_copies]
end
