defmodule MaculaStorage.Native.MeshCare do
  @moduledoc false
  # The stubs of native/nif/src/mesh_care.rs and mesh_events.rs: as those of `MaculaStorage.Native.Mesh`, whose types they
  # share.

  defmacro __using__(_options) do
    quote do
      @spec mesh_scrub(handle, reference, non_neg_integer) :: call
      def mesh_scrub(_mesh, _ref, _pause_us), do: missing()

      @spec mesh_status(handle, reference) :: call
      def mesh_status(_mesh, _ref), do: missing()

      # messages `{:refused, {member, count, why, at_ms}}`
      @spec mesh_hear_refusals(handle) :: :ok | failure
      def mesh_hear_refusals(_mesh), do: missing()

      @spec mesh_scan(handle, reference, String.t(), boolean) :: call
      def mesh_scan(_mesh, _ref, _app, _deletions), do: missing()

      # beneath a directory, behind a name; with `conflicts?`, of more than one version
      @spec mesh_list(handle, reference, String.t(), {path, path}, pos_integer, boolean) :: call
      def mesh_list(_mesh, _ref, _app, _range, _limit, _conflicts?), do: missing()

      @spec mesh_listen(handle, String.t(), path, [atom]) :: {:ok, handle} | {:error, term}
      def mesh_listen(_mesh, _app, _prefix, _kinds), do: missing()

      @spec mesh_listen_next(handle) ::
              {:ok, {[tuple], non_neg_integer, boolean, boolean}} | {:error, term}
      def mesh_listen_next(_listening), do: missing()
    end
  end
end
