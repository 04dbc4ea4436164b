defmodule MaculaStorage.MeshFS.TransportTest do
  @moduledoc """
  The transport of replicated files where none is configured, and the one that its docs show. Configured ones:
  test/cluster/mesh_fs_transport_test.exs, mesh_fs_bad_transport_test.exs.
  """
  use ExUnit.Case, async: true

  alias MaculaStorage.MeshFS.Transport

  doctest Transport

  test "misuse is told also where there is no transport" do
    for bad <- [nil, true, 1, "", [], <<255>>, String.duplicate("x", 256)] do
      for misuse <- [&Transport.up/1, &Transport.down/1, &Transport.answer(&1, "request")] do
        error = assert_raise ArgumentError, fn -> misuse.(bad) end
        assert error.message =~ "expected a member's name"
      end
    end

    for bad <- [nil, :a, ~c"request", <<1::3>>] do
      error = assert_raise ArgumentError, fn -> Transport.answer(:b@host, bad) end
      assert error.message =~ "expected a request as a binary"
    end

    for bad <- [[timeout: 0], [other: 1], :none],
        do: assert_raise(ArgumentError, fn -> Transport.answer(:b@host, "request", bad) end)
  end

  test "the example of the docs is a transport" do
    {:docs_v1, _, _, _, %{"en" => doc}, _, _} = Code.fetch_docs(Transport)
    [example] = Regex.run(~r/^    defmodule MyApp.Transport do.*?^    end$/ms, doc)

    test = self()

    # also a warning, as of a callback that there is not
    said =
      ExUnit.CaptureIO.capture_io(:stderr, fn -> send(test, Code.compile_string(example)) end)

    assert_received [{transport, _beam}]
    assert said == ""
    assert transport.reachable(nil) == Node.list()
    {:ok, server} = transport.start_link(nil)

    # nothing is configured here: what it says is refused, and it goes on
    for change <- [:nodeup, :nodedown], do: send(server, {change, :b@host})
    assert :sys.get_state(server) == nil
    assert_raise ErlangError, fn -> transport.call(:b@host, "request", 1_000, nil) end
    GenServer.stop(server)
    :code.purge(transport)
    :code.delete(transport)
  end
end
