defmodule MaculaStorage.AuthorityTest do
  @moduledoc "Certificates from Elixir: made, renewed, told about; what is refused changes nothing."
  use MaculaStorage.Case, async: true

  alias MaculaStorage.{Authority, Error}

  doctest MaculaStorage.Authority

  @files ["ca.pem", "cert.pem", "key.pem"]

  setup do
    dir = unique_dir("authority")
    ca = Path.join(dir, "ca")
    {:ok, authority} = Authority.create(ca)
    %{dir: dir, ca: ca, authority: authority}
  end

  defp mode(path), do: Bitwise.band(File.stat!(path).mode, 0o777)
  defp ls(dir), do: dir |> File.ls!() |> Enum.sort()
  defp contents(dir), do: for(name <- ls(dir), do: {name, File.read!(Path.join(dir, name))})

  defp refused(kind \\ :invalid, answer) do
    assert {:error, %Error{kind: ^kind} = error} = answer
    assert error.hint != nil
    Exception.message(error)
  end

  # What OTP, which is no code of ours, reads in it.
  defp certificate(path) do
    [entry | _] = path |> File.read!() |> :public_key.pem_decode()
    {:Certificate, der, :not_encrypted} = entry
    der
  end

  test "an authority, and a node's files", %{ca: ca, authority: authority} do
    assert %{kind: :authority, dir: ^ca, has_key: true, cluster: cluster, id: id} = authority
    assert {byte_size(cluster), byte_size(id)} == {32, 16}
    assert authority.days_left == 3649
    assert ls(ca) == ["authority", "ca.key", "ca.pem"]
    assert {mode(ca), mode(Path.join(ca, "ca.key"))} == {0o700, 0o600}

    assert {:ok, certificate} = Authority.issue(ca, :a@host)
    out = Path.join(ca, "issued/a@host")
    assert %{kind: :certificate, dir: ^out, node: "a@host", role: :member} = certificate
    assert %{cluster: ^cluster, issued_by: ^id, trusts: [^id], days_left: 364} = certificate
    assert ls(out) == @files
    assert {mode(out), mode(Path.join(out, "key.pem"))} == {0o700, 0o600}
    assert mode(Path.join(out, "cert.pem")) == 0o644
    assert Authority.describe(out) == {:ok, certificate}
    assert Authority.describe(ca) == {:ok, authority}

    key = File.read!(Path.join(ca, "ca.key"))
    for {_, bytes} <- contents(out), do: refute(bytes =~ key)
    assert DateTime.diff(certificate.valid_until, certificate.valid_from) == 365 * 86_400 + 3600
  end

  test "OTP finds the certificate good", %{ca: ca} do
    {:ok, %{dir: out}} = Authority.issue(ca, "a@host")
    {:ok, _} = Authority.create(ca <> "2", successor_of: ca)

    if Code.ensure_loaded?(:public_key) do
      [authority, other] = for dir <- [ca, ca <> "2"], do: certificate(Path.join(dir, "ca.pem"))
      node = certificate(Path.join(out, "cert.pem"))
      assert {:ok, _} = :public_key.pkix_path_validation(authority, [node], [])
      assert {:error, _} = :public_key.pkix_path_validation(other, [node], [])
    end
  end

  test "an authority is never overwritten", %{dir: dir, ca: ca} do
    before = contents(ca)
    assert {:error, :exists} = Authority.create(ca)
    assert {:error, :exists} = Authority.create(ca, successor_of: ca, days: 5)
    assert contents(ca) == before

    File.write!(Path.join(dir, "file"), "")
    File.mkdir!(Path.join(dir, "empty"))

    for name <- ["file", "empty"],
        do: assert({:error, :exists} = Authority.create(Path.join(dir, name)))

    # what is missing above it is made
    assert {:ok, _} = Authority.create(Path.join(dir, "a/b/c"))
    assert ls(dir) == ["a", "ca", "empty", "file"]
  end

  test "a client", %{dir: dir, ca: ca} do
    out = Path.join(dir, "client")

    assert {:ok, %{role: :client, node: "console"}} =
             Authority.issue(ca, "console", role: :client, out: out)

    assert {:ok, %{role: :client, dir: ^out}} = Authority.describe(out)
    # a member's is no client's
    assert refused(Authority.issue(ca, "console@host", out: out)) =~ "node=console role=client"
  end

  test "renewed in place, by a fresh key, and only its own", %{dir: dir, ca: ca} do
    out = Path.join(dir, "node")
    File.mkdir!(out)
    {:ok, _} = Authority.issue(ca, "a@host", out: out, days: 20)
    first = contents(out)
    assert {:ok, %{days_left: 39}} = Authority.issue(ca, "a@host", out: out, days: 40)
    second = contents(out)
    for name <- ["cert.pem", "key.pem"], do: refute(List.keyfind(first, name, 0) in second)

    assert refused(Authority.issue(ca, "b@host", out: out)) =~ "node=a@host"
    {:ok, _} = Authority.create(Path.join(dir, "other"))
    assert refused(Authority.issue(Path.join(dir, "other"), "a@host", out: out)) =~ "cluster="
    assert refused(Authority.issue(ca, "a@host", out: ca)) =~ "something else"
    assert contents(out) == second

    File.write!(Path.join(out, "notes"), "kept")
    assert refused(Authority.issue(ca, "a@host", out: out)) =~ "name=notes"
    File.write!(Path.join(dir, "file"), "kept")

    assert refused(Authority.issue(ca, "a@host", out: Path.join(dir, "file"))) =~
             "not a directory"

    assert File.read!(Path.join(dir, "file")) == "kept"
    # no half of anything stays beside it
    assert ls(dir) == ["ca", "file", "node", "other"]
  end

  # The directory that a node is told of may be a link: what it leads to is replaced, the link stays.
  test "a link to the node's directory", %{dir: dir, ca: ca} do
    {:ok, _} = Authority.issue(ca, "a@host", out: Path.join(dir, "v1"))
    File.ln_s!("v1", Path.join(dir, "link"))
    before = contents(Path.join(dir, "v1"))
    assert {:ok, _} = Authority.issue(ca, "a@host", out: Path.join(dir, "link"))
    assert File.read_link(Path.join(dir, "link")) == {:ok, "v1"}
    assert contents(Path.join(dir, "v1")) != before
  end

  test "the authority is replaced in three rounds", %{dir: dir, ca: old, authority: %{id: old_id}} do
    new = Path.join(dir, "new")

    assert {:ok, %{id: new_id, cluster: cluster}} =
             Authority.create(new, successor_of: old, days: 30)

    assert new_id != old_id
    assert {:ok, %{cluster: ^cluster}} = Authority.describe(old)

    out = Path.join(dir, "node")

    for {from, trust, issued_by, trusts} <- [
          {old, [new], old_id, [old_id, new_id]},
          {new, [old], new_id, [new_id, old_id]},
          {new, [], new_id, [new_id]}
        ] do
      assert {:ok, certificate} = Authority.issue(from, "a@host", out: out, trust: trust)
      assert {certificate.issued_by, certificate.trusts} == {issued_by, trusts}
    end

    # the old one's key is lost: it is still followed and trusted, but issues nothing
    File.rm!(Path.join(old, "ca.key"))
    assert {:ok, %{has_key: false}} = Authority.describe(old)
    assert {:ok, _} = Authority.create(Path.join(dir, "third"), successor_of: old)
    assert {:ok, _} = Authority.issue(new, "a@host", trust: [old])
    assert refused(Authority.issue(old, "a@host")) =~ "file=ca.key"

    # of another cluster, or more than two
    {:ok, _} = Authority.create(Path.join(dir, "stranger"))
    strange = [Path.join(dir, "stranger")]
    assert {:error, %Error{kind: :invalid}} = Authority.issue(new, "a@host", trust: strange)
    many = [old, Path.join(dir, "third")]
    assert {:error, %Error{kind: :invalid}} = Authority.issue(new, "a@host", trust: many)
  end

  test "what is no authority", %{dir: dir, ca: ca} do
    {:ok, %{dir: out}} = Authority.issue(ca, "a@host")
    missing = Path.join(dir, "missing")

    for bad <- [missing, dir, out] do
      message = refused(Authority.issue(bad, "a@host", out: Path.join(dir, "out")))
      assert message =~ "dir=#{bad}" and message =~ "create one"
      refused(Authority.issue(ca, "a@host", trust: [bad], out: Path.join(dir, "out")))
      refused(Authority.create(Path.join(dir, "out"), successor_of: bad))
    end

    assert {:error, :not_found} = Authority.describe(missing)
    assert {:error, %Error{kind: :invalid}} = Authority.describe(dir)
    assert {:error, %Error{kind: :invalid}} = Authority.describe("/")
    refute File.exists?(Path.join(dir, "out"))

    File.chmod!(Path.join(ca, "ca.key"), 0o640)
    assert refused(Authority.issue(ca, "a@host")) =~ "other users may read the key"
    File.chmod!(Path.join(ca, "ca.key"), 0o600)

    about = File.read!(Path.join(ca, "authority"))

    File.write!(
      Path.join(ca, "authority"),
      String.replace(about, "macula-authority 1", "macula-authority 2")
    )

    assert refused(:newer_format, Authority.describe(ca)) =~ "format=2"
    assert refused(:newer_format, Authority.issue(ca, "a@host")) =~ "use the version"
  end

  test "no authority on a member, and its base directory left alone", %{dir: dir, ca: ca} do
    inside = Path.join(base_path(), "authority-#{System.unique_integer([:positive])}")
    on_exit(fn -> File.rm_rf!(inside) end)
    assert refused(Authority.create(inside)) =~ "on no member"
    assert refused(Authority.issue(ca, "a@host", out: inside)) =~ "the library's own"
    refute File.exists?(inside)
    # by whatever way
    File.ln_s!(base_path(), Path.join(dir, "link"))
    linked = Path.join([dir, "link", Path.basename(inside)])
    assert refused(Authority.create(linked)) =~ "on no member"
    assert refused(Authority.issue(ca, "a@host", out: linked)) =~ "the library's own"

    # where a node looks for it unless told
    its = Path.join(base_path(), "state/certificates")
    on_exit(fn -> File.rm_rf!(its) end)
    for _ <- 1..2, do: assert({:ok, _} = Authority.issue(ca, "a@host", out: its))
    assert ls(its) == @files

    # a node's certificate that lies there is renewed; an authority that does issues nothing
    {:ok, %{dir: out}} = Authority.issue(ca, "a@host")
    File.cp_r!(out, inside)
    before = contents(inside)
    assert {:ok, _} = Authority.issue(ca, "a@host", out: inside)
    assert ls(inside) == @files and contents(inside) != before
    File.rm_rf!(inside)
    File.cp_r!(ca, inside)

    assert refused(Authority.issue(inside, "a@host", out: Path.join(dir, "out"))) =~
             "on no member"
  end

  test "misuse", %{dir: dir, ca: ca} do
    out = Path.join(dir, "out")

    for {bad, part} <- [
          {fn -> Authority.create(out, day: 3) end, "unknown option :day"},
          {fn -> Authority.create(out, days: 0) end, ":days"},
          {fn -> Authority.create(out, days: 36_501) end, ":days"},
          {fn -> Authority.create("") end, "to be a path"},
          {fn -> Authority.create(<<"a", 0>>) end, "to be a path"},
          {fn -> Authority.create(nil) end, "to be a path"},
          {fn -> Authority.create(out, successor_of: :ca) end, ":successor_of"},
          {fn -> Authority.issue(ca, "a@host", role: :admin) end, ":role"},
          {fn -> Authority.issue(ca, "a@host", trust: [1, :a]) end, ":trust"},
          {fn -> Authority.issue(ca, "a@host", trust: %{}) end, ":trust"},
          {fn -> Authority.issue(ca, "a@host", out: 1) end, ":out"},
          {fn -> Authority.describe([1 | 2]) end, "to be a path"}
          | for name <- [
                  nil,
                  true,
                  1,
                  "",
                  "a b@host",
                  "../a@host",
                  "a@host\n",
                  ".",
                  "a",
                  "a@",
                  "@a",
                  "a@b@c",
                  <<255>>
                ] do
              {fn -> Authority.issue(ca, name, out: out) end, "name"}
            end
        ] do
      error = assert_raise ArgumentError, bad
      assert {part, Exception.message(error) =~ part} == {part, true}
    end

    assert_raise ArgumentError, fn ->
      Authority.issue(ca, String.duplicate("a", 96) <> "@host", out: out)
    end

    assert {:ok, _} = Authority.issue(ca, String.duplicate("a", 95) <> "@host", out: out)
  end
end
