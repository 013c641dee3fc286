//! What TLS to Redis needs besides the `redis` crate: who does the cryptography, and whose
//! certificates count.

use std::fs;

use redis::{ConnectionAddr, ConnectionInfo, ErrorKind, RedisError, RedisResult, TlsCertificates};
use rustls::{
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, pem::PemObject},
};

/// How an address with TLS names the file of the certificates that count; Postgres spells it so.
pub(crate) const ROOTS: &str = "sslrootcert";

/// Chooses who does this process' cryptography, unless that is chosen. The `redis` crate takes
/// what is chosen, and panics where several could be and none is; Postgres, mails and HTTP name
/// theirs, which is the same.
pub(crate) fn choose_provider() {
    // An error says that there is one.
    let _ = aws_lc_rs::default_provider().install_default();
}

pub(crate) fn is_tls(info: &ConnectionInfo) -> bool {
    matches!(info.addr(), ConnectionAddr::TcpTls { .. })
}

/// The same server, if one of the certificates in this file (PEM) vouches for it; the public
/// ones, which are built in, do not count then. Errors: it is without TLS; the file is not read,
/// or has no certificate.
pub(crate) fn trusting(info: ConnectionInfo, file: &str) -> RedisResult<ConnectionInfo> {
    if !is_tls(&info) {
        let plain = "sslrootcert= is for rediss://, which is with TLS";
        return Err((ErrorKind::InvalidClientConfig, plain).into());
    }
    let refused = |reason: String| -> RedisError {
        let reason = format!("{file}: {reason}");
        (ErrorKind::InvalidClientConfig, ROOTS, reason).into()
    };
    let pem = fs::read(file).map_err(|error| refused(error.to_string()))?;
    if CertificateDer::pem_slice_iter(&pem).next().is_none() {
        return Err(refused("there is no certificate in it".to_owned()));
    }
    let certificates = TlsCertificates {
        client_tls: None,
        root_cert: Some(pem),
    };
    let client = redis::Client::build_with_tls(info, certificates);
    let client = client.map_err(|error| refused(error.to_string()))?;
    Ok(client.get_connection_info().clone())
}
