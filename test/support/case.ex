defmodule MaculaStorage.Case do
  @moduledoc """
  The case template of every test that stores something.

  Invariant: a test shares no app with another and leaves no file; the base directory itself belongs to
  the run (test_helper.exs).
  """
  use ExUnit.CaseTemplate

  using do
    quote do
      import MaculaStorage.Case
      alias MaculaStorage.ChildVM
    end
  end

  @doc "The base directory of this run."
  @spec base_path() :: Path.t()
  def base_path, do: System.fetch_env!("MACULA_STORAGE_BASE")

  @doc "An app name that no other test has; what the app stored is removed when the test ends."
  @spec unique_app(String.t()) :: String.t()
  def unique_app(prefix \\ "app") do
    app = "#{prefix}-#{System.unique_integer([:positive])}"

    on_exit(fn ->
      remove_app(app, Path.join([base_path(), "apps", app]), 5)
    end)

    app
  end

  # Closed first: engines that go on writing would put back what is removed. What looks after replicated files may have
  # opened it again meanwhile.
  defp remove_app(app, dir, tries) do
    MaculaStorage.close_app(app)

    case File.rm_rf(dir) do
      {:ok, _} -> :ok
      {:error, _, _} when tries > 1 -> remove_app(app, dir, tries - 1)
      {:error, reason, path} -> raise File.Error, reason: reason, action: "remove", path: path
    end
  end

  @doc "A directory outside the base, removed when the test ends."
  @spec unique_dir(String.t()) :: Path.t()
  def unique_dir(prefix \\ "dir") do
    name = "macula_storage_#{prefix}_#{System.pid()}_#{System.unique_integer([:positive])}"
    dir = Path.join(System.tmp_dir!(), name)
    File.mkdir_p!(dir)
    on_exit(fn -> File.rm_rf!(dir) end)
    dir
  end
end
