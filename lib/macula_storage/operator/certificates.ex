defmodule MaculaStorage.Operator.Certificates do
  @moduledoc false
  # What an operator is told about certificates: what was made, until when it is good, what to do next.
  #
  # Invariant: nothing of a key is ever printed.

  alias MaculaStorage.{Authority, Error, Options}

  # From then on a certificate's end is told as a warning.
  @days_left_warn 30

  @doc "Makes an authority."
  @spec init(Path.t(), keyword) :: {:ok, map, iodata} | {:error, term}
  def init(dir, options) do
    case Authority.create(dir, options) do
      {:ok, authority} -> {:ok, authority, init_text(authority)}
      {:error, :exists} -> {:error, exists(dir)}
      {:error, _} = error -> error
    end
  end

  defp init_text(authority) do
    """
    authority #{authority.id} of cluster #{authority.cluster}
    in #{authority.dir}, issues until #{authority.valid_until}
    next: keep #{authority.dir} off the members, and keep a copy of it where nobody else reads it;
    mix macula.cluster.issue #{authority.dir} NODE for each node\
    """
  end

  @doc "Issues or renews a node's certificate."
  @spec issue(Path.t(), Authority.node_name(), keyword) :: {:ok, map, iodata} | {:error, term}
  def issue(dir, node, options) do
    with {:ok, certificate} <- Authority.issue(dir, node, options) do
      {:ok, certificate, issue_text(certificate)}
    end
  end

  defp issue_text(certificate) do
    """
    #{text(certificate)}
    next: copy ca.pem, cert.pem and key.pem to a directory of that node which its user reads and nobody else
    does, and name it there: config :macula_storage, state_certificates: "/path/to/it"\
    """
  end

  @doc "Tells what a directory is."
  @spec show(Path.t(), keyword) :: {:ok, map, iodata} | {:error, term}
  def show(dir, options) do
    %{} = Options.validate!(options, [])

    case Authority.describe(dir) do
      {:ok, facts} -> {:ok, facts, text(facts)}
      {:error, :not_found} -> {:error, not_found(dir)}
      {:error, _} = error -> error
    end
  end

  defp text(%{kind: :authority} = authority) do
    key = if authority.has_key, do: "", else: "\nits key is not there: it issues nothing"

    """
    authority #{authority.id} of cluster #{authority.cluster}
    in #{authority.dir}, issues #{until(authority)}#{key}\
    """
  end

  defp text(%{kind: :certificate} = certificate) do
    """
    certificate of #{certificate.node}, #{certificate.role} of cluster #{certificate.cluster}
    in #{certificate.dir}, valid #{until(certificate)}
    issued by authority #{certificate.issued_by}, trusts #{Enum.join(certificate.trusts, " and ")}\
    """
  end

  defp until(%{days_left: left, valid_until: until}) do
    cond do
      left < 0 -> "until #{until}: it has run out, issue it again"
      left <= @days_left_warn -> "until #{until}, #{left} days left: issue it again soon"
      true -> "until #{until}, #{left} days left"
    end
  end

  defp exists(dir) do
    error(
      :exists,
      "something is there already, and was left alone: dir=#{dir}",
      "name a directory that is not there; a successor to an authority is made by --successor-of DIR"
    )
  end

  defp not_found(dir), do: error(:not_found, "no such directory: dir=#{dir}", nil)

  defp error(kind, message, hint),
    do: %Error{kind: kind, op: :certificates, app: nil, message: message, hint: hint}
end
