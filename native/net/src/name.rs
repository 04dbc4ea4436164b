//! Who speaks: the name of a node, its cluster, its role; and how these stand in a certificate.
//!
//! A certificate has exactly one DNS name, `<name in hex>.<role>.<cluster in hex>.macula`, so that
//! webpki reads it back and no parser of ours meets a stranger's certificate. Invariant: one [`Peer`]
//! has one such name, and another spelling of it is no name at all.

use crate::NetError;
use rustls::pki_types::CertificateDer;
use std::fmt;
use std::sync::Arc;
use webpki::EndEntityCert;

/// Longest name of a node, bytes: what fits a DNS name beside the rest.
pub const NODE_NAME_LEN_MAX: usize = 100;
/// The last label: nobody's domain.
const SUFFIX: &str = "macula";
/// Hexadecimal digits in a label; DNS allows 63.
const LABEL_LEN: usize = 60;

/// The name of a node, any bytes: `console@10.0.0.1`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeName(Arc<[u8]>);

impl NodeName {
    /// A name of 1 to [`NODE_NAME_LEN_MAX`] bytes.
    ///
    /// # Errors
    /// [`NetError::Invalid`] for another length.
    pub fn new(bytes: &[u8]) -> Result<Self, NetError> {
        match bytes.len() {
            1..=NODE_NAME_LEN_MAX => Ok(Self(bytes.into())),
            len => Err(NetError::Invalid(format!("a node's name is 1 to {NODE_NAME_LEN_MAX} bytes long: len={len}"))),
        }
    }

    /// As given.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Display for NodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.escape_ascii().fmt(f)
    }
}

impl fmt::Debug for NodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

/// A cluster, by the number that its first authority drew.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClusterId(pub [u8; 16]);

impl ClusterId {
    /// From 32 hexadecimal digits, lower case.
    pub fn parse(text: &str) -> Option<Self> {
        of_hex(text).and_then(|bytes| bytes.try_into().ok()).map(Self)
    }
}

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&to_hex(&self.0))
    }
}

impl fmt::Debug for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// One of the authorities of a cluster, by the number that it drew.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AuthorityId(pub [u8; 8]);

impl AuthorityId {
    /// From 16 hexadecimal digits, lower case.
    pub fn parse(text: &str) -> Option<Self> {
        of_hex(text).and_then(|bytes| bytes.try_into().ok()).map(Self)
    }
}

impl fmt::Display for AuthorityId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&to_hex(&self.0))
    }
}

impl fmt::Debug for AuthorityId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What a node may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Listens, and opens links of any purpose.
    Member = 1,
    /// Opens links of purpose [`Purpose::Client`] only; its certificate cannot listen.
    Client = 2,
}

impl Role {
    pub(crate) fn of(byte: u8) -> Option<Self> {
        [Self::Member, Self::Client].into_iter().find(|role| *role as u8 == byte)
    }

    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Member => "member",
            Self::Client => "client",
        }
    }
}

/// What a link is for. Each purpose has a connection of its own, so that a large file does not stand
/// before a heartbeat.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Purpose {
    /// Raft's messages.
    Raft = 1,
    /// Chunks of files and snapshots.
    Bulk = 2,
    /// Requests to the cluster from its clients, and from members for their callers.
    Client = 3,
}

impl Purpose {
    pub(crate) fn of(byte: u8) -> Option<Self> {
        [Self::Raft, Self::Bulk, Self::Client].into_iter().find(|purpose| *purpose as u8 == byte)
    }
}

/// The other side of a link, as its verified certificate says (over plain TCP: as it says itself).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Peer {
    /// Its name.
    pub node: NodeName,
    /// What it may do.
    pub role: Role,
    /// Where it belongs.
    pub cluster: ClusterId,
}

impl Peer {
    /// The name that stands in its certificate.
    pub(crate) fn dns_name(&self) -> String {
        let mut name = String::new();
        for label in to_hex(self.node.as_bytes()).as_bytes().chunks(LABEL_LEN) {
            name.extend(label.iter().map(|digit| char::from(*digit)));
            name.push('.');
        }
        format!("{name}{}.{}.{SUFFIX}", self.role.label(), self.cluster)
    }

    pub(crate) fn of_dns_name(name: &str) -> Option<Self> {
        let mut labels = name.rsplitn(4, '.');
        let suffix = labels.next()?;
        let cluster = ClusterId::parse(labels.next()?)?;
        let role = labels.next()?;
        let node = NodeName::new(&of_hex(&labels.next()?.replace('.', ""))?).ok()?;
        let role = [Role::Member, Role::Client].into_iter().find(|known| known.label() == role)?;
        let peer = Self { node, role, cluster };
        (suffix == SUFFIX && peer.dns_name() == name).then_some(peer)
    }

    /// Of a certificate that was verified.
    pub(crate) fn of_certificate(certificate: &CertificateDer<'_>) -> Result<Self, NetError> {
        let parsed = EndEntityCert::try_from(certificate).map_err(|error| NetError::Tls(error.to_string()))?;
        let mut names = parsed.valid_dns_names();
        match (names.next(), names.next()) {
            (Some(name), None) => Self::of_dns_name(name),
            _ => None,
        }
        .ok_or_else(|| NetError::Tls("the certificate does not name one node of a cluster".into()))
    }
}

pub(crate) fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

pub(crate) fn of_hex(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let pairs = text.as_bytes().chunks(2);
    pairs.map(|pair| Some(digit(*pair.first()?)? << 4 | digit(*pair.get(1)?)?)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_peer_has_one_name_that_dns_allows() {
        for len in 1..=NODE_NAME_LEN_MAX {
            for role in [Role::Member, Role::Client] {
                let bytes: Vec<u8> = (0..len).map(|at| (at * 37 + len) as u8).collect();
                let peer =
                    Peer { node: NodeName::new(&bytes).expect("allowed"), role, cluster: ClusterId([len as u8; 16]) };
                let name = peer.dns_name();
                assert!(name.len() <= 253 && name.split('.').all(|label| (1..=63).contains(&label.len())), "{name}");
                assert_eq!(Peer::of_dns_name(&name), Some(peer));
            }
        }
        assert!(NodeName::new(&[]).is_err() && NodeName::new(&[0; NODE_NAME_LEN_MAX + 1]).is_err());
    }

    #[test]
    fn another_spelling_is_no_name() {
        let id = "00112233445566778899aabbccddeeff";
        let good = format!("6161.member.{id}.macula");
        assert_eq!(Peer::of_dns_name(&good).map(|peer| peer.node.as_bytes().to_vec()), Some(b"aa".to_vec()));
        for bad in [
            format!("6161.MEMBER.{id}.macula"),
            format!("61.61.member.{id}.macula"),
            format!("616.member.{id}.macula"),
            format!("6161.admin.{id}.macula"),
            format!("6161.member.{}.macula", id.to_uppercase()),
            format!("6161.member.{id}.macula."),
            format!("6161.member.{id}.example"),
            format!("member.{id}.macula"),
            format!("*.member.{id}.macula"),
            format!("6161.member.{}.macula", &id[1..]),
            String::new(),
        ] {
            assert_eq!(Peer::of_dns_name(&bad), None, "{bad}");
        }
    }
}
