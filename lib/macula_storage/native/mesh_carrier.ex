defmodule MaculaStorage.Native.MeshCarrier do
  @moduledoc false
  # The stubs of native/nif/src/mesh_carrier.rs, as those of `MaculaStorage.Native.Mesh`.

  defmacro __using__(_options) do
    quote do
      # messages `{:carry, number, node, request, timeout_ms}` and `{:call_back, number}`
      @spec mesh_carry(handle) :: {:ok, handle} | failure
      def mesh_carry(_mesh), do: missing()

      @spec mesh_carry_tell(handle, String.t(), boolean) :: :ok
      def mesh_carry_tell(_carrying, _name, _up), do: missing()

      @spec mesh_carry_answer(handle, non_neg_integer, {:ok, binary} | {:error, binary}) ::
              boolean | failure
      def mesh_carry_answer(_carrying, _number, _answer), do: missing()

      @spec mesh_answer(handle, reference, String.t(), binary) :: call
      def mesh_answer(_mesh, _ref, _from, _request), do: missing()
    end
  end
end
