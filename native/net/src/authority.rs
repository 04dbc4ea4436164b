//! The authority of a cluster: draws its id, holds its key, issues a directory of files per node.
//!
//! Invariant: nothing is ever overwritten. A directory is built under another name, synced and renamed,
//! so it is there whole or not at all. An authority's certificate is bound to its cluster's names, so
//! even one that leaked vouches for nobody elsewhere. The key belongs on no member.

use crate::about::authority_of_certificate;
use crate::{AuthorityId, ClusterId, NetError, NodeName, Peer, Role, Validity};
use macula_core::{read_all, remove_tree, Chance, Clock, Disk, RelPath};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, GeneralSubtree, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, NameConstraints,
};
use std::fmt;
use std::io;
use time::OffsetDateTime;

/// The certificates of the authorities that a node trusts: one, two during a rotation.
pub const CA_FILE: &str = "ca.pem";
/// A node's own certificate.
pub const CERT_FILE: &str = "cert.pem";
/// Its key, mode 0600.
pub const KEY_FILE: &str = "key.pem";
/// An authority's key, mode 0600.
pub const CA_KEY_FILE: &str = "ca.key";
/// An authority's id and label.
pub const ABOUT_FILE: &str = "authority";

/// How long an authority issues unless told, days. What ends its trust is its absence from the nodes'
/// bundles, not this.
pub const AUTHORITY_DAYS: u32 = 3650;
/// How long a node's certificate is valid unless told, days.
pub const NODE_DAYS: u32 = 365;
/// Certificates begin that long before they are issued: machines' clocks differ.
pub const BACKDATED_MS: u64 = 3_600_000;
/// Authorities in a bundle.
pub const TRUST_MAX: usize = 2;

const ABOUT_HEAD: &str = "macula-authority ";
const ABOUT_VERSION: &str = "1";
const DAY_MS: u64 = 86_400_000;
const FILE_LEN_MAX: u64 = 64 << 10;
const PRIVATE: u32 = 0o600;
const PUBLIC: u32 = 0o644;

/// The authority of a cluster.
pub struct Authority {
    cluster: ClusterId,
    id: AuthorityId,
    validity: Validity,
    /// Not there when only its word is wanted: whom to trust, which cluster to follow.
    key: Option<KeyPair>,
    pem: String,
}

/// A certificate that is wanted.
#[derive(Debug)]
pub struct Issue<'a> {
    /// For whom.
    pub node: &'a NodeName,
    /// What it may do.
    pub role: Role,
    /// For how long.
    pub days: u32,
    /// Whom the node shall trust: the authority itself, and during a rotation a second one.
    pub trust: &'a [&'a Authority],
}

impl Authority {
    /// A new authority of a new cluster in the directory `dir`, which must not exist.
    ///
    /// # Errors
    /// [`NetError::Exists`]; [`NetError::Io`].
    pub fn create(disk: &dyn Disk, dir: &RelPath, clock: &dyn Clock, chance: &dyn Chance) -> Result<Self, NetError> {
        Self::found(None, AUTHORITY_DAYS, disk, dir, clock, chance)
    }

    /// A second authority of the same cluster, to rotate to.
    ///
    /// # Errors
    /// As [`Authority::create`].
    pub fn successor(
        &self,
        disk: &dyn Disk,
        dir: &RelPath,
        clock: &dyn Clock,
        chance: &dyn Chance,
    ) -> Result<Self, NetError> {
        Self::found(Some(self), AUTHORITY_DAYS, disk, dir, clock, chance)
    }

    /// A new authority that issues for `days`: of the cluster of the one `before`, else of a new one.
    ///
    /// # Errors
    /// As [`Authority::create`].
    pub fn found(
        before: Option<&Self>,
        days: u32,
        disk: &dyn Disk,
        dir: &RelPath,
        clock: &dyn Clock,
        chance: &dyn Chance,
    ) -> Result<Self, NetError> {
        refuse_existing(disk, dir)?;
        let mut drawn = [0; 16];
        chance.fill(&mut drawn);
        let cluster = before.map_or(ClusterId(drawn), Self::cluster);
        let id = AuthorityId(chance.next_u64().to_le_bytes());
        let key = KeyPair::generate().map_err(unmade)?;
        let mut params = authority_params(cluster, id);
        set_validity(&mut params, clock.wall_ms(), days)?;
        let cert = params.self_signed(&key).map_err(unmade)?;
        let validity = Validity::of(cert.der()).ok_or_else(|| NetError::identity(CA_FILE, "not a certificate"))?;
        let pem = cert.pem();
        let about = format!("{ABOUT_HEAD}{ABOUT_VERSION}\ncluster {cluster}\nlabel {id}\n");
        let files =
            [(CA_KEY_FILE, PRIVATE, key.serialize_pem()), (CA_FILE, PUBLIC, pem.clone()), (ABOUT_FILE, PUBLIC, about)];
        publish(disk, dir, chance, &files)?;
        Ok(Self { cluster, id, validity, key: Some(key), pem })
    }

    /// The authority in the directory `dir`.
    ///
    /// # Errors
    /// [`NetError::Identity`] for files that are not an authority's; [`NetError::NewerFormat`];
    /// [`NetError::Io`].
    pub fn open(disk: &dyn Disk, dir: &RelPath) -> Result<Self, NetError> {
        let opened = Self::open_public(disk, dir)?;
        let key = read_private(disk, dir, CA_KEY_FILE)?;
        let key = KeyPair::from_pem(&key).map_err(|error| NetError::identity(CA_KEY_FILE, error))?;
        Ok(Self { key: Some(key), ..opened })
    }

    /// The same without its key, which may be lost: it can be trusted and followed, and issues nothing.
    ///
    /// # Errors
    /// As [`Authority::open`].
    pub fn open_public(disk: &dyn Disk, dir: &RelPath) -> Result<Self, NetError> {
        let (cluster, id) = parse_about(&read_text(disk, dir, ABOUT_FILE)?)?;
        let pem = read_text(disk, dir, CA_FILE)?;
        let (certified, validity) = authority_of_certificate(&pem)?;
        if certified != (cluster, id) {
            return Err(NetError::identity(CA_FILE, "of another authority"));
        }
        Ok(Self { cluster, id, validity, key: None, pem })
    }

    /// Its cluster.
    pub fn cluster(&self) -> ClusterId {
        self.cluster
    }

    /// Which of its cluster's authorities it is.
    pub fn id(&self) -> AuthorityId {
        self.id
    }

    /// From when until when it issues.
    pub fn validity(&self) -> Validity {
        self.validity
    }

    /// Issue a node's certificate with a fresh key: the directory `dir`, which must not exist, with all
    /// that [`crate::Identity`] needs. A node that has one already gets the new one by [`install`].
    ///
    /// # Errors
    /// [`NetError::Exists`]; [`NetError::Invalid`] for a trust that is empty, too long or of another
    /// cluster; [`NetError::Expired`] when this authority's own time is over; [`NetError::Io`].
    pub fn issue(
        &self,
        disk: &dyn Disk,
        dir: &RelPath,
        wanted: &Issue<'_>,
        clock: &dyn Clock,
        chance: &dyn Chance,
    ) -> Result<(), NetError> {
        refuse_existing(disk, dir)?;
        if !(1..=TRUST_MAX).contains(&wanted.trust.len()) {
            return Err(NetError::Invalid(format!("a node trusts 1 to {TRUST_MAX} authorities")));
        }
        if wanted.trust.iter().any(|other| other.cluster != self.cluster) {
            return Err(NetError::Invalid("a node trusts authorities of its own cluster only".into()));
        }
        if clock.wall_ms() > self.validity.until_ms {
            return Err(NetError::Expired { until_ms: self.validity.until_ms });
        }
        let issuing = self.key.as_ref().ok_or_else(|| NetError::identity(CA_KEY_FILE, "opened without it"))?;
        let peer = Peer { node: wanted.node.clone(), role: wanted.role, cluster: self.cluster };
        let key = KeyPair::generate().map_err(unmade)?;
        let mut params = node_params(&peer)?;
        set_validity(&mut params, clock.wall_ms(), wanted.days)?;
        let issuer = Issuer::new(authority_params(self.cluster, self.id), issuing);
        let cert = params.signed_by(&key, &issuer).map_err(unmade)?;
        let trust: String = wanted.trust.iter().map(|authority| authority.pem.as_str()).collect();
        let files =
            [(KEY_FILE, PRIVATE, key.serialize_pem()), (CERT_FILE, PUBLIC, cert.pem()), (CA_FILE, PUBLIC, trust)];
        publish(disk, dir, chance, &files)
    }
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority").field("cluster", &self.cluster).field("id", &self.id).finish_non_exhaustive()
    }
}

/// Put the directory `fresh`, as [`Authority::issue`] made it, in the place of `dir`: wholly the old
/// files or wholly the new ones, also for a reader in between. What was in `dir` is removed.
///
/// # Errors
/// [`NetError::Io`]; after one, `dir` is still one of the two.
pub fn install(disk: &dyn Disk, fresh: &RelPath, dir: &RelPath) -> Result<(), NetError> {
    let failed = NetError::io("install an identity");
    let absent = matches!(disk.stat(dir), Err(error) if error.kind() == io::ErrorKind::NotFound);
    if absent {
        disk.rename(fresh, dir).map_err(&failed)?;
    } else {
        disk.exchange(fresh, dir).map_err(&failed)?;
    }
    disk.sync_dir(&dir.parent()).map_err(&failed)?;
    if !absent {
        remove_tree(disk, fresh).map_err(&failed)?;
    }
    disk.sync_dir(&fresh.parent()).map_err(&failed)
}

/// What the certificate of an authority says but its validity: the same each time, because the nodes'
/// certificates repeat it.
fn authority_params(cluster: ClusterId, id: AuthorityId) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, authority_name(cluster, id));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let names = GeneralSubtree::DnsName(format!("{cluster}.macula"));
    params.name_constraints = Some(NameConstraints { permitted_subtrees: vec![names], excluded_subtrees: Vec::new() });
    params
}

fn node_params(peer: &Peer) -> Result<CertificateParams, NetError> {
    let mut params = CertificateParams::new(vec![peer.dns_name()]).map_err(unmade)?;
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = match peer.role {
        Role::Member => vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth],
        Role::Client => vec![ExtendedKeyUsagePurpose::ClientAuth],
    };
    Ok(params)
}

fn set_validity(params: &mut CertificateParams, now_ms: u64, days: u32) -> Result<(), NetError> {
    let instant = |ms: u64| {
        OffsetDateTime::from_unix_timestamp((ms / 1000) as i64)
            .map_err(|_| NetError::Invalid(format!("no date of a certificate: ms={ms}")))
    };
    params.not_before = instant(now_ms.saturating_sub(BACKDATED_MS))?;
    params.not_after = instant(now_ms.saturating_add(u64::from(days) * DAY_MS))?;
    Ok(())
}

/// The common name of an authority's certificate.
pub(crate) fn authority_name(cluster: ClusterId, id: AuthorityId) -> String {
    format!("macula {cluster} {id}")
}

fn parse_about(text: &str) -> Result<(ClusterId, AuthorityId), NetError> {
    let mut lines = text.lines();
    match lines.next().and_then(|head| head.strip_prefix(ABOUT_HEAD)) {
        Some(ABOUT_VERSION) => {}
        Some(version) if version.bytes().all(|digit| digit.is_ascii_digit()) && !version.is_empty() => {
            return Err(NetError::NewerFormat { file: ABOUT_FILE, version: version.to_owned() });
        }
        _ => return Err(NetError::identity(ABOUT_FILE, "not what is written about an authority")),
    }
    let mut value = |name| lines.next()?.strip_prefix(name);
    let cluster = value("cluster ").and_then(ClusterId::parse);
    let id = value("label ").and_then(AuthorityId::parse);
    cluster.zip(id).ok_or_else(|| NetError::identity(ABOUT_FILE, "not what is written about an authority"))
}

fn unmade(error: rcgen::Error) -> NetError {
    NetError::Invalid(format!("a certificate could not be made: {error}"))
}

fn refuse_existing(disk: &dyn Disk, dir: &RelPath) -> Result<(), NetError> {
    match disk.stat(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(NetError::io("look for an authority or identity")(error)),
        Ok(_) => Err(NetError::Exists(dir.as_path().display().to_string())),
    }
}

/// Another name beside `dir`.
pub(crate) fn sibling(dir: &RelPath, name: String) -> Result<RelPath, NetError> {
    let parent = dir.parent();
    let path = if parent.is_root() { RelPath::new(name) } else { parent.join(name) };
    path.map_err(|error| NetError::Invalid(error.to_string()))
}

/// A directory with these files, there whole and durable or not at all.
fn publish(disk: &dyn Disk, dir: &RelPath, chance: &dyn Chance, files: &[(&str, u32, String)]) -> Result<(), NetError> {
    let failed = NetError::io("write an authority or identity");
    let building = sibling(dir, format!(".{:016x}.new", chance.next_u64()))?;
    let written = (|| {
        macula_core::create_dir_all(disk, &dir.parent())?;
        disk.create_dir(&building)?;
        disk.set_dir_meta(&building, 0o700, disk.stat(&building)?.mtime_ns)?;
        for (name, mode, text) in files {
            let path = building.join(name).map_err(|error| io::Error::new(io::ErrorKind::InvalidFilename, error))?;
            let file = disk.create(&path, *mode)?;
            file.write_all_at(text.as_bytes(), 0)?;
            file.sync_data()?;
        }
        disk.sync_dir(&building)?;
        disk.rename(&building, dir)?;
        disk.sync_dir(&dir.parent())
    })();
    written.map_err(|error: io::Error| {
        // nobody looks at it; its name is never used again
        let _ = remove_tree(disk, &building);
        match error.kind() {
            io::ErrorKind::AlreadyExists | io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::NotADirectory => {
                NetError::Exists(dir.as_path().display().to_string())
            }
            _ => failed(error),
        }
    })
}

pub(crate) fn read_text(disk: &dyn Disk, dir: &RelPath, name: &str) -> Result<String, NetError> {
    let path = dir.join(name).map_err(|error| NetError::Invalid(error.to_string()))?;
    let bytes = read_all(disk, &path, FILE_LEN_MAX).map_err(|error| NetError::identity(name, error))?;
    String::from_utf8(bytes).map_err(|error| NetError::identity(name, error))
}

/// A key that others can read is nobody's.
pub(crate) fn read_private(disk: &dyn Disk, dir: &RelPath, name: &str) -> Result<String, NetError> {
    let path = dir.join(name).map_err(|error| NetError::Invalid(error.to_string()))?;
    let stat = disk.stat(&path).map_err(|error| NetError::identity(name, error))?;
    if stat.mode & 0o077 != 0 {
        return Err(NetError::identity(name, format!("other users may read the key: mode={:o}", stat.mode)));
    }
    read_text(disk, dir, name)
}
