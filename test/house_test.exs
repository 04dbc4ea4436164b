defmodule MaculaStorage.HouseTest do
  @moduledoc """
  The rules of the house as tests: each reads the sources that are there, and each is seen to fail on a
  text that breaks it. What to do instead stands in the message.
  """
  use ExUnit.Case, async: true

  alias MaculaStorage.House

  @rust [
    "native/*/{src,tests,benches,examples}/**/*.rs",
    "native/*/fuzz/fuzz_targets/*.rs",
    "native/*/build.rs"
  ]
  @lib ["lib/**/*.ex", "src/**/*.erl"]
  @tests ["test/**/*.{ex,exs,erl}", "bench/**/*.{ex,exs}"]
  @scripts ["bin/*", ".ci/*"]
  @code @rust ++ @lib ++ @tests ++ @scripts ++ ["mix.exs", ".formatter.exs"]
  @prose ["*.md", "docs/**/*.md", "*.toml", "native/*/Cargo.toml"]

  @natives ["lib/macula_storage/native.ex", "lib/macula_storage/native/*.ex"]
  # Files and directories (beneath lib/macula_storage) that call NIFs: one per tier and what they share.
  # The front door is the tier of the directories themselves.
  @callers_of_native ~w(lib/macula_storage.ex lib/macula_backup.ex application.ex apps.ex authority.ex call.ex
                        cub_db.ex cub_db/ sqlite.ex sqlite/ files.ex files/ khepri.ex khepri/
                        native.ex native/ mesh_fs.ex mesh_fs/)

  defp assert_none([]), do: :ok

  defp assert_none(violations) do
    flunk(
      Enum.map_join(violations, "\n", fn {path, line, message} ->
        "#{path}:#{line}: #{message}"
      end)
    )
  end

  defp assert_breaks(violations, path, line, part) do
    assert Enum.any?(violations, fn {p, l, message} ->
             {p, l} == {path, line} and message =~ part
           end),
           "#{inspect(part)} at #{path}:#{line} expected in #{inspect(violations)}"
  end

  test "crates know only those that they may know" do
    sources = House.sources(["native/*/Cargo.toml"])
    assert sources != []
    assert_none(House.dependencies(sources))
  end

  test "the dependency rule sees what breaks it" do
    text = """
    [dependencies]
    macula_core.workspace = true
    macula_sqlite = { path = "../sqlite" }
    db = { package = "redb", version = "4" }
    macula_testkit.workspace = true
    [target.'cfg(unix)'.dependencies]
    rustler.workspace = true
    [dependencies.tokio]
    version = "1"
    [dev-dependencies]
    macula_testkit.workspace = true
    tar.workspace = true
    """

    violations = House.dependencies([{"native/files/Cargo.toml", text}])

    for {line, part} <- [
          {3, "not sqlite"},
          {4, "redb only in blocks"},
          {5, "[dev-dependencies]"},
          {7, "rustler only"}
        ],
        do: assert_breaks(violations, "native/files/Cargo.toml", line, part)

    assert_breaks(violations, "native/files/Cargo.toml", 8, "tokio only in")
    assert_breaks(violations, "native/files/Cargo.toml", 12, "tar only in archive")
    assert length(violations) == 6

    assert_breaks(
      House.dependencies([{"native/new/Cargo.toml", "[dependencies]\nmacula_core = {}"}]),
      "native/new/Cargo.toml",
      2,
      "give it a row"
    )
  end

  test "lib and src do without the banned calls" do
    assert_none(House.banned_calls(House.sources(@lib)))
  end

  test "the rule of banned calls sees what breaks it" do
    text = """
    defmodule A do
      def a(x), do: String.to_atom(x)
      def b(x), do: Enum.map(x, &System.cmd(&1, []))
      def c, do: :timer.sleep(1)
      def d, do: Application.get_env(:a, :b)
      def e, do: "Process.sleep(1)" # Process.sleep(1)
      def f(x), do: Enum.each(x, &Process.sleep/1)
    end
    """

    violations = House.banned_calls([{"lib/a.ex", text}])
    for line <- [2, 3, 4, 5, 7], do: assert_breaks(violations, "lib/a.ex", line, "no ")
    assert length(violations) == 5

    assert [2, 3, 4, 7] =
             for({_, line, _} <- House.banned_calls([{"lib/config.ex", text}]), do: line)

    table = House.banned_calls([{"lib/macula_storage/mnesia/table.ex", text}])
    assert [3, 4, 5, 7] = for({_, line, _} <- table, do: line)

    erlang = "-module(a).\na(X) -> list_to_atom(X).\nb() ->\n  timer:sleep(5).\n"
    assert_breaks(House.banned_calls([{"src/a.erl", erlang}]), "src/a.erl", 2, "no list_to_atom")
    assert_breaks(House.banned_calls([{"src/a.erl", erlang}]), "src/a.erl", 4, "no :timer.sleep")
  end

  test "only the tier modules call NIFs" do
    assert_none(House.native_calls(House.sources(["lib/**/*.ex"]), @callers_of_native))
  end

  test "the rule of NIF callers sees what breaks it" do
    text = """
    defmodule A do
      alias MaculaStorage.Native
      def a, do: Native.a()
      def b, do: MaculaStorage.Native.b(1)
    end
    """

    violations = House.native_calls([{"lib/macula_storage/a.ex", text}], ["b.ex", "c/"])
    assert [{_, 3, _}, {_, 4, _}] = violations
    assert [_, _] = House.native_calls([{"lib/macula_backup.ex", text}], ["b.ex", "c/"])
    assert [] = House.native_calls([{"lib/macula_storage/b.ex", text}], ["b.ex", "c/"])
    assert [] = House.native_calls([{"lib/macula_storage/c/a.ex", text}], ["b.ex", "c/"])
  end

  test "files stay under 600 lines" do
    assert_none(House.file_sizes(House.sources(@code)))
  end

  test "the rule of file sizes sees what breaks it" do
    assert [] = House.file_sizes([{"a.ex", String.duplicate("\n", 599)}])

    assert_breaks(
      House.file_sizes([{"a.ex", String.duplicate("\n", 600)}]),
      "a.ex",
      600,
      "600 lines"
    )
  end

  test "functions stay under 70 lines" do
    assert_none(House.function_sizes(House.sources(["native/*/src/**/*.rs" | @lib])))
  end

  test "the rule of function sizes sees what breaks it" do
    filler = &String.duplicate("    x();\n", &1)
    # Braces in strings, characters, comments and lifetimes are no braces.
    tricky =
      "    let s = \"}\\\"}\"; let r = r#\"}\"}\"#; let c = '}'; let q = '\\''; // }\n    /* } /* } */ } */\n"

    rust =
      "/// fn not_one() {\npub fn long<'a>(x: &'a [u8; 3]) -> u8\nwhere T: A,\n{\n#{tricky}#{filler.(64)}}\n"

    assert_breaks(House.function_sizes([{"a.rs", rust}]), "a.rs", 2, "long has 70 lines")

    assert [%{name: "long", lines: 69}] =
             House.Rust.functions(String.replace(rust, "    x();\n", "", global: false))

    assert [] = House.Rust.functions("trait A {\n  fn a(&self);\n}\ntype F = fn (u8);\n")

    body = String.duplicate("    x()\n", 68)

    assert_breaks(
      House.function_sizes([{"a.ex", "defmodule A do\n  def a do\n#{body}  end\nend\n"}]),
      "a.ex",
      2,
      "a has 70"
    )

    assert [] =
             House.function_sizes(
               [{"a.ex", "defmodule A do\n  def a do\n#{body}end\n  def b, do: 1\nend\n"}]
               |> drop_line()
             )

    erlang = "-module(a).\n\na() ->\n#{String.duplicate("  x(),\n", 68)}  y().\n"
    assert_breaks(House.function_sizes([{"a.erl", erlang}]), "a.erl", 3, "a has 70 lines")
  end

  defp drop_line([{path, text}]),
    do: [{path, String.replace(text, "    x()\n", "", global: false)}]

  test "the stubs are the NIFs" do
    assert_none(House.stubs(House.sources(@natives), House.sources(["native/nif/src/**/*.rs"])))
  end

  test "the rule of stubs sees what breaks it" do
    rust = """
    /// Memory.
    #[rustler::nif]
    fn one(a: Term, b: Vec<(u8, u8)>) -> bool { true }

    /// Own thread.
    #[rustler::nif(name = "two")]
    pub fn two_impl<'a>(env: Env<'a>, f: Option<Binary<'a>>) -> Term<'a> { x }

    #[rustler::nif]
    fn three(env: Env) {}

    fn four() {}
    """

    elixir = """
    defmodule N do
      @on_load :load
      def load, do: :ok
      @spec one(term(), list()) :: boolean()
      def one(_, _), do: :erlang.nif_error(:not_loaded)
      def two(_a), do: :erlang.nif_error(:not_loaded)
      @spec five() :: :ok
      def five, do: :erlang.nif_error(:not_loaded)
    end
    """

    assert [{"one", 2}, {"two", 1}, {"three", 0}] =
             for(n <- House.Rust.nifs(rust), do: {n.name, n.arity})

    violations = House.stubs([{"n.ex", elixir}], [{"n.rs", rust}])
    assert_breaks(violations, "n.rs", 10, "NIF three/0 has no stub")
    assert_breaks(violations, "n.ex", 8, "stub five/0 has no NIF")
    assert_breaks(violations, "n.ex", 6, "stub two/1 has no spec")
    assert length(violations) == 3
  end

  test "each NIF names its class" do
    assert_none(House.nif_classes(House.sources(["native/nif/src/**/*.rs"])))
  end

  test "the rule of classes sees what breaks it" do
    rust = """
    /// Says nothing.
    #[rustler::nif]
    fn one() {}
    /// Opens. Dirty io.
    #[rustler::nif]
    fn two() {}
    /// Reads. Memory.
    #[rustler::nif(schedule = "DirtyIo")]
    fn three() {}
    /// Reads. Dirty io.
    #[rustler::nif(schedule = "DirtyIo")]
    fn four() {}
    /// Puts; own thread.
    #[allow(clippy::too_many_arguments)]
    #[rustler::nif]
    fn five() {}
    """

    violations = House.nif_classes([{"n.rs", rust}])
    assert_breaks(violations, "n.rs", 3, "no class")
    assert_breaks(violations, "n.rs", 6, "doc says dirty io, schedule is nil")
    assert_breaks(violations, "n.rs", 9, "doc says memory, schedule is \"DirtyIo\"")
    assert length(violations) == 3
  end

  test "no file names a machine's path or a registry" do
    assert_none(House.machine_words(House.sources(@code ++ @prose)))
  end

  test "the rule of machines sees what breaks it" do
    text = "a\nsee #{"/ho" <> "me/me"}/x\nfrom #{"crates" <> ".io"}\nlib/#{"wo" <> "rk"}/a\n"
    violations = House.machine_words([{"a.md", text}])
    assert_breaks(violations, "a.md", 2, "belongs to one machine")
    assert_breaks(violations, "a.md", 3, "name no host")
    assert length(violations) == 2
  end

  test "nothing is unfinished" do
    assert_none(House.unfinished(House.sources(@code)))
  end

  test "the rule of the unfinished sees what breaks it" do
    text =
      "// #{"TO" <> "DO"}: later\nfn a() {\n  #{"to" <> "do!"}()\n}\nconst A: &str = \"#{"to" <> "do!"}\";\n"

    violations = House.unfinished([{"a.rs", text}])
    assert_breaks(violations, "a.rs", 1, "open an issue")
    assert_breaks(violations, "a.rs", 3, "return an error")
    assert length(violations) == 2
  end

  test "each file begins with what it is for" do
    assert_none(House.heads(House.sources(@rust ++ @lib ++ @tests ++ @scripts)))
  end

  test "the rule of heads sees what breaks it" do
    for {path, bad} <- [
          {"a.rs", "use std::fs;\n//! Late.\n"},
          {"a.rs", "#![allow(x)]\n" <> String.duplicate("//! long\n", 11)},
          {"a.ex", "defmodule A do\nend\n"},
          {"a.ex", "defmodule A do\n  @moduledoc false\nend\n"},
          {"a.erl", "-module(a).\n"},
          {"bin/a", "#!/bin/sh\nset -e\n"}
        ],
        do: assert_breaks(House.heads([{path, bad}]), path, 1, "head")

    assert [] =
             House.heads([
               {"a.rs", "#![allow(x)]\n//! Early.\n"},
               {"a.ex", "# Why.\ndefmodule A do\n  @moduledoc false\nend\n"},
               {"a.ex", "defmodule A do\n  @moduledoc false\n  # Why.\nend\n"},
               {"a.ex", "defmodule A do\n  @moduledoc \"Why.\"\nend\n"},
               {"a.erl", "%% Why.\n-module(a).\n"},
               {"bin/a", "#!/bin/sh\n# Why.\n"}
             ])
  end

  test "the front doors say what each function promises and costs" do
    for {path, module} <- [
          {"lib/macula_storage.ex", MaculaStorage},
          {"lib/macula_backup.ex", MaculaBackup}
        ],
        Code.ensure_loaded?(module),
        do: assert_none(House.public_docs({path, module |> :code.which() |> to_string()}))
  end

  test "the rule of promises sees what breaks it" do
    text = """
    defmodule MaculaStorage.HouseTest.Sample do
      @doc "Puts. Durability: none. Cost: none."
      @spec good() :: :ok | {:error, term()}
      def good, do: :ok
      @doc "Puts."
      @spec silent() :: :ok
      def silent, do: :ok
      @spec bare() :: {:ok, 1}
      def bare, do: {:ok, 1}
      @doc "Gets."
      def loose, do: nil
      @doc false
      def hidden, do: :ok
    end
    """

    [{module, binary}] = with_docs_and_specs(fn -> Code.compile_string(text, "sample.ex") end)

    beam =
      MaculaStorage.Case.unique_dir("house")
      |> Path.join("#{module}.beam")
      |> tap(&File.write!(&1, binary))

    # Sorted, and without lines: Elixir versions differ in whether a function begins at its @doc.
    messages = for {"a.ex", _line, message} <- House.public_docs({"a.ex", beam}), do: message

    assert [
             "bare/0 has no @doc" <> _,
             "loose/0 has no @spec" <> _,
             "silent/0 returns :ok but does not say what it costs: add Cost:",
             "silent/0 returns :ok but does not say what that promises: add Durability:"
           ] = Enum.sort(messages)
  end

  # What a test compiles keeps neither unless told to.
  defp with_docs_and_specs(fun) do
    before = for option <- [:docs, :debug_info], do: {option, Code.get_compiler_option(option)}

    try do
      for {option, _} <- before, do: Code.put_compiler_option(option, true)
      fun.()
    after
      for {option, value} <- before, do: Code.put_compiler_option(option, value)
    end
  end
end
