defmodule MaculaStorage.Khepri.Node do
  @moduledoc """
  A node of the replicated tree, as `MaculaStorage.Khepri.get/2` gives it with `details: true`.

  `version` is how often its data was put since it was created (0: a parent without data), `created` and
  `modified` are revisions of the whole state, `expires_ms` is wall clock, milliseconds since 1970.
  """

  defstruct [:value, :has_data, :version, :created, :modified, :children, :expires_ms, :lease]

  @type t :: %__MODULE__{
          value: term,
          has_data: boolean,
          version: non_neg_integer,
          created: non_neg_integer,
          modified: non_neg_integer,
          children: non_neg_integer,
          expires_ms: non_neg_integer | nil,
          lease: pos_integer | nil
        }
end
