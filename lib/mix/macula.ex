defmodule Mix.Macula do
  @moduledoc false
  # What the tasks `mix macula.*` share: their arguments, their help, and the configuration of the
  # project that they run in. What they do is `MaculaStorage.Operator`.
  #
  # Invariant: the project's own application is not started, because it would want to own its apps.

  alias MaculaStorage.Operator

  @doc """
  Runs a task. `usage` is its moduledoc, `words` how many arguments it takes, `switches` its options
  beside `--help` and `--json`; `fun` gets the arguments and the options as `MaculaStorage.Operator` has them.
  """
  @spec run([String.t()], map, ([String.t()], keyword -> :ok)) :: :ok
  def run(args, task, fun) do
    switches = [help: :boolean, json: :boolean] ++ task.switches
    {options, words, unknown} = OptionParser.parse(args, strict: switches, aliases: [h: :help])
    json? = options[:json] || false

    cond do
      options[:help] ->
        IO.puts(task.usage)

      unknown != [] ->
        refuse(task, "not an option, or not a value of it: #{unknown_text(unknown)}", json?)

      length(words) not in task.words ->
        refuse(task, "wrong number of arguments: #{length(words)}", json?)

      true ->
        configure(json?)
        fun.(words, options(options))
    end
  end

  defp refuse(task, message, json?) do
    see = if json?, do: "", else: "\nmix macula.#{task.name} --help tells how to call it"
    Operator.refuse(task.name, message <> see, json?)
  end

  defp unknown_text(unknown) do
    Enum.map_join(unknown, ", ", fn {option, value} ->
      Enum.join([option | List.wrap(value)], " ")
    end)
  end

  # Compiling says so on standard output, which is all JSON when JSON was asked for.
  defp configure(json?) do
    shell = Mix.shell()
    if json?, do: Mix.shell(Mix.Shell.Quiet)
    Mix.Task.run("app.config")
    Mix.shell(shell)
  end

  defp options(options) do
    # what may be given more than once comes as a list
    {trust, options} = Keyword.pop_values(options, :trust)
    options = if trust == [], do: options, else: [trust: trust] ++ options

    Enum.map(options, fn
      {:role, "member"} -> {:role, :member}
      {:role, "client"} -> {:role, :client}
      {:timeout, seconds} -> {:timeout, round(seconds * 1000)}
      {:format, "gz"} -> {:format, :gz}
      {:format, "zst"} -> {:format, :zst}
      option -> option
    end)
  end
end
