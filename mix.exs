defmodule MaculaStorage.MixProject do
  @moduledoc false
  use Mix.Project

  def project do
    [
      app: :macula_storage,
      version: "0.1.0",
      elixir: "~> 1.14",
      description: "Durable storage for BEAM applications on small clusters",
      start_permanent: Mix.env() == :prod,
      compilers: [:macula_native] ++ Mix.compilers(),
      elixirc_paths: elixirc_paths(Mix.env()),
      # The base directory is read once, when the application starts: test_helper.exs sets it first.
      aliases: [test: "test --no-start"],
      deps: []
    ]
  end

  def application do
    [mod: {MaculaStorage.Application, []}] ++ mnesia(System.get_env("MACULA_STORAGE_MNESIA", ""))
  end

  # Included: a release has mnesia along and does not start it; MaculaStorage.Mnesia.setup/1 does. Mix builds no
  # release where another application lists it as a regular one; then it has to be one here, too.
  defp mnesia("regular"), do: [extra_applications: [:logger, :mnesia]]
  defp mnesia(_), do: [extra_applications: [:logger], included_applications: [:mnesia]]

  defp elixirc_paths(:test), do: ["lib", "test/support"]
  defp elixirc_paths(_env), do: ["lib"]
end

defmodule Mix.Tasks.Compile.MaculaNative do
  @moduledoc """
  Puts the shared object with the NIFs into `priv/native/`.

  Cargo builds it, unless `MACULA_STORAGE_NIF` names a prebuilt one. It stands in mix.exs because a
  compiler must be there before lib is compiled.

  Invariant: the installed file is only ever replaced by a rename. A running VM maps it, and bytes
  changed under a mapping crash that VM.
  """
  use Mix.Task.Compiler

  @root __DIR__
  @installed Path.join(@root, "priv/native/macula_nif.so")

  @impl true
  def run(_args) do
    with {:ok, built} <- shared_object(), {:ok, status} <- install(built) do
      {status, []}
    else
      {:error, message} -> {:error, [diagnostic(message)]}
    end
  end

  # The object itself is the manifest: `mix test --stale` runs everything again when it changes.
  @impl true
  def manifests, do: [@installed]

  @impl true
  def clean, do: File.rm(@installed)

  defp shared_object do
    case System.get_env("MACULA_STORAGE_NIF", "") do
      "" -> cargo_build()
      path -> prebuilt(Path.expand(path))
    end
  end

  defp prebuilt(path) do
    if File.regular?(path) do
      {:ok, path}
    else
      {:error, "MACULA_STORAGE_NIF names no file path=#{path}"}
    end
  end

  defp cargo_build do
    case System.find_executable("cargo") do
      nil -> {:error, no_cargo()}
      cargo -> cargo_build(cargo)
    end
  end

  # Standard error goes to the terminal as it comes: a first build takes minutes and must be seen to move.
  defp cargo_build(cargo) do
    args =
      ~w(build --release --locked --package macula_nif --message-format json-render-diagnostics)

    quiet = if File.exists?(@installed), do: ["--quiet"], else: []
    {output, status} = System.cmd(cargo, args ++ quiet, cd: @root)
    built = Regex.run(~r{"filenames":\["([^"]*/libmacula_nif\.so)"}, output)

    case {status, built} do
      {0, [_, path]} -> {:ok, path}
      {0, nil} -> {:error, "cargo built no libmacula_nif.so"}
      {_, _} -> {:error, "cargo build failed, see its output above status=#{status}"}
    end
  end

  defp no_cargo do
    [_, version] =
      Regex.run(~r/channel = "(.*)"/, File.read!(Path.join(@root, "rust-toolchain.toml")))

    "cargo is not on the PATH: run bin/setup, install Rust #{version}, " <>
      "or set MACULA_STORAGE_NIF to a prebuilt macula_nif.so"
  end

  defp install(built) do
    wanted = File.read!(built)

    if File.read(@installed) == {:ok, wanted} do
      {:ok, :noop}
    else
      replace(wanted)
    end
  end

  defp replace(bytes) do
    new = "#{@installed}.#{System.pid()}.new"

    with :ok <- File.mkdir_p(Path.dirname(new)),
         :ok <- File.write(new, bytes),
         :ok <- File.rename(new, @installed) do
      # Mix linked priv into _build before it was there.
      Mix.Project.build_structure()
      {:ok, :ok}
    else
      {:error, reason} -> {:error, "cannot install #{@installed}: #{:file.format_error(reason)}"}
    end
  end

  defp diagnostic(message) do
    Mix.shell().error("macula_storage: " <> message)

    %Mix.Task.Compiler.Diagnostic{
      compiler_name: "macula_native",
      file: Path.join(@root, "mix.exs"),
      message: message,
      position: nil,
      severity: :error
    }
  end
end
