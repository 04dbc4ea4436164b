defmodule MaculaStorage.OptionsTest do
  @moduledoc "Misuse is met in Elixir, by an ArgumentError that says what was expected."
  use ExUnit.Case, async: true

  alias MaculaStorage.Options

  @known [
    flag: {false, :boolean},
    count: {nil, :positive},
    wait: {nil, :timeout},
    path: {nil, :path},
    mode: {:a, {:one_of, [:a, :b]}},
    any: {nil, :any}
  ]

  test "defaults, and what was given" do
    defaults = %{flag: false, count: nil, wait: nil, path: nil, mode: :a, any: nil}
    assert Options.validate!([], @known) == defaults
    given = [flag: true, count: 1, wait: :infinity, path: "p", mode: :b, any: {}]
    assert Options.validate!(given, @known) == Map.new(given)
    # the last one counts
    assert Options.validate!([count: 1, count: 2], @known).count == 2
  end

  test "values that cannot be" do
    for {name, bad} <- [
          flag: [1, nil, "true"],
          count: [0, -1, 1.0, nil],
          wait: [0, -1, :forever, 1.5],
          path: ["", :path, nil],
          mode: [:c, "a", nil]
        ],
        value <- bad do
      message = ~r/option #{inspect(name)} to be .*got: #{Regex.escape(inspect(value))}/
      assert_raise ArgumentError, message, fn -> Options.validate!([{name, value}], @known) end
    end
  end

  test "unknown options name the known ones" do
    assert_raise ArgumentError, ~r/unknown option :flags, expected one of: :flag, :count/, fn ->
      Options.validate!([flags: 1], @known)
    end

    for bad <- [%{flag: true}, [:flag], [{"flag", true}], :flag, nil] do
      assert_raise ArgumentError, ~r/keyword list/, fn -> Options.validate!(bad, @known) end
    end
  end

  test "app names are strings from here on" do
    assert Options.app!(:my_app) == "my_app"
    assert Options.app!("my_app") == "my_app"
    message = ~r/got: "A{80}/
    assert_raise ArgumentError, message, fn -> Options.app!(String.duplicate("A", 1_000_000)) end
  end
end
