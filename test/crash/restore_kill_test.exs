defmodule MaculaStorage.Crash.RestoreKillTest do
  @moduledoc """
  A real VM is killed with SIGKILL at random moments of a restore; in its next life the app is wholly
  the old or wholly the new. A slice by default, 50 kills under `MACULA_TORTURE=1` (bin/torture).
  """
  use MaculaStorage.Case, async: false

  alias MaculaStorage.Wait

  @moduletag timeout: :infinity

  test "an app is wholly old or wholly new" do
    rounds = if System.get_env("MACULA_TORTURE") == "1", do: 50, else: 5

    seed =
      String.to_integer(System.get_env("MACULA_SEED", "#{:erlang.unique_integer([:positive])}"))

    :rand.seed(:exsss, seed)
    base = unique_dir("restore")
    tarballs = for tag <- ["a", "b"], do: {tag, back_up(tag, base)}
    {lives, restored} = Enum.reduce(1..rounds, {[], nil}, &round(&1, &2, base, tarballs, seed))
    held = Enum.frequencies(lives)
    IO.puts("\nrestore_kill_test: seed=#{seed} kills=#{rounds} held=#{inspect(held)} mixed=0")
    assert restored != :never
  end

  defp round(round, {lives, restored}, base, tarballs, seed) do
    child = ChildVM.start("MaculaStorage.CrashChild.restore(#{inspect(tarballs)})", base: base)

    held =
      case ChildVM.next(child) do
        {:line, "held " <> tag} -> tag
        other -> flunk("seed=#{seed} round=#{round}: the app is neither: #{inspect(other)}")
      end

    # what was acknowledged last is there, unless a later restore was under way
    assert restored in [nil, held], "seed=#{seed} round=#{round}: lost restore of #{restored}"
    assert {:line, "restoring " <> _} = ChildVM.next(child)
    Wait.pause(:rand.uniform(600) - 1)
    lines = ChildVM.kill(child)
    {[held | lives], certain(lines)}
  end

  # the tag that must be held: the last line says `restored`; else a restore was under way
  defp certain(lines) do
    case List.last(lines) do
      "restored " <> tag -> tag
      _ -> nil
    end
  end

  defp back_up(tag, base) do
    child = ChildVM.start("MaculaStorage.CrashChild.back_up(#{inspect(tag)})", base: base)
    {lines, 0} = ChildVM.rest(child)
    "backup " <> path = List.last(lines)
    path
  end
end
