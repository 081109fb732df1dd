//! TCP with or without TLS, with a look at how exactly it ends.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, SignatureScheme, StreamOwned};
use socket2::{Domain, Socket, Type};

use super::PATIENCE;

/// How a stream ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fin {
    /// FIN, and with TLS a close_notify before it.
    Orderly,
    /// FIN without close_notify.
    Truncated,
    Reset,
}

pub enum Stream {
    Plain(TcpStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

impl Stream {
    /// `receive`: the size of the kernel's receive buffer, in bytes.
    pub fn connect(address: SocketAddr, tls: bool, receive: Option<usize>) -> Self {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, None).expect("a socket");
        if let Some(bytes) = receive {
            socket.set_recv_buffer_size(bytes).expect("a size");
        }
        socket.connect(&address.into()).unwrap_or_else(|e| panic!("{address}: {e}"));
        let tcp = TcpStream::from(socket);
        tcp.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        tcp.set_write_timeout(Some(PATIENCE)).expect("a timeout");
        tcp.set_nodelay(true).expect("an option");
        if !tls {
            return Stream::Plain(tcp);
        }
        let name = ServerName::try_from("localhost").expect("a name");
        let session = ClientConnection::new(Arc::new(trusting()), name).expect("a session");
        Stream::Tls(Box::new(StreamOwned::new(session, tcp)))
    }

    pub fn tcp(&self) -> &TcpStream {
        match self {
            Stream::Plain(tcp) => tcp,
            Stream::Tls(tls) => tls.get_ref(),
        }
    }

    /// Reads some; or how the stream ended.
    pub fn take(&mut self, into: &mut Vec<u8>) -> Result<(), Fin> {
        let mut some = [0; 16 * 1024];
        let read = match self {
            Stream::Plain(tcp) => tcp.read(&mut some),
            Stream::Tls(tls) => tls.read(&mut some),
        };
        match read {
            Ok(0) => Err(self.after_close_notify()),
            Ok(n) => {
                into.extend_from_slice(&some[..n]);
                Ok(())
            }
            Err(e) if e.kind() == ErrorKind::UnexpectedEof => Err(Fin::Truncated),
            Err(e) if e.kind() == ErrorKind::ConnectionReset => Err(Fin::Reset),
            Err(e) => panic!("waited in vain for the daemon: {e}"),
        }
    }

    /// TLS has ended in order; TCP has to follow.
    fn after_close_notify(&self) -> Fin {
        let Stream::Tls(tls) = self else { return Fin::Orderly };
        match tls.get_ref().read(&mut [0; 1]) {
            Ok(0) => Fin::Orderly,
            Err(e) if e.kind() == ErrorKind::ConnectionReset => Fin::Reset,
            other => panic!("after close_notify comes FIN, not {other:?}"),
        }
    }

    pub fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Stream::Plain(tcp) => tcp.write_all(bytes),
            Stream::Tls(tls) => tls.write_all(bytes).and_then(|()| tls.flush()),
        }
    }
}

/// A client that believes every certificate: the daemon's is self-signed.
fn trusting() -> ClientConfig {
    let provider = Arc::new(aws_lc_rs::default_provider());
    ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .expect("the provider has the usual suites")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Trusting(provider)))
        .with_no_client_auth()
}

#[derive(Debug)]
struct Trusting(Arc<CryptoProvider>);

impl ServerCertVerifier for Trusting {
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
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
