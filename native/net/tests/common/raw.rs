//! The other side by hand: TLS with certificates of choice, and frames written byte by byte.

use super::*;
use macula_core::read_all;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use std::io;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;
use tokio_rustls::TlsConnector;

pub type Tls = TlsStream<TcpStream>;

/// Takes any certificate: a stranger does not care.
#[derive(Debug)]
struct Anyone;

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        rustls::crypto::ring::default_provider().signature_verification_algorithms.supported_schemes()
    }
}

/// TLS as the node of `dir`, or without a certificate.
pub fn config(disk: &dyn Disk, dir: Option<&RelPath>) -> Arc<ClientConfig> {
    let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("known")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anyone));
    let Some(dir) = dir else { return Arc::new(builder.with_no_client_auth()) };
    let read = |file: &str| read_all(disk, &dir.join(file).expect("a path"), 1 << 20).expect("read");
    let cert = CertificateDer::from_pem_slice(&read("cert.pem")).expect("a certificate");
    let key = PrivateKeyDer::from_pem_slice(&read("key.pem")).expect("a key");
    Arc::new(builder.with_client_auth_cert(vec![cert], key).expect("fits"))
}

pub async fn connect(config: Arc<ClientConfig>, address: SocketAddr) -> io::Result<Tls> {
    let tcp = TcpStream::connect(address).await?;
    tcp.set_nodelay(true)?;
    TlsConnector::from(config).connect(ServerName::try_from("x").expect("a name"), tcp).await
}

/// A frame, byte by byte.
pub fn frame(of: u8, kind: u8, id: u64, payload: &[u8]) -> Vec<u8> {
    let mut bytes = (payload.len() as u32).to_le_bytes().to_vec();
    bytes.extend([1, of, kind, 0]);
    bytes.extend(id.to_le_bytes());
    bytes.extend(payload);
    bytes
}

/// The payload of a hello, byte by byte.
pub fn hello(versions: [u8; 2], purpose: u8, from: &Peer, to: &str) -> Vec<u8> {
    let mut bytes = b"MACULALN".to_vec();
    bytes.extend(versions);
    bytes.extend([purpose, from.role as u8]);
    bytes.extend(from.cluster.0);
    bytes.push(from.node.as_bytes().len() as u8);
    bytes.extend(from.node.as_bytes());
    bytes.push(to.len() as u8);
    bytes.extend(to.as_bytes());
    bytes.extend((1u32 << 20).to_le_bytes());
    bytes
}

/// Type, id and payload of the next frame.
pub async fn read_frame(tls: &mut Tls) -> io::Result<(u8, u64, Vec<u8>)> {
    let mut head = [0; 16];
    tls.read_exact(&mut head).await?;
    let len = u32::from_le_bytes(head[..4].try_into().expect("four"));
    let mut payload = vec![0; len as usize];
    tls.read_exact(&mut payload).await?;
    Ok((head[5], u64::from_le_bytes(head[8..].try_into().expect("eight")), payload))
}

/// Everything until the end, whichever it is.
pub async fn read_to_end(io: &mut (impl tokio::io::AsyncRead + Unpin)) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut chunk = [0; 4096];
    let read = async {
        while let Ok(len @ 1..) = io.read(&mut chunk).await {
            bytes.extend(&chunk[..len]);
        }
    };
    tokio::time::timeout(SOON * 3, read).await.expect("it ends");
    bytes
}

/// A stranger's or a member's connection on which a good hello was said.
pub async fn welcomed(config: Arc<ClientConfig>, address: SocketAddr, from: &Peer, to: &str) -> Tls {
    let mut tls = connect(config, address).await.expect("connects");
    tls.write_all(&frame(1, 0, 0, &hello([1, 1], 1, from, to))).await.expect("written");
    let (of, id, payload) = read_frame(&mut tls).await.expect("an answer");
    assert_eq!((of, id, payload[0]), (2, 0, 1), "{payload:?}");
    tls
}

/// The reason's code and the words of a refusal.
pub async fn refusal(tls: &mut Tls) -> (u8, String) {
    let (of, _, payload) = read_frame(tls).await.expect("a refusal");
    assert_eq!(of, 3, "{payload:?}");
    (payload[0], String::from_utf8(payload[1..].to_vec()).expect("words"))
}
