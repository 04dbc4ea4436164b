defmodule MaculaStorage.CubDB.Store do
  @moduledoc false
  # The store that a call works on, opened on first use: what is read from and written to it.
  #
  # Invariant: a process that is inside a transaction or an update of a store writes to that store in no
  # other way; it would wait for itself, or do so twice when its function runs again.

  alias MaculaStorage.CubDB.{Place, Terms}
  alias MaculaStorage.{Apps, Call, Error, Native}

  @open_ms 60_000

  # an app's, by the app's name; or one in a directory of its own, which its process opened
  @type t :: String.t() | {:dir, Path.t(), reference}

  @doc "Its name in errors: an app, or a directory."
  @spec name(t) :: String.t()
  def name({:dir, path, _handle}), do: path
  def name(app), do: app

  @doc "The directory that holds its files."
  @spec dir(t) :: Path.t()
  def dir({:dir, path, _handle}), do: path
  def dir(app), do: Path.join(MaculaStorage.app_data_path(app), "kv")

  @doc "Runs `fun` with the store's handle, opening the store of an app when it is not open."
  @spec with_handle(t, (reference -> result)) :: result | {:error, term} when result: any
  def with_handle({:dir, _path, handle}, fun), do: fun.(handle)
  def with_handle(app, fun), do: Apps.with_app(app, &opened(&1, app, fun))

  defp opened(handle, app, fun) do
    case fun.(handle) do
      {:error, :not_open} ->
        open = &Native.kv_open(handle, &1)

        with :ok <- Call.run(open, op: :open, app: app, timeout: @open_ms),
             do: opened(handle, app, fun)

      result ->
        result
    end
  end

  @doc "Writes a batch, all or nothing, if each of `conditions` holds."
  @spec write(t, atom, [Native.write()], [Native.condition()], Native.durability()) ::
          :ok | {:error, term}
  def write(store, op, ops, conditions \\ [], durability \\ nil) do
    refuse_nested!(store)
    # large arguments are copied on a dirty scheduler
    large? = Terms.large?(ops, conditions)
    write = if large?, do: &Native.kv_write_large/5, else: &Native.kv_write/5
    call(store, op, &write.(&1, &2, ops, conditions, durability))
  end

  @doc "As `with_handle/2`; what cannot be answered is raised, because `nil` and `:error` are answers."
  @spec read!(t, atom, (reference -> result)) :: result when result: any
  def read!(store, op, fun) do
    case with_handle(store, fun) do
      {:error, _} = error ->
        {:error, reason} = Error.wrap(error, op, name(store))
        Error.raise!(reason, op, name(store))

      result ->
        result
    end
  end

  @doc "Calls what runs on a thread of ours with the store's handle and a reference; waits for its answer."
  @spec call(t, atom, (reference, reference -> term), timeout | nil) :: term
  def call(store, op, start, timeout \\ nil) do
    with_handle(store, fn handle ->
      Call.run(&start.(handle, &1), op: op, app: name(store), timeout: timeout)
    end)
  end

  @doc "Copies one instant of a store or snapshot into a new directory."
  @spec back_up(reference, Path.t() | charlist, String.t()) :: :ok | {:error, term}
  def back_up(source, path, name) do
    {:dir, path} = Place.dir!(path)
    back_up = &Native.kv_back_up(source, &1, path)

    case Call.run(back_up, op: :back_up, app: name, timeout: :infinity) do
      {:ok, _entries} -> :ok
      # as CubDB has it
      {:error, :exists} -> {:error, :eexist}
      {:error, _} = error -> error
    end
  end

  # formatters of Elixir 1.14 and 1.17 do not agree on how a function type without arguments is written
  @doc "Runs `fun` as the only way in which this process may write to the store."
  @spec alone(t, fun) :: any
  def alone(store, fun) do
    refuse_nested!(store)
    Process.put({__MODULE__, store}, true)

    try do
      fun.()
    after
      Process.delete({__MODULE__, store})
    end
  end

  @doc "Raises inside of `alone/2`."
  @spec refuse_nested!(t) :: :ok
  def refuse_nested!(store) do
    if Process.get({__MODULE__, store}) do
      raise "cannot write to the store of #{name(store)} inside one of its own transactions or updates " <>
              "other than through them"
    end

    :ok
  end
end
