defmodule MaculaStorage.Native.Mesh do
  @moduledoc false
  # The stubs of native/nif/src/mesh.rs, which are compiled into `MaculaStorage.Native`: one library is one module,
  # and that file is as long as a file may be. The same rules.

  defmacro __using__(_options) do
    quote do
      use MaculaStorage.Native.{MeshCare, MeshCarrier}

      # a name is `{app, path}`, a version `{stamp, replica}`, an ack `:local | n | :quorum | :all`, or `nil`: what is
      # usual; with how long to wait for it
      @type name :: {String.t(), binary}
      @type version :: {non_neg_integer, non_neg_integer}
      @type path :: binary | nil
      @type ack :: {:local | non_neg_integer | :quorum | :all | nil, non_neg_integer}

      # in which zone, on what disk, with how many copies; once in how many ms, and how many bytes in a second; bytes in
      # a second of copies, and of those that move
      @type mesh_place :: {String.t(), :fast | :bulk, non_neg_integer, [mesh_rule]}
      # app, prefix, copies, class; and of one file, what is told of it
      @type mesh_rule :: {String.t() | nil, path, non_neg_integer, :fast | :bulk}
      @type place :: {non_neg_integer | nil, :fast | :bulk | nil}
      @type mesh_scrub :: {pos_integer | nil, pos_integer}
      @type mesh_rates :: {pos_integer | nil, pos_integer}

      # the last: whether by links
      # `{watch?, by_links?}`
      @spec mesh_open(handle, handle, reference, mesh_place, background, {boolean, boolean}) ::
              call
            when background: {mesh_scrub, mesh_rates}
      def mesh_open(_base, _state, _ref, _place, _background, _how), do: missing()

      @spec mesh_write(handle, reference, name, binary, ack, place) :: call
      def mesh_write(_mesh, _ref, _name, _content, _ack, _place), do: missing()

      @spec mesh_delete(handle, reference, name, ack) :: call
      def mesh_delete(_mesh, _ref, _name, _ack), do: missing()

      @spec mesh_resolve(handle, reference, name, version, ack) :: call
      def mesh_resolve(_mesh, _ref, _name, _version, _ack), do: missing()

      @spec mesh_copy(handle, reference, name, binary, ack) :: call
      def mesh_copy(_mesh, _ref, _name, _to, _ack), do: missing()

      @spec mesh_rename(handle, reference, name, binary, ack) :: call
      def mesh_rename(_mesh, _ref, _name, _to, _ack), do: missing()

      @spec mesh_reader(handle, reference, name, {version | nil, cache :: boolean}) :: call
      def mesh_reader(_mesh, _ref, _name, _chosen), do: missing()

      @spec mesh_read_part(handle, reference, non_neg_integer, pos_integer) :: call
      def mesh_read_part(_reader, _ref, _offset, _len), do: missing()

      @spec mesh_stat(handle, reference, name) :: call
      def mesh_stat(_mesh, _ref, _name), do: missing()

      @spec mesh_versions(handle, reference, name) :: call
      def mesh_versions(_mesh, _ref, _name), do: missing()

      @spec mesh_writer(handle, reference, name, place) :: call
      def mesh_writer(_mesh, _ref, _name, _place), do: missing()

      @spec mesh_writer_chunk(handle, reference, binary) :: call
      def mesh_writer_chunk(_writer, _ref, _bytes), do: missing()

      @spec mesh_writer_commit(handle, reference, ack) :: call
      def mesh_writer_commit(_writer, _ref, _ack), do: missing()

      @spec mesh_writer_abort(handle) :: :ok
      def mesh_writer_abort(_writer), do: missing()
    end
  end
end
