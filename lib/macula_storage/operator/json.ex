defmodule MaculaStorage.Operator.JSON do
  @moduledoc false
  # JSON (RFC 8259) of what operators are told: there is no Hex dependency, and OTP has none before 27.
  # Keys are sorted, so that the same answer is the same text. Bytes that are no UTF-8 (a file name may
  # hold any) become U+FFFD, because JSON has no way to say them.

  @doc "The term as JSON text."
  @spec encode(term) :: iodata
  def encode(nil), do: "null"
  def encode(boolean) when is_boolean(boolean), do: Atom.to_string(boolean)
  def encode(atom) when is_atom(atom), do: atom |> Atom.to_string() |> encode()
  def encode(integer) when is_integer(integer), do: Integer.to_string(integer)
  def encode(float) when is_float(float), do: Float.to_string(float)
  def encode(%DateTime{} = time), do: time |> DateTime.to_iso8601() |> encode()
  def encode(text) when is_binary(text), do: [?", text |> unicode() |> escape(), ?"]
  def encode(list) when is_list(list), do: [?[, list |> Enum.map(&encode/1) |> comma(), ?]]

  def encode(map) when is_map(map) do
    pairs = for {key, value} <- Enum.sort(map), do: [encode(to_string(key)), ?:, encode(value)]
    [?{, comma(pairs), ?}]
  end

  defp comma(items), do: Enum.intersperse(items, ?,)

  defp unicode(text) do
    case :unicode.characters_to_binary(text) do
      valid when is_binary(valid) -> valid
      {_, valid, <<_, rest::binary>>} -> valid <> "\uFFFD" <> unicode(rest)
    end
  end

  defp escape(text) do
    for <<char::utf8 <- text>> do
      case char do
        ?" -> "\\\""
        ?\\ -> "\\\\"
        ?\n -> "\\n"
        control when control < 0x20 -> :io_lib.format("\\u~4.16.0b", [control])
        other -> <<other::utf8>>
      end
    end
  end
end
