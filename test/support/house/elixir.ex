defmodule MaculaStorage.House.Elixir do
  @moduledoc "Elixir and Erlang sources as the house rules see them: calls, clauses, stubs, docs."

  @defs [:def, :defp, :defmacro, :defmacrop]

  @doc "Each `Module.function` that is called or captured, with its line. Erlang modules keep their colon."
  @spec calls(String.t()) :: [{String.t(), pos_integer()}]
  def calls(text) do
    collect(text, fn
      {:., meta, [{:__aliases__, _, parts}, name]} when is_atom(name) ->
        {"#{dotted(parts)}.#{name}", meta[:line]}

      {:., meta, [module, name]} when is_atom(module) and is_atom(name) ->
        {"#{inspect(module)}.#{name}", meta[:line]}

      _ ->
        nil
    end)
  end

  @doc "The lines that name a module one of whose parts is `part`, other than to alias it."
  @spec mentions(String.t(), atom()) :: [pos_integer()]
  def mentions(text, part) do
    collect(text, fn
      {:__aliases__, meta, parts} -> if part in parts, do: meta[:line]
      _ -> nil
    end)
  end

  defp collect(text, pick) do
    {_, found} =
      Macro.prewalk(ast(text), [], fn
        {:alias, _, [_ | _]}, found -> {nil, found}
        node, found -> {node, if(value = pick.(node), do: [value | found], else: found)}
      end)

    Enum.reverse(found)
  end

  defp dotted(parts),
    do: Enum.map_join(parts, ".", &if(is_atom(&1), do: Atom.to_string(&1), else: "_"))

  @doc "Each clause of a function or macro: name, line, lines."
  @spec clauses(String.t()) :: [%{name: String.t(), line: pos_integer(), lines: pos_integer()}]
  def clauses(text) do
    for {kind, meta, [head | _]} = node <- nodes(text), kind in @defs do
      %{
        name: head |> called() |> elem(0) |> to_string(),
        line: meta[:line],
        lines: last_line(node) - meta[:line] + 1
      }
    end
  end

  defp last_line({_, meta, _} = node) do
    {_, last} =
      Macro.prewalk(node, meta[:line], fn
        {_, meta, _} = inner, last when is_list(meta) ->
          ends = for key <- [:end, :closing, :end_of_expression], do: meta[key][:line] || 0
          {inner, Enum.max([last, meta[:line] || 0 | ends])}

        inner, last ->
          {inner, last}
      end)

    meta[:end][:line] || last
  end

  @doc "The public functions of a module of stubs: name, arity, line, whether a spec is there."
  @spec stubs(String.t()) :: [map()]
  def stubs(text) do
    nodes = nodes(text)
    on_load = for {:@, _, [{:on_load, _, [name]}]} <- nodes, do: name
    specs = for {:@, _, [{:spec, _, [spec]}]} <- nodes, do: spec |> spec_head() |> called()

    for {:def, meta, [head | _]} <- nodes, {name, arity} = called(head), name not in on_load do
      %{name: to_string(name), arity: arity, line: meta[:line], spec?: {name, arity} in specs}
    end
  end

  defp spec_head({:when, _, [spec, _]}), do: spec_head(spec)
  defp spec_head({:"::", _, [head, _]}), do: head

  defp called({:when, _, [head | _]}), do: called(head)
  defp called({name, _, args}) when is_atom(name), do: {name, length(args || [])}
  # def unquote(name)(...) has no name to read.
  defp called(_), do: {:_, 0}

  @doc "Whether the file's first module says what it is for."
  @spec moduledoc?(String.t()) :: boolean()
  def moduledoc?(text) do
    case for {:@, _, [{:moduledoc, _, [doc]}]} <- nodes(text), do: doc do
      [false | _] -> false
      [_ | _] -> true
      [] -> false
    end
  end

  defp nodes(text), do: text |> ast() |> Macro.prewalker() |> Enum.filter(&match?({_, _, _}, &1))

  defp ast(text), do: Code.string_to_quoted!(text, token_metadata: true)

  @doc "Each call of an Erlang source, as `:module.function` or `function`, with its line."
  @spec erlang_calls(String.t()) :: [{String.t(), pos_integer()}]
  def erlang_calls(text), do: text |> erlang_tokens() |> erlang_calls([])

  defp erlang_calls([{:atom, line, module}, {:":", _}, {:atom, _, name} | rest], found),
    do: erlang_calls(rest, [{"#{inspect(module)}.#{name}", line} | found])

  defp erlang_calls([{:atom, line, name}, {:"(", _} | rest], found),
    do: erlang_calls(rest, [{"#{name}", line} | found])

  defp erlang_calls([_ | rest], found), do: erlang_calls(rest, found)
  defp erlang_calls([], found), do: Enum.reverse(found)

  @doc "Each form of an Erlang source: name, line, lines."
  @spec erlang_forms(String.t()) :: [
          %{name: String.t(), line: pos_integer(), lines: pos_integer()}
        ]
  def erlang_forms(text) do
    text
    |> erlang_tokens()
    |> Enum.chunk_while([], &until_dot/2, fn _ -> {:cont, []} end)
    |> Enum.map(fn tokens ->
      {first, last} = {List.first(tokens), List.last(tokens)}

      %{
        name: "#{elem(first, tuple_size(first) - 1)}",
        line: elem(first, 1),
        lines: elem(last, 1) - elem(first, 1) + 1
      }
    end)
  end

  defp until_dot({:dot, _} = dot, tokens), do: {:cont, Enum.reverse([dot | tokens]), []}
  defp until_dot(token, tokens), do: {:cont, [token | tokens]}

  defp erlang_tokens(text) do
    {:ok, tokens, _} = text |> String.to_charlist() |> :erl_scan.string()
    tokens
  end
end
