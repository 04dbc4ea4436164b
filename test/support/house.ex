defmodule MaculaStorage.House do
  @moduledoc """
  The rules of the house (CONTRIBUTING.md), each a function from sources to violations.

  A source is `{path, text}`, a violation `{path, line, what is wrong and what to do instead}`. Nothing
  here reads more than it is given, so that each rule is tried on a text that breaks it.
  """
  alias MaculaStorage.House

  @type source :: {Path.t(), String.t()}
  @type violation :: {Path.t(), pos_integer(), String.t()}

  @file_lines_max 599
  @function_lines_max 69
  @head_lines_max 10

  # Which crate of ours may know which: a row per directory of native/.
  @may_know %{
    "core" => ~w(),
    "term" => ~w(core),
    "wal" => ~w(core),
    "sqlite" => ~w(core),
    "files" => ~w(core),
    "archive" => ~w(core),
    "net" => ~w(core),
    "testkit" => ~w(core),
    "blocks" => ~w(core),
    "kv" => ~w(blocks wal term core),
    "raft" => ~w(blocks net wal term core),
    "mesh" => ~w(net kv core),
    "store" => ~w(kv sqlite files archive core),
    "control" => ~w(store core),
    "cli" => ~w(control core),
    "nif" => ~w(store sqlite term raft mesh control core)
  }

  # And in its tests only: the engine behind a seam of core that the crate itself knows as a trait.
  @may_test_with %{"mesh" => ~w(files)}

  # Which crates may know a library that would leak its own ideas elsewhere.
  @only_in %{
    "rustler" => ~w(nif),
    "tokio" => ~w(raft mesh net nif cli),
    "redb" => ~w(blocks kv raft),
    # testkit: the disk that forgets, under SQLite
    "rusqlite" => ~w(sqlite testkit),
    "openraft" => ~w(raft),
    "rustls" => ~w(net),
    "rustls-webpki" => ~w(net),
    "tokio-rustls" => ~w(net),
    "rcgen" => ~w(net),
    "tar" => ~w(archive),
    "zstd" => ~w(archive kv)
  }

  @name "keep the name a string, or look it up in a map of the known ones"
  @shell "do it in Rust: nothing of ours starts a process"
  @wait "wait for a message with a deadline"
  @config "ask MaculaStorage.Config"
  @print "return it, or log it"

  # The one file that may: of the atoms, of a validated name and once for each table (mnesia knows no other names).
  @except %{@config => "/config.ex", @name => "/mnesia/table.ex"}

  @banned_calls %{
    "String.to_atom" => @name,
    "List.to_atom" => @name,
    ":erlang.binary_to_atom" => @name,
    ":erlang.list_to_atom" => @name,
    "binary_to_atom" => @name,
    "list_to_atom" => @name,
    "System.cmd" => @shell,
    "System.shell" => @shell,
    "Port.open" => @shell,
    ":os.cmd" => @shell,
    "Process.sleep" => @wait,
    ":timer.sleep" => @wait,
    "Application.get_env" => @config,
    "Application.fetch_env" => @config,
    "Application.fetch_env!" => @config,
    "Application.get_all_env" => @config,
    ":application.get_env" => @config,
    "System.get_env" => @config,
    "System.fetch_env" => @config,
    "System.fetch_env!" => @config,
    ":os.getenv" => @config,
    "IO.inspect" => @print
  }

  # In pieces, because this file is checked too.
  @registries Enum.map(
                [
                  ~w(crates io),
                  ~w(hex pm),
                  ~w(static rust-lang org),
                  ~w(sh rustup rs),
                  ~w(deb debian org)
                ],
                &Enum.join(&1, ".")
              )
  @machine_paths Enum.map(~w(work home root Users), &"/#{&1}/")
  @unfinished ["TO" <> "DO", "FIX" <> "ME", "X" <> "XX"]
  @unfinished_macros ["to" <> "do!", "unimplemented!", "dbg!"]

  @doc "The sources under the project's root that match."
  @spec sources([String.t()]) :: [source()]
  def sources(patterns) do
    for pattern <- patterns,
        path <- Path.wildcard(pattern, match_dot: true),
        File.regular?(path) do
      {path, File.read!(path)}
    end
  end

  @doc "Who may know whom: the dependency tables of native/*/Cargo.toml."
  @spec dependencies([source()]) :: [violation()]
  def dependencies(sources) do
    for {path, text} <- sources,
        crate = path |> Path.dirname() |> Path.basename(),
        {table, name, line} <- cargo_dependencies(text),
        wrong = wrong_dependency(crate, table, name) do
      {path, line, wrong}
    end
  end

  defp wrong_dependency(crate, table, "macula_" <> other) do
    known = Map.get(@may_know, crate)
    dev? = table == "dev-dependencies"

    cond do
      known == nil ->
        "crate #{crate} is not in the table of who may know whom: give it a row in #{__MODULE__}"

      other == "testkit" and not dev? ->
        "testkit is for tests: move it to [dev-dependencies]"

      other == "testkit" or other in known ->
        nil

      dev? and other in Map.get(@may_test_with, crate, []) ->
        nil

      true ->
        "#{crate} may know only #{inspect(known)}, not #{other}: put what both need into core, or join them in store"
    end
  end

  defp wrong_dependency(crate, _table, name) do
    allowed = Map.get(@only_in, name, [crate])

    if crate not in allowed,
      do: "#{name} only in #{Enum.join(allowed, ", ")}: call that crate instead"
  end

  # [{table, package, line}]; a table may also be written [dependencies.name] or [target.'..'.dependencies].
  defp cargo_dependencies(text) do
    {found, _} =
      text
      |> String.split("\n")
      |> Enum.with_index(1)
      |> Enum.flat_map_reduce(nil, fn {line, n}, table ->
        cargo_line(String.trim(line), n, table)
      end)

    found
  end

  defp cargo_line("[" <> _ = header, n, _table) do
    case Regex.run(~r/^\[(?:.*\.)?((?:dev-|build-)?dependencies)(?:\.([\w-]+))?\]/, header) do
      [_, table] -> {[], table}
      [_, table, name] -> {[{table, name, n}], nil}
      nil -> {[], nil}
    end
  end

  defp cargo_line(_line, _n, nil), do: {[], nil}

  defp cargo_line(line, n, table) do
    renamed = Regex.run(~r/package\s*=\s*"([^"]+)"/, line)
    named = Regex.run(~r/^([\w-]+)/, line)
    {for([_, name] <- [renamed || named], do: {table, name, n}), table}
  end

  @doc """
  Calls that lib and src do without. `config.ex` alone reads the environment, `mnesia/table.ex` alone makes
  atoms.
  """
  @spec banned_calls([source()]) :: [violation()]
  def banned_calls(sources) do
    for {path, text} <- sources,
        {call, line} <- calls(path, text),
        instead = @banned_calls[call],
        not String.ends_with?(path, Map.get(@except, instead, "/nowhere")) do
      {path, line, "no #{call} here: #{instead}"}
    end
  end

  defp calls(path, text) do
    if Path.extname(path) == ".erl",
      do: House.Elixir.erlang_calls(text),
      else: House.Elixir.calls(text)
  end

  @doc "Only `callers` (paths beneath lib/macula_storage, or `dir/`) name the module of the NIF stubs."
  @spec native_calls([source()], [String.t()]) :: [violation()]
  def native_calls(sources, callers) do
    for {path, text} <- sources,
        short = String.replace_prefix(path, "lib/macula_storage/", ""),
        not Enum.any?(
          callers,
          &(short == &1 or (String.ends_with?(&1, "/") and String.starts_with?(short, &1)))
        ),
        line <- House.Elixir.mentions(text, :Native) do
      {path, line, "Native is for the tier modules: call the tier's own function"}
    end
  end

  @doc "Files under 600 lines."
  @spec file_sizes([source()]) :: [violation()]
  def file_sizes(sources) do
    for {path, text} <- sources,
        lines = text |> String.split("\n", trim: false) |> length(),
        lines - 1 > @file_lines_max do
      {path, lines - 1,
       "#{lines - 1} lines, at most #{@file_lines_max}: move one idea to a file of its own"}
    end
  end

  @doc "Functions under 70 lines."
  @spec function_sizes([source()]) :: [violation()]
  def function_sizes(sources) do
    for {path, text} <- sources,
        found <- functions(Path.extname(path), text),
        found.lines > @function_lines_max do
      {path, found.line,
       "#{found.name} has #{found.lines} lines, at most #{@function_lines_max}: name its steps"}
    end
  end

  defp functions(".rs", text), do: House.Rust.functions(text)
  defp functions(".erl", text), do: House.Elixir.erlang_forms(text)
  defp functions(_elixir, text), do: House.Elixir.clauses(text)

  @doc "Each NIF has a stub of its name and arity and each stub a NIF; each stub has a spec."
  @spec stubs([source()], [source()]) :: [violation()]
  def stubs([{main_path, _text} | _] = stub_sources, rust_sources) do
    stubs =
      for {path, text} <- stub_sources,
          stub <- House.Elixir.stubs(text),
          do: Map.put(stub, :path, path)

    nifs =
      for {path, text} <- rust_sources,
          nif <- House.Rust.nifs(text),
          do: Map.put(nif, :path, path)

    stub_keys = MapSet.new(stubs, &{&1.name, &1.arity})
    nif_keys = MapSet.new(nifs, &{&1.name, &1.arity})

    for(
      nif <- nifs,
      {nif.name, nif.arity} not in stub_keys,
      do: {nif.path, nif.line, "NIF #{nif.name}/#{nif.arity} has no stub: add it to #{main_path}"}
    ) ++
      for(
        stub <- stubs,
        {stub.name, stub.arity} not in nif_keys,
        do:
          {stub.path, stub.line,
           "stub #{stub.name}/#{stub.arity} has no NIF: remove it, or write the NIF"}
      ) ++
      for(
        stub <- stubs,
        not stub.spec?,
        do:
          {stub.path, stub.line,
           "stub #{stub.name}/#{stub.arity} has no spec: write a @spec of this arity"}
      )
  end

  @doc "Each NIF's doc names its class (`memory`, `dirty io`, `own thread`), and its schedule agrees."
  @spec nif_classes([source()]) :: [violation()]
  def nif_classes(sources) do
    for {path, text} <- sources, nif <- House.Rust.nifs(text), wrong = wrong_class(nif) do
      {path, nif.line, "NIF #{nif.name}: #{wrong}"}
    end
  end

  defp wrong_class(nif) do
    class = Regex.run(~r/\b(memory|dirty io|own thread)\b/i, nif.doc)

    case {class && class |> hd() |> String.downcase(), nif.schedule} do
      {nil, _} ->
        "no class: name memory, dirty io or own thread in its doc comment, first of the three"

      {"dirty io", "DirtyIo"} ->
        nil

      # More bytes than a normal scheduler may touch are copied there, and nothing else is done.
      {class, "DirtyCpu"} when class in ["own thread", "memory"] ->
        nil

      {"dirty io", other} ->
        "doc says dirty io, schedule is #{inspect(other)}: make them agree"

      {_, nil} ->
        nil

      {class, other} ->
        "doc says #{class}, schedule is #{inspect(other)}: make them agree"
    end
  end

  @doc "Nothing that holds on one machine only: no path of a machine, no host of a registry."
  @spec machine_words([source()]) :: [violation()]
  def machine_words(sources) do
    pattern =
      Enum.map_join(@machine_paths, "|", &("(?<![\\w.}])" <> &1)) <>
        "|" <> Enum.map_join(@registries, "|", &Regex.escape/1)

    matches(
      sources,
      Regex.compile!(pattern),
      "belongs to one machine or network: take a path from the caller, name no host"
    )
  end

  @doc "Nothing unfinished."
  @spec unfinished([source()]) :: [violation()]
  def unfinished(sources) do
    words = Regex.compile!("\\b(" <> Enum.join(@unfinished, "|") <> ")\\b")
    macros = Regex.compile!("\\b(" <> Enum.join(@unfinished_macros, "|") <> ")")

    rust =
      for {path, text} <- sources, Path.extname(path) == ".rs", do: {path, House.Rust.blank(text)}

    matches(sources, words, "finish it, or open an issue") ++
      matches(rust, macros, "finish it, or return an error")
  end

  defp matches(sources, regex, instead) do
    for {path, text} <- sources,
        {line, n} <- text |> String.split("\n") |> Enum.with_index(1),
        [word | _] <- Regex.scan(regex, line) do
      {path, n, "#{word}: #{instead}"}
    end
  end

  @doc "Each file begins with what it is for, a Rust file in at most ten lines."
  @spec heads([source()]) :: [violation()]
  def heads(sources) do
    for {path, text} <- sources,
        wrong = wrong_head(Path.extname(path), text),
        do: {path, 1, wrong}
  end

  defp wrong_head(".rs", text) do
    head =
      text
      |> String.split("\n")
      |> Enum.drop_while(&(&1 == "" or String.starts_with?(&1, "#!")))
      |> Enum.take_while(&String.starts_with?(&1, "//!"))

    cond do
      head == [] ->
        "no head: begin with //! and the file's idea and invariant"

      length(head) > @head_lines_max ->
        "head of #{length(head)} lines, at most #{@head_lines_max}: docs/ holds the rest"

      true ->
        nil
    end
  end

  defp wrong_head(".erl", text),
    do: unless(text =~ ~r/\A\s*%/, do: "no head: begin with %% and what the module is for")

  defp wrong_head(ext, text) when ext in [".ex", ".exs"] do
    comment? = text =~ ~r/\A\s*#|@moduledoc false\n\s*#/

    unless comment? or House.Elixir.moduledoc?(text),
      do: "no head: give the module a @moduledoc, or a comment at its top"
  end

  defp wrong_head(_script, text),
    do: unless(text =~ ~r/\A#!.*\n# /, do: "no head: say what it does below the #! line")

  @doc "Each public function of a compiled module has a doc and a spec; `:ok` says what it promises and costs."
  @spec public_docs({Path.t(), Path.t()}) :: [violation()]
  def public_docs({path, beam}) do
    {:docs_v1, _, _, _, _, _, docs} = Code.fetch_docs(beam)
    {:ok, specs} = Code.Typespec.fetch_specs(File.read!(beam))
    specs = Map.new(specs)

    for {{:function, name, arity}, anno, _, doc, _} <- docs,
        doc != :hidden,
        wrong <- wrong_docs(doc, Map.get(specs, {name, arity})) do
      {path, :erl_anno.line(anno), "#{name}/#{arity} #{wrong}"}
    end
  end

  defp wrong_docs(doc, specs) do
    text = if is_map(doc), do: doc |> Map.values() |> Enum.join("\n"), else: ""
    ok? = Enum.any?(specs || [], &returns_ok?/1)

    for {true, wrong} <- [
          {text == "", "has no @doc: write one, or make it private"},
          {specs == nil, "has no @spec: write one"},
          {ok? and not (text =~ "Durability:"),
           "returns :ok but does not say what that promises: add Durability:"},
          {ok? and not (text =~ "Cost:"), "returns :ok but does not say what it costs: add Cost:"}
        ],
        do: wrong
  end

  defp returns_ok?({:type, _, :bounded_fun, [fun, _]}), do: returns_ok?(fun)
  defp returns_ok?({:type, _, :fun, [_args, result]}), do: has_ok?(result)

  defp has_ok?({:atom, _, :ok}), do: true
  defp has_ok?({:type, _, :union, parts}), do: Enum.any?(parts, &has_ok?/1)
  defp has_ok?(_), do: false
end
