defmodule MaculaStorage.Call do
  @moduledoc false
  # Waiting for the one reply to a call that runs on a thread of ours.
  #
  # Invariant: when this returns, no message of that call is in the caller's mailbox and none will
  # come. Giving up asks Rust, which knows whether a reply was already sent.

  alias MaculaStorage.{Config, Error, Native}

  # The extra wait for a reply that Rust says it has sent.
  @flush_ms 60_000

  @doc false
  @spec run((reference -> Native.call()), keyword) :: term
  def run(start, options \\ []) do
    ref = make_ref()
    timeout = Keyword.get(options, :timeout) || Config.get().timeout_ms

    case start.(ref) do
      {:ok, call} -> await_or_flush(ref, call, deadline(timeout), options)
      {:error, _} = error -> wrap(error, options)
    end
  end

  # a progress function that raises must not leave the call behind
  defp await_or_flush(ref, call, deadline, options) do
    await(ref, call, deadline, options)
  catch
    kind, reason ->
      give_up(ref, call, Keyword.delete(options, :progress))
      :erlang.raise(kind, reason, __STACKTRACE__)
  end

  defp await(ref, call, deadline, options) do
    receive do
      {^ref, {:progress, progress}} ->
        tell(progress, options)
        await(ref, call, deadline, options)

      {^ref, reply} ->
        wrap(reply, options)
    after
      left(deadline) -> give_up(ref, call, options)
    end
  end

  defp give_up(ref, call, options) do
    case Native.call_cancel(call) do
      :cancelled ->
        flush_progress(ref)
        {:error, :timeout}

      :replied ->
        await_sent(ref, options)
    end
  end

  defp await_sent(ref, options) do
    receive do
      {^ref, {:progress, _}} -> await_sent(ref, options)
      {^ref, reply} -> wrap(reply, options)
    after
      @flush_ms -> {:error, :timeout}
    end
  end

  defp flush_progress(ref) do
    receive do
      {^ref, _} -> flush_progress(ref)
    after
      0 -> :ok
    end
  end

  defp tell(progress, options) do
    case Keyword.get(options, :progress) do
      nil -> :ok
      fun when is_function(fun, 1) -> fun.(progress)
      pid when is_pid(pid) -> send(pid, {:macula_progress, progress})
    end
  end

  defp wrap({:error, _} = error, options),
    do: Error.wrap(error, Keyword.get(options, :op, :call), Keyword.get(options, :app))

  defp wrap(reply, _options), do: reply

  defp deadline(:infinity), do: :infinity
  defp deadline(timeout), do: System.monotonic_time(:millisecond) + timeout

  defp left(:infinity), do: :infinity
  defp left(deadline), do: max(deadline - System.monotonic_time(:millisecond), 0)
end
