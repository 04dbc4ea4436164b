defmodule MaculaStorage.Native.MeshCare do
  @moduledoc false
  # The stubs of native/nif/src/mesh_care.rs, as those of `MaculaStorage.Native.Mesh`.

  defmacro __using__(_options) do
    quote do
      @spec mesh_scrub(handle, reference, non_neg_integer) :: call
      def mesh_scrub(_mesh, _ref, _pause_us), do: missing()

      @spec mesh_status(handle, reference) :: call
      def mesh_status(_mesh, _ref), do: missing()

      @spec mesh_scan(handle, reference, String.t(), boolean) :: call
      def mesh_scan(_mesh, _ref, _app, _deletions), do: missing()
    end
  end
end
