defmodule MaculaStorage.Error do
  @moduledoc """
  A failure that a person must read.

  Expected outcomes (`:not_found`, `:busy`, `:timeout`, `:locked`, `:disk_full`, ...) are bare atoms
  in `{:error, atom}`. Everything else is `{:error, %MaculaStorage.Error{}}`, and what bang functions
  raise. Misuse raises `ArgumentError`.

  | kind | what to do |
  |---|---|
  | `:invalid` | mend the input; nothing was changed |
  | `:corrupt` | stored bytes are not what was written: restore from a backup |
  | `:newer_format` | written by a newer version of the library: use that version |
  | `:permission` | let this user read and write the base directory |
  | `:io` | the disk or the operating system failed: see the message |
  | `:sql` | SQLite refused the statement: see the message, and `details` in a program |
  | `:unreachable` | another node cannot be reached, or did not come to it in time: start it, connect it |
  | `:conflict` | what is there contradicts what was asked, and was left alone: see the message |
  | `:internal` | a defect of ours: please report it |

  An expected outcome that a bang function met has its atom as kind.
  """

  @enforce_keys [:kind, :op, :app, :message]
  defexception [:kind, :op, :app, :message, :hint, :details]

  @type t :: %__MODULE__{
          kind: atom,
          op: atom,
          # of a key-value store outside of an app, its directory
          app: String.t() | nil,
          message: String.t(),
          hint: String.t() | nil,
          details: details | nil
        }

  @typedoc """
  What a program may tell apart when SQLite refused a statement.

  `reason` is the family of SQLite's result code, its name in lower case (`:constraint`, `:error`, `:busy`,
  `:readonly`, `:full`, `:ioerr`, `:auth`, `:mismatch`, `:toobig`, …), `code` the extended result code,
  `offset` the byte of the SQL text where it went wrong. The kinds of `constraint` are `:unique`,
  `:primary_key`, `:foreign_key`, `:not_null`, `:check`, `:data_type`, `:trigger` and `:other`; its names are
  `"table.column"`, or that of the constraint or index, as SQLite tells them.
  """
  @type details :: %{
          reason: atom,
          code: integer,
          message: String.t(),
          offset: non_neg_integer | nil,
          constraint: %{kind: atom, names: [String.t()]} | nil
        }

  @impl true
  def message(%__MODULE__{} = error) do
    hint = if error.hint, do: ". #{error.hint}", else: ""
    "#{error.op}#{whose(error.app)}: #{error.message}#{hint}"
  end

  defp whose(nil), do: ""
  defp whose("/" <> _ = dir), do: " (store in #{dir})"
  defp whose(app), do: " (app #{app})"

  @doc false
  @spec wrap({:error, term}, atom, String.t() | nil) :: {:error, atom | t}
  def wrap({:error, {kind, message, hint}}, op, app),
    do: {:error, %__MODULE__{kind: kind, op: op, app: app, message: message, hint: hint}}

  def wrap({:error, {kind, message, hint, %{} = details}}, op, app) do
    error = %__MODULE__{kind: kind, op: op, app: app, message: message, hint: hint}
    {:error, %{error | details: details}}
  end

  def wrap({:error, outcome}, _op, _app) when is_atom(outcome), do: {:error, outcome}
  def wrap({:error, %__MODULE__{}} = wrapped, _op, _app), do: wrapped
  # SQLite's own words, which the low-level floor gives as they are
  def wrap({:error, {:unknown_action, _name}} = told, _op, _app), do: told
  def wrap({:error, {:sqlite, _code, _message, _offset}} = told, _op, _app), do: told

  @doc false
  @spec wrap_result(term, atom, String.t() | nil) :: term
  def wrap_result({:error, _} = error, op, app), do: wrap(error, op, app)
  def wrap_result(other, _op, _app), do: other

  @doc false
  @spec raise!(atom | t, atom, String.t() | nil) :: no_return
  def raise!(%__MODULE__{} = error, _op, _app), do: raise(error)

  def raise!(outcome, op, app) when is_atom(outcome),
    do: raise(%__MODULE__{kind: outcome, op: op, app: app, message: to_string(outcome)})
end
