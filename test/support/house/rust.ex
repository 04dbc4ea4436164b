defmodule MaculaStorage.House.Rust do
  @moduledoc """
  Enough of a reader of Rust for the house rules: where functions begin and end, which of them are NIFs.

  Invariant: `blank/1` keeps every byte offset and line, so that what is found in the blanked text is
  found at the same place in the file.
  """

  @type found :: %{name: String.t(), line: pos_integer(), lines: pos_integer(), head: String.t()}

  @doc "The text with comments and the insides of strings and characters made spaces."
  @spec blank(String.t()) :: String.t()
  def blank(text), do: text |> code([]) |> Enum.reverse() |> IO.iodata_to_binary()

  defp code(<<"//", rest::binary>>, acc), do: line_comment(rest, ["  " | acc])
  defp code(<<"/*", rest::binary>>, acc), do: block_comment(rest, 1, ["  " | acc])

  defp code(<<r, next, _::binary>> = text, acc) when r == ?r and next in [?", ?#] do
    case Regex.run(~r/\Ar(#*)"/, text) do
      [open, hashes] -> text |> drop(open) |> raw_string("\"" <> hashes, [open | acc])
      nil -> plain(text, acc)
    end
  end

  defp code(<<?", rest::binary>>, acc), do: string(rest, ["\"" | acc])
  defp code(<<"'\\", _, rest::binary>>, acc), do: character(rest, ["'  " | acc])
  # One character and a quote is a character; anything else after a quote is a lifetime.
  defp code(<<?', c::utf8, ?', rest::binary>>, acc),
    do: code(rest, ["'", spaces(<<c::utf8>>), "'" | acc])

  defp code(<<>>, acc), do: acc
  defp code(text, acc), do: plain(text, acc)

  defp plain(<<byte, rest::binary>>, acc), do: code(rest, [byte | acc])

  defp line_comment(<<?\n, rest::binary>>, acc), do: code(rest, [?\n | acc])
  defp line_comment(<<_, rest::binary>>, acc), do: line_comment(rest, [?\s | acc])
  defp line_comment(<<>>, acc), do: acc

  defp block_comment(text, 0, acc), do: code(text, acc)
  defp block_comment(<<"*/", rest::binary>>, n, acc), do: block_comment(rest, n - 1, ["  " | acc])
  defp block_comment(<<"/*", rest::binary>>, n, acc), do: block_comment(rest, n + 1, ["  " | acc])

  defp block_comment(<<byte, rest::binary>>, n, acc),
    do: block_comment(rest, n, [hidden(byte) | acc])

  defp block_comment(<<>>, _n, acc), do: acc

  defp string(<<?\\, byte, rest::binary>>, acc), do: string(rest, [hidden(byte), ?\s | acc])
  defp string(<<?", rest::binary>>, acc), do: code(rest, [?" | acc])
  defp string(<<byte, rest::binary>>, acc), do: string(rest, [hidden(byte) | acc])
  defp string(<<>>, acc), do: acc

  defp raw_string(<<>>, _close, acc), do: acc

  defp raw_string(<<byte, rest::binary>> = text, close, acc) do
    if String.starts_with?(text, close) do
      text |> drop(close) |> code([close | acc])
    else
      raw_string(rest, close, [hidden(byte) | acc])
    end
  end

  defp character(<<?', rest::binary>>, acc), do: code(rest, [?' | acc])
  defp character(<<byte, rest::binary>>, acc), do: character(rest, [hidden(byte) | acc])
  defp character(<<>>, acc), do: acc

  defp hidden(?\n), do: ?\n
  defp hidden(_byte), do: ?\s

  defp spaces(text), do: String.duplicate(" ", byte_size(text))

  defp drop(text, prefix),
    do: binary_part(text, byte_size(prefix), byte_size(text) - byte_size(prefix))

  @doc "The functions with a body: name, line, lines from `fn` to the closing brace, text of the head."
  @spec functions(String.t()) :: [found()]
  def functions(text) do
    blanked = blank(text)

    for [{at, _}, {name_at, name_size}] <-
          Regex.scan(~r/\bfn\s+([A-Za-z_]\w*)/, blanked, return: :index),
        rest = binary_part(blanked, at, byte_size(blanked) - at),
        {head_size, size} <- List.wrap(extent(rest)) do
      %{
        name: binary_part(blanked, name_at, name_size),
        line: line_at(blanked, at),
        lines: line_at(binary_part(rest, 0, size), size),
        head: binary_part(rest, 0, head_size)
      }
    end
  end

  # Bytes up to the body's opening brace, and to its closing one; nil for a head without a body.
  defp extent(text), do: head_end(text, 0, 0, text)

  defp head_end(<<?{, rest::binary>>, 0, at, _text) do
    {at, body_end(rest, 1, at + 1)}
  end

  defp head_end(<<?;, _::binary>>, 0, _at, _text), do: nil

  defp head_end(<<b, rest::binary>>, n, at, text) when b in [?(, ?[],
    do: head_end(rest, n + 1, at + 1, text)

  defp head_end(<<b, rest::binary>>, n, at, text) when b in [?), ?]],
    do: head_end(rest, n - 1, at + 1, text)

  defp head_end(<<_, rest::binary>>, n, at, text), do: head_end(rest, n, at + 1, text)
  defp head_end(<<>>, _n, _at, _text), do: nil

  defp body_end(_text, 0, at), do: at
  defp body_end(<<?{, rest::binary>>, n, at), do: body_end(rest, n + 1, at + 1)
  defp body_end(<<?}, rest::binary>>, n, at), do: body_end(rest, n - 1, at + 1)
  defp body_end(<<_, rest::binary>>, n, at), do: body_end(rest, n, at + 1)
  defp body_end(<<>>, _n, at), do: at

  defp line_at(text, at), do: text |> binary_part(0, at) |> String.split("\n") |> length()

  @doc "The functions under `#[rustler::nif]`: name and arity as the BEAM sees them, doc text, schedule."
  @spec nifs(String.t()) :: [map()]
  def nifs(text) do
    lines = String.split(text, "\n")

    for found <- functions(text),
        above = above(lines, found.line),
        attribute = Enum.find(above, &(&1 =~ ~r/^#\[(rustler::)?nif\b/)) do
      %{
        name: option(attribute, "name") || found.name,
        arity: arity(found.head),
        line: found.line,
        schedule: option(attribute, "schedule"),
        doc: for("///" <> doc <- above, into: "", do: doc <> "\n")
      }
    end
  end

  # The attributes and doc comments right above a function.
  defp above(lines, line) do
    lines
    |> Enum.take(line - 1)
    |> Enum.reverse()
    |> Enum.map(&String.trim/1)
    |> Enum.take_while(&(String.starts_with?(&1, "#[") or String.starts_with?(&1, "//")))
    |> Enum.reverse()
  end

  defp option(attribute, name) do
    case Regex.run(~r/\b#{name}\s*=\s*"([^"]*)"/, attribute) do
      [_, value] -> value
      nil -> nil
    end
  end

  # Env is filled in by rustler and does not count.
  defp arity(head) do
    [_, params] = Regex.run(~r/\((.*)\)/s, String.replace(head, ~r/->.*\z/s, ""))

    params
    |> split(0, "", [])
    |> Enum.map(&String.trim/1)
    |> Enum.reject(&(&1 == "" or &1 =~ ~r/:\s*(rustler::)?Env\b/))
    |> length()
  end

  defp split(<<>>, _depth, part, parts), do: [part | parts]
  defp split(<<?,, rest::binary>>, 0, part, parts), do: split(rest, 0, "", [part | parts])

  defp split(<<b, rest::binary>>, depth, part, parts) do
    depth = depth + if(b in ~c"<([{", do: 1, else: 0) - if(b in ~c">)]}", do: 1, else: 0)
    split(rest, depth, <<part::binary, b>>, parts)
  end
end
