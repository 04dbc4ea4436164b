//! Who this node is: its certificate, its key and the authorities that it trusts, read from the
//! directory that the authority issued.
//!
//! Invariant: what is in use was whole and fit together when it was read; a reload that finds anything
//! else changes nothing. TLS 1.3 only, no resumption and no early data: each connection shows its
//! certificate anew, and recorded bytes open nothing.

use crate::authority::{read_private, read_text, BACKDATED_MS, CA_FILE, CERT_FILE, KEY_FILE, TRUST_MAX};
use crate::{NetError, Peer, Role, Validity};
use macula_core::{Clock, Disk, RelPath};
use parking_lot::RwLock;
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::time_provider::TimeProvider;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// This node's side of every link. Shared by its listener and all its links.
pub struct Identity {
    disk: Arc<dyn Disk>,
    dir: RelPath,
    clock: Arc<dyn Clock>,
    keys: RwLock<Arc<Keys>>,
    generation: watch::Sender<u64>,
}

/// What one reading of the directory gave.
pub(crate) struct Keys {
    pub peer: Peer,
    pub validity: Validity,
    pub client: Arc<ClientConfig>,
    pub server: Arc<ServerConfig>,
    /// How often it was read before.
    pub generation: u64,
    source: Source,
}

/// The directory's files.
#[derive(PartialEq, Eq)]
struct Source {
    cert: String,
    key: String,
    ca: String,
}

impl Identity {
    /// Read the directory `dir`.
    ///
    /// # Errors
    /// [`NetError::Identity`] says which file is not usable and why.
    pub fn load(disk: Arc<dyn Disk>, dir: RelPath, clock: Arc<dyn Clock>) -> Result<Arc<Self>, NetError> {
        let keys = RwLock::new(Arc::new(read(&*disk, &dir, &clock)?));
        Ok(Arc::new(Self { disk, dir, clock, keys, generation: watch::Sender::new(0) }))
    }

    /// Read it again: new connections use what is there now, existing ones are renewed within
    /// [`crate::Options::renew_ms_max`] and cut off after twice that. Name, role and cluster must be
    /// the same as before.
    ///
    /// # Errors
    /// [`NetError::Identity`]; nothing has changed then.
    pub fn reload(&self) -> Result<(), NetError> {
        self.refresh(true).map(drop)
    }

    /// As [`Identity::reload`], if the files are others than those in use; whether they were.
    ///
    /// # Errors
    /// [`NetError::Identity`]; nothing has changed then.
    pub fn reload_if_changed(&self) -> Result<bool, NetError> {
        self.refresh(false)
    }

    fn refresh(&self, is_forced: bool) -> Result<bool, NetError> {
        let mut current = self.keys.write();
        let source = Source::read(&*self.disk, &self.dir)?;
        if source == current.source && !is_forced {
            return Ok(false);
        }
        let keys = source.keys(&self.clock, current.generation + 1)?;
        if keys.peer != current.peer {
            return Err(NetError::identity(CERT_FILE, format!("of another node now: {}", keys.peer.node)));
        }
        let generation = keys.generation;
        *current = Arc::new(keys);
        drop(current);
        self.generation.send_replace(generation);
        Ok(true)
    }

    /// Who this node is.
    pub fn peer(&self) -> Peer {
        self.keys.read().peer.clone()
    }

    /// From when until when its certificate is valid.
    pub fn validity(&self) -> Validity {
        self.keys.read().validity
    }

    pub(crate) fn keys(&self) -> Arc<Keys> {
        self.keys.read().clone()
    }

    pub(crate) fn generations(&self) -> watch::Receiver<u64> {
        self.generation.subscribe()
    }
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let keys = self.keys();
        f.debug_struct("Identity").field("peer", &keys.peer).field("validity", &keys.validity).finish_non_exhaustive()
    }
}

/// The wall clock, but never before our own certificate was issued: a machine whose clock fell back to
/// 1970 still finds its peers' certificates valid.
#[derive(Debug)]
struct NotBefore {
    clock: Arc<dyn Clock>,
    issued_ms: u64,
}

impl TimeProvider for NotBefore {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(Duration::from_millis(self.clock.wall_ms().max(self.issued_ms))))
    }
}

/// What the directory's files give now.
pub(crate) fn read(disk: &dyn Disk, dir: &RelPath, clock: &Arc<dyn Clock>) -> Result<Keys, NetError> {
    Source::read(disk, dir)?.keys(clock, 0)
}

impl Source {
    fn read(disk: &dyn Disk, dir: &RelPath) -> Result<Self, NetError> {
        let (cert, ca) = (read_text(disk, dir, CERT_FILE)?, read_text(disk, dir, CA_FILE)?);
        Ok(Self { cert, key: read_private(disk, dir, KEY_FILE)?, ca })
    }

    fn keys(self, clock: &Arc<dyn Clock>, generation: u64) -> Result<Keys, NetError> {
        let cert = certificates(CERT_FILE, &self.cert, 1)?.remove(0);
        let peer = Peer::of_certificate(&cert).map_err(|error| NetError::identity(CERT_FILE, error))?;
        let validity = Validity::of(&cert).ok_or_else(|| NetError::identity(CERT_FILE, "not a certificate"))?;
        let key = PrivateKeyDer::from_pem_slice(self.key.as_bytes());
        let key = key.map_err(|error| NetError::identity(KEY_FILE, error))?;
        let mut roots = RootCertStore::empty();
        for authority in certificates(CA_FILE, &self.ca, TRUST_MAX)? {
            roots.add(authority).map_err(|error| NetError::identity(CA_FILE, error))?;
        }
        let time = Arc::new(NotBefore { clock: clock.clone(), issued_ms: validity.from_ms + BACKDATED_MS });
        let (client, server) = configs(cert, key, Arc::new(roots), time)?;
        Ok(Keys { peer, validity, client, server, generation, source: self })
    }
}

pub(crate) fn certificates(file: &str, pem: &str, count_max: usize) -> Result<Vec<CertificateDer<'static>>, NetError> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
    let found = found.map_err(|error| NetError::identity(file, error))?;
    match found.len() {
        len if (1..=count_max).contains(&len) => Ok(found),
        len => Err(NetError::identity(file, format!("certificates={len} certificates_max={count_max}"))),
    }
}

fn configs(
    cert: CertificateDer<'static>,
    key: PrivateKeyDer<'static>,
    roots: Arc<RootCertStore>,
    time: Arc<NotBefore>,
) -> Result<(Arc<ClientConfig>, Arc<ServerConfig>), NetError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let unusable = |error: rustls::Error| NetError::identity(CERT_FILE, error);
    // its hints would name the authorities to whoever connects
    let members = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider.clone())
        .clear_root_hint_subjects()
        .build()
        .map_err(|error| NetError::identity(CA_FILE, error))?;
    let now = time.current_time().unwrap_or_else(|| UnixTime::since_unix_epoch(Duration::ZERO));
    members.verify_client_cert(&cert, &[], now).map_err(unusable)?;
    let servers = WebPkiServerVerifier::builder_with_provider(roots, provider.clone())
        .build()
        .map_err(|error| NetError::identity(CA_FILE, error))?;
    let mut client = ClientConfig::builder_with_details(provider.clone(), time.clone())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(unusable)?
        .with_webpki_verifier(servers)
        .with_client_auth_cert(vec![cert.clone()], key.clone_key())
        .map_err(unusable)?;
    client.resumption = Resumption::disabled();
    // the name of the node is nobody's business on the way; the certificate is checked against it all the same
    client.enable_sni = false;
    let mut server = ServerConfig::builder_with_details(provider, time)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(unusable)?
        .with_client_cert_verifier(members)
        .with_single_cert(vec![cert], key)
        .map_err(unusable)?;
    server.session_storage = Arc::new(NoServerSessionStorage {});
    server.send_tls13_tickets = 0;
    server.max_early_data_size = 0;
    Ok((Arc::new(client), Arc::new(server)))
}

/// The name that the certificate of a member must have.
pub(crate) fn server_name(of: &Peer, node: &crate::NodeName) -> Result<ServerName<'static>, NetError> {
    let expected = Peer { node: node.clone(), role: Role::Member, cluster: of.cluster };
    ServerName::try_from(expected.dns_name()).map_err(|error| NetError::Invalid(error.to_string()))
}
