defmodule MaculaStorage.SQLite.Result do
  @moduledoc """
  What a statement gave: column names, rows as lists, how many rows it changed, and the rowid of the
  last insert of its connection.
  """

  @enforce_keys [:columns, :rows, :changes, :last_insert_rowid]
  defstruct @enforce_keys

  @type value :: integer | float | binary | nil | :infinity | :neg_infinity
  @type t :: %__MODULE__{
          columns: [String.t()],
          rows: [[value]],
          changes: non_neg_integer,
          last_insert_rowid: integer
        }
end
