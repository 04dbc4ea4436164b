defmodule MaculaStorage.HostileFilesTest do
  @moduledoc "No name and no planted link leads out of an app's directory, for reading or for writing."
  use MaculaStorage.Case, async: true

  alias MaculaStorage.Error

  @names [
    "",
    ".",
    "..",
    "/",
    "/etc/passwd",
    "../x",
    "a/../../x",
    "a/..",
    "a/./b",
    "./a",
    "a//b",
    "a/",
    "//a",
    "a\0b",
    "\0",
    "../../other/data/files/a",
    "a/../../../../../../../../etc/passwd"
  ]

  setup do
    app = unique_app()
    :ok = MaculaStorage.file_write(app, "good", "good")
    outside = unique_dir("outside")
    File.write!(Path.join(outside, "secret"), "secret")
    %{app: app, files: Path.join(MaculaStorage.app_data_path(app), "files"), outside: outside}
  end

  # Every verb; none may answer with content, and none may change anything.
  defp verbs(app, name) do
    [
      fn -> MaculaStorage.file_read(app, name) end,
      fn -> MaculaStorage.file_write(app, name, "planted") end,
      fn -> MaculaStorage.file_stat(app, name) end,
      fn -> MaculaStorage.file_delete(app, name) end,
      fn -> stream(fn -> Enum.to_list(MaculaStorage.file_stream!(app, name)) end) end,
      fn -> stream(fn -> Enum.into(["planted"], MaculaStorage.file_stream!(app, name)) end) end
    ]
  end

  defp stream(fun) do
    {:ok, fun.()}
  rescue
    error in Error -> {:error, error}
  end

  defp refused!(app, name) do
    for {verb, n} <- Enum.with_index(verbs(app, name)) do
      assert {:error, reason} = verb.(), "verb #{n} took #{inspect(name)}"
      assert reason == :not_found or match?(%Error{}, reason)
    end
  end

  test "names that leave, or are no names", %{app: app, files: files} do
    before = tree(base_path(), app)
    long = [String.duplicate("x", 256), Enum.map_join(1..600, "/", fn _ -> "dir/dir" end)]
    for name <- @names ++ long, do: refused!(app, name)

    for prefix <- ["..", "/etc", "a/../..", "\0"] do
      assert {:error, %Error{kind: :invalid}} = MaculaStorage.file_list(app, prefix: prefix)
      assert {:error, %Error{kind: :invalid}} = MaculaStorage.file_list(app, after: prefix)
    end

    assert File.ls!(files) == ["good"]
    assert tree(base_path(), app) == before
  end

  test "names that only look hostile are names", %{app: app} do
    for name <- [
          "...",
          "a..b",
          "..a",
          " ",
          "~",
          "-rf",
          "a\\b",
          "a\nb",
          "$(x)",
          <<255, 254>>,
          "ünï"
        ] do
      assert :ok = MaculaStorage.file_write(app, name, name)
      assert {:ok, ^name} = MaculaStorage.file_read(app, name)
      assert {:ok, names} = MaculaStorage.file_list(app)
      assert name in names
      assert :ok = MaculaStorage.file_delete(app, name)
    end
  end

  test "a planted link to a file outside", %{app: app, files: files, outside: outside} do
    secret = Path.join(outside, "secret")
    File.ln_s!(secret, Path.join(files, "link"))
    assert {:error, reason} = MaculaStorage.file_read(app, "link")
    assert reason == :not_found or match?(%Error{}, reason)
    assert {:error, _} = MaculaStorage.file_stat(app, "link")
    assert_raise Error, fn -> Enum.to_list(MaculaStorage.file_stream!(app, "link")) end
    # writing may replace the link itself, never what it points to
    MaculaStorage.file_write(app, "link", "planted")
    assert File.read!(secret) == "secret"
    MaculaStorage.file_delete(app, "link")
    assert File.read!(secret) == "secret"
  end

  test "a planted link to a directory outside", %{app: app, files: files, outside: outside} do
    File.ln_s!(outside, Path.join(files, "dir"))
    refused!(app, "dir/secret")
    refused!(app, "dir/new")
    refused!(app, "dir/deep/new")
    assert {:ok, names} = MaculaStorage.file_list(app)
    refute Enum.any?(names, &String.starts_with?(&1, "dir/"))

    assert MaculaStorage.file_list(app, prefix: "dir") in [{:ok, []}] or
             match?({:error, _}, MaculaStorage.file_list(app, prefix: "dir"))

    assert File.ls!(outside) == ["secret"]
    assert File.read!(Path.join(outside, "secret")) == "secret"
  end

  test "links inside the app are not followed either", %{app: app, files: files} do
    File.ln_s!("good", Path.join(files, "link"))
    File.ln_s!(".", Path.join(files, "loop"))
    File.ln_s!("dangling", Path.join(files, "dangling"))
    assert {:error, _} = MaculaStorage.file_read(app, "link")
    refused!(app, "loop/good")
    assert {:ok, names} = MaculaStorage.file_list(app)
    refute Enum.any?(names, &String.starts_with?(&1, "loop/"))
    assert {:ok, "good"} = MaculaStorage.file_read(app, "good")
  end

  test "the app's own directory as a link", %{outside: outside} do
    app = unique_app()
    File.mkdir_p!(Path.join(base_path(), "apps"))
    File.ln_s!(outside, Path.join([base_path(), "apps", app]))
    assert {:error, _} = MaculaStorage.file_write(app, "a", "planted")
    assert {:error, _} = MaculaStorage.data_put(app, "a", "planted")
    assert {:error, _} = MaculaStorage.SQLite.execute(app, "CREATE TABLE t (n)")
    assert {:error, _} = MaculaStorage.ensure_app_dirs(app)
    assert File.ls!(outside) == ["secret"]
  end

  test "data, kv and files as links", %{outside: outside} do
    for part <- ["data", "data/files", "data/kv"] do
      app = unique_app()
      path = Path.join([base_path(), "apps", app, part])
      File.mkdir_p!(Path.dirname(path))
      File.ln_s!(outside, path)
      MaculaStorage.file_write(app, "a", "planted")
      MaculaStorage.data_put(app, "a", "planted")
      MaculaStorage.app_usage(app, fresh: true)
      assert File.ls!(outside) == ["secret"], part
    end
  end

  test "the database, or what it lies in, as a link", %{outside: outside} do
    for part <- ["data", "data/app.db", "data/app.db-wal"] do
      app = unique_app()
      path = Path.join([base_path(), "apps", app, part])
      File.mkdir_p!(Path.dirname(path))
      File.ln_s!(if(part == "data", do: outside, else: Path.join(outside, "planted.db")), path)
      MaculaStorage.SQLite.execute(app, "CREATE TABLE t (n)")
      MaculaStorage.close_app(app)
      assert File.ls!(outside) == ["secret"], part
    end
  end

  test "a fifo or a directory where a file is asked for does not hold anybody", %{
    app: app,
    files: files
  } do
    {_, 0} = System.cmd("mkfifo", [Path.join(files, "fifo")])
    assert {:error, _} = MaculaStorage.file_read(app, "fifo")
    assert_raise Error, fn -> Enum.to_list(MaculaStorage.file_stream!(app, "fifo")) end
    File.mkdir_p!(Path.join(files, "dir/below"))
    assert {:error, _} = MaculaStorage.file_read(app, "dir")
    assert {:error, _} = MaculaStorage.file_write(app, "dir", "x")
    assert {:error, _} = MaculaStorage.file_write(app, "good/below", "x")
    assert {:error, _} = MaculaStorage.file_read(app, "good/below")
    assert {:ok, "good"} = MaculaStorage.file_read(app, "good")
  end

  test "apps whose names begin alike never mix" do
    name = "my#{System.unique_integer([:positive])}"
    apps = for app <- [name, name <> "_app", name <> "-app"], do: {app, "of " <> app}

    on_exit(fn ->
      for {app, _} <- apps, MaculaStorage.close_app(app) == :ok do
        File.rm_rf!(Path.join([base_path(), "apps", app]))
      end
    end)

    for {app, content} <- apps do
      :ok = MaculaStorage.file_write(app, "a", content)
      :ok = MaculaStorage.data_put(app, :a, content)
      :ok = MaculaStorage.SQLite.execute(app, "CREATE TABLE t (v)")
      :ok = MaculaStorage.SQLite.execute(app, "INSERT INTO t VALUES (?)", [content])
    end

    for {app, content} <- apps do
      assert {:ok, ^content} = MaculaStorage.file_read(app, "a")
      assert {:ok, ["a"]} = MaculaStorage.file_list(app)
      assert [{:a, content}] == app |> MaculaStorage.data_select() |> Enum.to_list()
      assert {:ok, %{rows: [[^content]]}} = MaculaStorage.SQLite.query(app, "SELECT v FROM t")
    end
  end

  # Names beside the app that these tests could have made.
  defp tree(base, app) do
    for dir <- [base, Path.join(base, "apps"), Path.join([base, "apps", app, "data"])],
        name <- File.ls!(dir),
        name in ["x", "etc", "other", "passwd", "planted", "a", "files"],
        do: Path.join(dir, name)
  end
end
