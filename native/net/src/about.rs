//! What a directory is, for its operator: an authority's or a node's, whose, and until when.
//!
//! Invariant: of a node it tells what [`crate::Identity`] took when the certificate was issued. So one
//! that has run out is still told, and files that do not fit together never are.

use crate::authority::{authority_name, read_text, ABOUT_FILE, CA_FILE, CA_KEY_FILE, CERT_FILE, KEY_FILE};
use crate::identity::{certificates, read};
use crate::validity::element;
use crate::{Authority, AuthorityId, ClusterId, NetError, Peer, Validity};
use macula_core::{Clock, Disk, FileKind, RelPath};
use std::io;
use std::sync::Arc;
use std::time::Duration;

/// What a directory is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum About {
    /// An authority's.
    Authority(AuthorityFacts),
    /// A node's.
    Node(NodeFacts),
}

/// Of an authority.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuthorityFacts {
    /// Its cluster.
    pub cluster: ClusterId,
    /// Which of the cluster's authorities.
    pub id: AuthorityId,
    /// From when until when it issues.
    pub validity: Validity,
    /// Whether its key is there.
    pub has_key: bool,
}

/// Of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeFacts {
    /// Who it is.
    pub peer: Peer,
    /// The authority that issued its certificate.
    pub issued_by: AuthorityId,
    /// Those that it trusts, in the order of its bundle.
    pub trusts: Vec<AuthorityId>,
    /// From when until when its certificate is valid.
    pub validity: Validity,
}

impl About {
    /// Of the directory `dir`.
    ///
    /// # Errors
    /// [`NetError::Io`] when it is not there or may not be read; [`NetError::Invalid`] for one of another
    /// kind; [`NetError::Identity`] or [`NetError::NewerFormat`] for files that cannot be used.
    pub fn of(disk: &dyn Disk, dir: &RelPath) -> Result<Self, NetError> {
        let stat = disk.stat(dir).map_err(NetError::io("look into a directory"))?;
        if stat.kind != FileKind::Dir {
            return Err(NetError::Invalid("not a directory".into()));
        }
        if has(disk, dir, ABOUT_FILE)? {
            let authority = Authority::open_public(disk, dir)?;
            let (cluster, id, validity) = (authority.cluster(), authority.id(), authority.validity());
            let has_key = has(disk, dir, CA_KEY_FILE)?;
            return Ok(Self::Authority(AuthorityFacts { cluster, id, validity, has_key }));
        }
        if has(disk, dir, CERT_FILE)? || has(disk, dir, KEY_FILE)? {
            return node(disk, dir).map(Self::Node);
        }
        Err(NetError::Invalid("neither an authority nor a node's certificate".into()))
    }
}

/// Of a node's directory.
pub(crate) fn node(disk: &dyn Disk, dir: &RelPath) -> Result<NodeFacts, NetError> {
    let clock: Arc<dyn Clock> = Arc::new(WhenIssued);
    let keys = read(disk, dir, &clock)?;
    let cert = certificates(CERT_FILE, &read_text(disk, dir, CERT_FILE)?, 1)?.remove(0);
    let issued_by = names(&cert).and_then(|(issuer, _)| parse_name(issuer));
    let (_, issued_by) = issued_by.ok_or_else(|| NetError::identity(CERT_FILE, "not issued by an authority"))?;
    let trusts = certificates(CA_FILE, &read_text(disk, dir, CA_FILE)?, crate::authority::TRUST_MAX)?;
    let trusts = trusts.iter().map(|cert| authority_of(cert).map(|(_, id)| id));
    let trusts = trusts.collect::<Option<Vec<_>>>();
    let trusts = trusts.ok_or_else(|| NetError::identity(CA_FILE, "not an authority's certificate"))?;
    Ok(NodeFacts { peer: keys.peer.clone(), issued_by, trusts, validity: keys.validity })
}

/// Whose certificate there is, whatever else is.
pub(crate) fn peer(disk: &dyn Disk, dir: &RelPath) -> Result<Peer, NetError> {
    let cert = certificates(CERT_FILE, &read_text(disk, dir, CERT_FILE)?, 1)?.remove(0);
    Peer::of_certificate(&cert)
}

/// Who an authority is, and until when, as its certificate says.
pub(crate) fn authority_of_certificate(pem: &str) -> Result<((ClusterId, AuthorityId), Validity), NetError> {
    let cert = certificates(CA_FILE, pem, 1)?.remove(0);
    authority_of(&cert)
        .zip(Validity::of(&cert))
        .ok_or_else(|| NetError::identity(CA_FILE, "not an authority's certificate"))
}

fn authority_of(der: &[u8]) -> Option<(ClusterId, AuthorityId)> {
    names(der).and_then(|(_, subject)| parse_name(subject))
}

fn parse_name(name: &str) -> Option<(ClusterId, AuthorityId)> {
    let (cluster, id) = name.strip_prefix("macula ")?.split_once(' ')?;
    let (cluster, id) = (ClusterId::parse(cluster)?, AuthorityId::parse(id)?);
    (authority_name(cluster, id) == name).then_some((cluster, id))
}

/// The common names of a certificate's issuer and subject; a node has none.
fn names(der: &[u8]) -> Option<(&str, &str)> {
    let (_, certificate, _) = element(der)?;
    let (_, mut fields, _) = element(certificate)?;
    // version, serial number, algorithm
    for _ in 0..3 {
        fields = element(fields)?.2;
    }
    let (_, issuer, fields) = element(fields)?;
    let (_, _validity, fields) = element(fields)?;
    let (_, subject, _) = element(fields)?;
    Some((common_name(issuer)?, common_name(subject).unwrap_or_default()))
}

/// The text of the one attribute of a name that is ours.
fn common_name(name: &[u8]) -> Option<&str> {
    let (_, set, _) = element(name)?;
    let (_, attribute, _) = element(set)?;
    let (_, _kind, rest) = element(attribute)?;
    let (_, text, _) = element(rest)?;
    std::str::from_utf8(text).ok()
}

fn has(disk: &dyn Disk, dir: &RelPath, file: &str) -> Result<bool, NetError> {
    let path = dir.join(file).map_err(|error| NetError::Invalid(error.to_string()))?;
    match disk.stat(&path) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(NetError::io("look into a directory")(error)),
    }
}

/// The instant of the issue: an identity takes no earlier time than that.
#[derive(Debug)]
struct WhenIssued;

impl Clock for WhenIssued {
    fn wall_ms(&self) -> u64 {
        0
    }

    fn monotonic(&self) -> Duration {
        Duration::ZERO
    }

    fn sleep(&self, _span: Duration) {}
}
