//! Bytes over TCP, in the clear or through rustls' unbuffered interface; the same for the floor and for the load.
//!
//! Records are decrypted where they were read, and a connection at rest owns no buffer. What the bytes mean is the
//! business of whoever reads them.

use std::io::{self, Read, Write};
use std::mem;
use std::net::TcpStream;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ClientConnectionData, Resumption, UnbufferedClientConnection};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, aws_lc_rs, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::{ConnectionState, EncodeError, EncryptError, UnbufferedStatus};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, ServerConfig, SignatureScheme};

/// How much one read asks for.
const READ: usize = 256 * 1024;
/// More than a record of TLS 1.3 adds to its content.
const RECORD_EXTRA: usize = 64;
const RECORD_CONTENT: usize = 16 * 1024;

#[derive(Debug, thiserror::Error)]
pub enum WireError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("TLS: {0}")]
    Tls(#[from] rustls::Error),
    #[error("TLS: a record could not be written: {0}")]
    Seal(String),
    #[error("TLS: data before the handshake was over")]
    NotReady,
    #[error("the peer closed the connection")]
    Closed,
}

/// The two ends of TLS, which rustls keeps as two types.
pub trait Side {
    type Data;
    fn process<'c, 'i>(&'c mut self, input: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data>;
}

impl Side for UnbufferedClientConnection {
    type Data = ClientConnectionData;
    fn process<'c, 'i>(&'c mut self, input: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(input)
    }
}

impl Side for UnbufferedServerConnection {
    type Data = ServerConnectionData;
    fn process<'c, 'i>(&'c mut self, input: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(input)
    }
}

pub type ClientWire = Wire<UnbufferedClientConnection>;
pub type ServerWire = Wire<UnbufferedServerConnection>;

/// Buffers that all connections of a thread share.
pub struct Scratch {
    input: Vec<u8>,
    sealed: Vec<u8>,
}

impl Scratch {
    pub fn new() -> Self {
        Scratch { input: vec![0; READ], sealed: Vec::new() }
    }
}

/// What one read brought.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Received {
    /// The socket may hold more.
    More,
    /// The socket was read empty.
    Drained,
}

pub struct Wire<S> {
    stream: TcpStream,
    tls: Option<Box<S>>,
    /// Received, not yet a whole TLS record.
    raw: Vec<u8>,
    /// Decrypted, not yet a whole frame.
    plain: Vec<u8>,
    /// What the socket has not taken yet.
    unsent: Vec<u8>,
    ready: bool,
}

impl<S: Side> Wire<S> {
    /// `stream` does not block.
    pub fn new(stream: TcpStream, tls: Option<S>) -> Self {
        let ready = tls.is_none();
        Wire { stream, tls: tls.map(Box::new), raw: Vec::new(), plain: Vec::new(), unsent: Vec::new(), ready }
    }

    pub fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// May data be sent: is the TLS handshake over, if there is one.
    pub fn is_ready(&self) -> bool {
        self.ready
    }

    /// Does the socket owe us room for bytes that it did not take.
    pub fn is_behind(&self) -> bool {
        !self.unsent.is_empty()
    }

    /// Begins the handshake; a client speaks first.
    pub fn start(&mut self) -> Result<(), WireError> {
        if let Some(tls) = &mut self.tls {
            turn(tls.as_mut(), &mut [], &mut self.unsent, &mut self.ready, |_| {})?;
        }
        self.flush()
    }

    /// Reads once and calls `take` with all plaintext that is not done with; it returns how much of it is.
    pub fn receive<E: From<WireError>>(
        &mut self,
        scratch: &mut Scratch,
        mut take: impl FnMut(&[u8]) -> Result<usize, E>,
    ) -> Result<Received, E> {
        let kept = if self.tls.is_some() { &mut self.raw } else { &mut self.plain };
        if scratch.input.len() < kept.len() + READ / 2 {
            scratch.input.resize(kept.len() + READ, 0);
        }
        let from = kept.len();
        let room = &mut scratch.input[from..];
        let asked = room.len();
        let got = match self.stream.read(room) {
            Ok(0) => return Err(WireError::Closed.into()),
            Ok(got) => got,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Received::Drained),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(Received::More),
            Err(error) => return Err(WireError::Io(error).into()),
        };
        scratch.input[..from].copy_from_slice(kept);
        *kept = Vec::new();
        let input = &mut scratch.input[..from + got];
        match &mut self.tls {
            None => {
                let done = take(input)?;
                self.plain.extend_from_slice(&input[done..]);
            }
            Some(tls) => {
                let plain = &mut self.plain;
                let mut result = Ok(());
                let used = turn(tls.as_mut(), input, &mut self.unsent, &mut self.ready, |record| {
                    if result.is_ok() {
                        result = take_record(plain, record, &mut take);
                    }
                })?;
                result?;
                self.raw.extend_from_slice(&input[used..]);
                if !self.unsent.is_empty() {
                    self.flush()?;
                }
            }
        }
        Ok(if got < asked { Received::Drained } else { Received::More })
    }

    /// Sends `data` with one write, and keeps what the socket does not take.
    #[inline]
    pub fn send(&mut self, scratch: &mut Scratch, data: &[u8]) -> Result<(), WireError> {
        let bytes = match &mut self.tls {
            None => data,
            Some(tls) => {
                let needed = data.len() + (data.len() / RECORD_CONTENT + 1) * RECORD_EXTRA;
                if scratch.sealed.len() < needed {
                    scratch.sealed.resize(needed, 0);
                }
                let sealed = seal(tls.as_mut(), data, &mut scratch.sealed)?;
                &scratch.sealed[..sealed]
            }
        };
        let mut sent = 0;
        if self.unsent.is_empty() {
            sent = write_some(&self.stream, bytes)?;
        }
        self.unsent.extend_from_slice(&bytes[sent..]);
        Ok(())
    }

    /// Sends what an earlier write has left.
    pub fn flush(&mut self) -> Result<(), WireError> {
        let sent = write_some(&self.stream, &self.unsent)?;
        self.unsent.drain(..sent);
        if self.unsent.is_empty() {
            self.unsent = Vec::new();
        }
        Ok(())
    }
}

fn write_some(mut stream: &TcpStream, bytes: &[u8]) -> Result<usize, WireError> {
    match stream.write(bytes) {
        Ok(sent) => Ok(sent),
        Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => Ok(0),
        Err(error) => Err(error.into()),
    }
}

fn take_record<E>(
    plain: &mut Vec<u8>,
    record: &[u8],
    take: &mut impl FnMut(&[u8]) -> Result<usize, E>,
) -> Result<(), E> {
    if plain.is_empty() {
        let done = take(record)?;
        plain.extend_from_slice(&record[done..]);
        return Ok(());
    }
    plain.extend_from_slice(record);
    let mut joined = mem::take(plain);
    let done = take(&joined)?;
    joined.drain(..done);
    if !joined.is_empty() {
        *plain = joined;
    }
    Ok(())
}

/// Handles `input`: calls `plain` with each record's content, appends to `out` what TLS itself has to send, and
/// returns how many bytes of `input` are done with.
fn turn<S: Side>(
    tls: &mut S,
    input: &mut [u8],
    out: &mut Vec<u8>,
    ready: &mut bool,
    mut plain: impl FnMut(&[u8]),
) -> Result<usize, WireError> {
    let mut used = 0;
    loop {
        let UnbufferedStatus { mut discard, state, .. } = tls.process(&mut input[used..]);
        let mut more = true;
        match state? {
            ConnectionState::ReadTraffic(mut traffic) => {
                while let Some(record) = traffic.next_record() {
                    let record = record?;
                    discard += record.discard;
                    plain(record.payload);
                }
            }
            ConnectionState::EncodeTlsData(mut data) => {
                let from = out.len();
                if let Err(EncodeError::InsufficientSize(size)) = data.encode(&mut []) {
                    out.resize(from + size.required_size, 0);
                }
                let written = data.encode(&mut out[from..]).map_err(|error| WireError::Seal(error.to_string()))?;
                out.truncate(from + written);
            }
            // What was encoded is in `out`, in order; it is sent after this.
            ConnectionState::TransmitTlsData(data) => data.done(),
            ConnectionState::WriteTraffic(_) => (*ready, more) = (true, false),
            ConnectionState::BlockedHandshake => more = false,
            _ => return Err(WireError::Closed),
        }
        used += discard;
        if !more {
            return Ok(used);
        }
    }
}

#[inline]
fn seal<S: Side>(tls: &mut S, data: &[u8], out: &mut [u8]) -> Result<usize, WireError> {
    match tls.process(&mut []).state? {
        ConnectionState::WriteTraffic(mut traffic) => {
            traffic.encrypt(data, out).map_err(|error: EncryptError| WireError::Seal(error.to_string()))
        }
        _ => Err(WireError::NotReady),
    }
}

/// TLS 1.3 for the floor: no tickets, which would be more than the least.
pub fn server_config(certificate: &[u8], key: &[u8]) -> Result<Arc<ServerConfig>, super::BenchError> {
    let chain = CertificateDer::pem_slice_iter(certificate).collect::<Result<Vec<_>, _>>()?;
    let key = PrivateKeyDer::from_pem_slice(key)?;
    let mut config = ServerConfig::builder_with_provider(provider().into())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}

/// TLS 1.3 for the load: one cipher and one key exchange, so that every server does the same work; it believes
/// exactly the certificate that the bench has made.
pub fn client_config(certificate: CertificateDer<'static>) -> Result<Arc<ClientConfig>, super::BenchError> {
    let provider = provider();
    let algorithms = provider.signature_verification_algorithms;
    let mut config = ClientConfig::builder_with_provider(provider.into())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(OnlyThis { certificate, algorithms }))
        .with_no_client_auth();
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

pub fn client(config: &Arc<ClientConfig>) -> Result<UnbufferedClientConnection, WireError> {
    let name = ServerName::try_from("localhost").expect("localhost is a valid name");
    Ok(UnbufferedClientConnection::new(config.clone(), name)?)
}

fn provider() -> CryptoProvider {
    CryptoProvider {
        cipher_suites: vec![aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256],
        kx_groups: vec![aws_lc_rs::kx_group::X25519],
        ..aws_lc_rs::default_provider()
    }
}

#[derive(Debug)]
struct OnlyThis {
    certificate: CertificateDer<'static>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for OnlyThis {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if *end_entity == self.certificate {
            Ok(ServerCertVerified::assertion())
        } else {
            Err(CertificateError::ApplicationVerificationFailure.into())
        }
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("only TLS 1.3 is measured".into()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
