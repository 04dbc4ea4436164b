defmodule MaculaStorage.Authority do
  @moduledoc """
  The authority of a cluster: who may be in it, told by certificates.

      {:ok, _} = MaculaStorage.Authority.create("ca")
      {:ok, %{dir: dir}} = MaculaStorage.Authority.issue("ca", "console@10.0.0.1")

  An operator's tool, used on a machine that is no member: an authority is a directory with a key, and who has
  the key lets anybody in. A node gets the three files of a certificate's directory (`ca.pem`, `cert.pem`,
  `key.pem`) and nothing else. From a shell: `mix macula.cluster.init`, `mix macula.cluster.issue`; in a release
  `bin/my_app eval 'MaculaStorage.Authority.issue("ca", "console@10.0.0.1")'`.

  A certificate is for one node by its name, `name@host` as Erlang has it, and for a role: a `:member` of the
  cluster, or a `:client` that asks it. It is renewed by issuing it again. The authority itself is replaced
  by a successor of the same cluster, in three rounds over all nodes, so that each of them trusts the other at any
  time (docs/operations.md, "Certificates"):

      {:ok, _} = MaculaStorage.Authority.create("ca2", successor_of: "ca")
      {:ok, _} = MaculaStorage.Authority.issue("ca", "console@10.0.0.1", trust: ["ca2"])   # all trust both
      {:ok, _} = MaculaStorage.Authority.issue("ca2", "console@10.0.0.1", trust: ["ca"])   # all show the new one's
      {:ok, _} = MaculaStorage.Authority.issue("ca2", "console@10.0.0.1")                  # nobody trusts the old one

  Directories are paths as the caller's working directory has them. Errors are atoms, or a `MaculaStorage.Error` of
  kind `:invalid` or `:newer_format` that says what is wrong with which file, and what to do.
  """

  alias MaculaStorage.{Call, Config, Native, Options}

  @type node_name :: atom | String.t() | charlist
  @type failure :: MaculaStorage.failure()

  @typedoc """
  An authority: its cluster, which of the cluster's authorities it is, until when it issues, and whether its
  key is there.
  """
  @type authority :: %{
          kind: :authority,
          dir: String.t(),
          cluster: String.t(),
          id: String.t(),
          has_key: boolean,
          valid_from: DateTime.t(),
          valid_until: DateTime.t(),
          days_left: integer
        }

  @typedoc """
  A node's certificate: the node, its role and cluster, the `id` of the authority that issued it and of those (one,
  two during a rotation) that the node trusts. `days_left` is negative when its time is over.
  """
  @type certificate :: %{
          kind: :certificate,
          dir: String.t(),
          node: String.t(),
          role: :member | :client,
          cluster: String.t(),
          issued_by: String.t(),
          trusts: [String.t()],
          valid_from: DateTime.t(),
          valid_until: DateTime.t(),
          days_left: integer
        }

  @authority_days 3650
  @node_days 365
  @days_max 36_500
  @day_ms 86_400_000
  @name_bytes_max 100

  @doc """
  Makes an authority in the directory `dir`, which must not be there.

  Options: `:days` for how long it issues (#{@authority_days}; what ends the nodes' trust in it is that it is taken
  out of their `ca.pem`, not this); `:successor_of`, the directory of an authority whose cluster it is to
  follow (its key need not be there). Without, it is the authority of a new cluster. `dir` has mode 0700, the key in it 0600.

  Durability: `{:ok, _}` means that the files and their names are synced; a crash leaves all of it or nothing.
  Cost: a thread of ours; six syncs. Errors: `:exists`, nothing was changed; of kind `:invalid` for a directory inside
  the base directory, because a member must not have the key.

      iex> dir = Path.join(System.tmp_dir!(), "macula_authority_doc_create")
      iex> File.rm_rf!(dir)
      iex> {:ok, %{kind: :authority, days_left: days}} = MaculaStorage.Authority.create(dir, days: 90)
      iex> days
      89
      iex> MaculaStorage.Authority.create(dir)
      {:error, :exists}
      iex> File.rm_rf!(dir) |> length() > 0
      true
  """
  @spec create(Path.t(), keyword) :: {:ok, authority} | failure
  def create(dir, options \\ []) do
    options =
      Options.validate!(options, days: {@authority_days, :positive}, successor_of: {nil, :any})

    dir = path!(dir, "a directory")
    days = days!(options.days)
    before = options.successor_of && path!(options.successor_of, "option :successor_of")
    call(:create, dir, &Native.authority_create(&1, dir, base(), before, days))
  end

  @doc """
  Issues a certificate to a node, or renews it: a fresh key, and a new end.

  Options: `:role` (`:member`, or `:client`), `:days` (#{@node_days}), `:out`, the directory that gets the files (by
  default `issued/<node>` in the authority's), `:trust`, directories of other authorities of the cluster
  that the node shall trust too: one, during a rotation.

  An `:out` that is there is replaced when it is empty, or this node's in the same role and cluster with nothing else
  in it; any other is refused. A running node whose directory is replaced reads it again, and its links go on.
  The files belong to who calls this: see that the node's user may read them.

  Durability: `{:ok, _}` means that the files and their names are synced; a crash, or another program that looks,
  finds wholly the certificate before or wholly the new one. What is put there was read back as the node will read it.
  Cost: a thread of ours; about ten syncs. Errors: of kind `:invalid` when the authority cannot be used (its key is
  lost or may be read by others, its time is over), for an `:out` that is another's, or a new one inside the base directory other than its `state/certificates`.

      iex> dir = Path.join(System.tmp_dir!(), "macula_authority_doc_issue")
      iex> File.rm_rf!(dir)
      iex> {:ok, _} = MaculaStorage.Authority.create(dir)
      iex> {:ok, %{node: "a@host", dir: out}} = MaculaStorage.Authority.issue(dir, :a@host)
      iex> File.ls!(out) |> Enum.sort()
      ["ca.pem", "cert.pem", "key.pem"]
      iex> {:ok, %{role: :client}} = MaculaStorage.Authority.issue(dir, "console", role: :client, days: 1)
      iex> File.rm_rf!(dir) |> length() > 0
      true
  """
  @spec issue(Path.t(), node_name, keyword) :: {:ok, certificate} | failure
  def issue(dir, node, options \\ []) do
    options =
      Options.validate!(options,
        role: {:member, {:one_of, [:member, :client]}},
        days: {@node_days, :positive},
        out: {nil, :any},
        trust: {[], :any}
      )

    dir = path!(dir, "a directory")
    node = node!(node, options.role)
    days = days!(options.days)
    out = path!(options.out || Path.join([dir, "issued", node]), "option :out")
    trust = trust!(options.trust)
    wanted = {node, options.role, days}
    call(:issue, out, &Native.authority_issue(&1, dir, base(), out, wanted, trust))
  end

  @doc """
  Tells what a directory is: an authority, or a node's certificate, whose, and until when.

  A certificate that has run out is told too, with `days_left` below zero. Watch `days_left`, and renew in time: a node whose
  certificate has run out gets no new links. Cost: a thread of ours; reads the files. Errors: `:not_found`; of kind `:invalid`
  for a directory of another kind, for a key that others may read, for files that do not belong together.

      iex> MaculaStorage.Authority.describe("/nothing/there")
      {:error, :not_found}
  """
  @spec describe(Path.t()) :: {:ok, authority | certificate} | failure
  def describe(dir) do
    dir = path!(dir, "a directory")
    call(:describe, dir, &Native.authority_read(&1, dir))
  end

  defp call(op, dir, start) do
    with {:ok, facts} <- Call.run(start, op: op), do: {:ok, told(facts, dir)}
  end

  defp told(%{from_ms: from_ms, until_ms: until_ms} = facts, dir) do
    left = Integer.floor_div(until_ms - System.os_time(:millisecond), @day_ms)

    facts
    |> Map.drop([:from_ms, :until_ms])
    |> Map.merge(%{
      dir: dir,
      days_left: left,
      valid_from: time(from_ms),
      valid_until: time(until_ms)
    })
  end

  defp time(ms), do: ms |> DateTime.from_unix!(:millisecond) |> DateTime.truncate(:second)

  defp base, do: Config.get().base_path

  defp path!(path, what) do
    text = text(path)

    if is_binary(text) and text != "" and not String.contains?(text, <<0>>),
      do: Path.expand(text),
      else:
        raise(ArgumentError, "expected #{what} to be a path, got: #{inspect(path, limit: 10)}")
  end

  defp days!(days) when days in 1..@days_max//1, do: days

  defp days!(days) do
    raise ArgumentError, "expected option :days to be 1 to #{@days_max}, got: #{inspect(days)}"
  end

  # One path, or several; Erlang's strings are lists themselves.
  defp trust!(paths) when is_list(paths) and paths != [] do
    if Enum.all?(paths, &is_integer/1), do: trust!([paths]), else: Enum.map(paths, &trusted!/1)
  end

  defp trust!([]), do: []
  defp trust!(path), do: [trusted!(path)]

  defp trusted!(path), do: path!(path, "option :trust")

  # As `node/0` gives it: what a member says of itself must be what its certificate says.
  defp node!(node, role) when is_atom(node) and node not in [nil, true, false],
    do: node!(Atom.to_string(node), role)

  defp node!(node, role) do
    name = text(node)

    cond do
      not (is_binary(name) and byte_size(name) in 1..@name_bytes_max and
             Regex.match?(~r/\A[^\s\/[:cntrl:]]+\z/u, name) and name not in [".", ".."]) ->
        bad_node!(
          node,
          "a name of 1 to #{@name_bytes_max} bytes without blanks and slashes"
        )

      role == :member and not Regex.match?(~r/\A[^@]+@[^@]+\z/, name) ->
        bad_node!(node, "a member's name as its node/0 has it, name@host")

      true ->
        name
    end
  end

  defp bad_node!(node, expected) do
    raise ArgumentError,
          "expected #{expected}, got: #{inspect(node, limit: 10, printable_limit: 80)}"
  end

  defp text(text) when is_binary(text), do: if(String.valid?(text), do: text)

  defp text([_ | _] = chars) do
    if List.improper?(chars), do: nil, else: chars_text(chars)
  end

  defp text(_other), do: nil

  defp chars_text(chars) do
    case :unicode.characters_to_binary(chars) do
      text when is_binary(text) -> text
      _not_text -> nil
    end
  rescue
    ArgumentError -> nil
  end
end
