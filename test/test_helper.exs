# The application reads its base directory once, at start: hence `mix test --no-start` (mix.exs) and this.
base = Path.join(System.tmp_dir!(), "macula_storage_test_#{System.pid()}_#{System.os_time()}")
File.mkdir_p!(base)
System.put_env("MACULA_STORAGE_BASE", base)
# What scans find is counted here: nobody finds it before. Nodes of tests of their own do.
Application.put_env(:macula_storage, :mesh_watch, false)
{:ok, _} = Application.ensure_all_started(:macula_storage)

ExUnit.after_suite(fn _result ->
  # That it stopped is no news, and ExUnit's closing line stays the last.
  :logger.set_primary_config(:level, :warning)
  Application.stop(:macula_storage)
  File.rm_rf!(base)
end)

# The full counts take as long as they take.
ExUnit.start(timeout: if(System.get_env("MACULA_TORTURE"), do: 3_600_000, else: 60_000))
