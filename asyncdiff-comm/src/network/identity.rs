//! Who belongs to a run: whoever has its secret.
//!
//! An Ed25519 key is derived from the secret, and both ends of a TLS 1.3 connection must prove that they hold it, as raw
//! public keys (RFC 7250). So the handshake of a well-kept library is the proof, and everything after it is encrypted.

use std::fmt;
use std::sync::Arc;

use ring::hmac;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{AlwaysResolvesClientRawPublicKeys, Resumption};
use rustls::crypto::{CryptoProvider, ring as provider, verify_tls13_signature_with_raw_key};
use rustls::pki_types::{
    CertificateDer, PrivatePkcs8KeyDer, ServerName, SubjectPublicKeyInfoDer, UnixTime,
};
use rustls::server::AlwaysResolvesServerRawPublicKeys;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::sign::CertifiedKey;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, Error, ServerConfig,
    SignatureScheme, version,
};

/// What all ranks of a run know, and nobody else.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// The fewest characters of a secret. Whoever can reach a rank can try secrets against what it shows of itself, as fast
    /// as its machine allows, so it has to be one that is not guessed.
    pub const SHORTEST: usize = 16;

    /// A secret; `None` if it is shorter than [`Secret::SHORTEST`].
    #[must_use]
    pub fn new(text: impl Into<String>) -> Option<Self> {
        let text = text.into();
        (text.len() >= Self::SHORTEST).then_some(Self(text))
    }

    /// A new one that nobody can guess.
    ///
    /// # Errors
    ///
    /// If the system has no random numbers.
    pub fn random() -> std::io::Result<Self> {
        let mut bytes = [0; 32];
        ring::rand::SecureRandom::fill(&ring::rand::SystemRandom::new(), &mut bytes)
            .map_err(|_| std::io::Error::other("the system gives no random numbers"))?;
        Ok(Self(hex(&bytes)))
    }

    /// The secret itself, to be handed to other ranks.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// SHA-256 of `bytes`, in hexadecimal digits: what ranks can compare of what they should have in common.
#[must_use]
pub fn digest(bytes: &[u8]) -> String {
    hex(ring::digest::digest(&ring::digest::SHA256, bytes).as_ref())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Both ends of connections between those who have a secret.
pub(super) struct Identity {
    pub client: Arc<ClientConfig>,
    pub server: Arc<ServerConfig>,
}

/// An Ed25519 private key in PKCS #8 (RFC 8410), up to the 32 bytes that it consists of.
const PKCS8: [u8; 16] = [
    0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20,
];

impl Identity {
    /// Those of `secret`; without one, of everybody.
    pub fn new(secret: Option<&Secret>) -> Result<Self, Error> {
        let secret = secret.map_or("", Secret::reveal);
        let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
        let seed = hmac::sign(&key, b"asyncdiff: the Ed25519 key of a run's ranks");
        let pkcs8 = [&PKCS8, seed.as_ref()].concat();
        let signing = provider::sign::any_eddsa_type(&PrivatePkcs8KeyDer::from(pkcs8))?;
        let public = signing
            .public_key()
            .ok_or_else(|| Error::General("the key has no public half".to_owned()))?;
        let public = CertificateDer::from(public.as_ref().to_vec());
        let certified = Arc::new(CertifiedKey::new(vec![public.clone()], signing));

        let mut provider = provider::default_provider();
        // The fastest where processors have instructions for it.
        provider.cipher_suites = vec![
            provider::cipher_suite::TLS13_AES_128_GCM_SHA256,
            provider::cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
        ];
        let provider = Arc::new(provider);
        let peer = Arc::new(SameKey {
            public,
            provider: Arc::clone(&provider),
        });
        let mut client = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&version::TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(Arc::clone(&peer) as _)
            .with_client_cert_resolver(Arc::new(AlwaysResolvesClientRawPublicKeys::new(
                Arc::clone(&certified),
            )));
        client.resumption = Resumption::disabled();
        let mut server = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&version::TLS13])?
            .with_client_cert_verifier(peer)
            .with_cert_resolver(Arc::new(AlwaysResolvesServerRawPublicKeys::new(certified)));
        server.send_tls13_tickets = 0;
        Ok(Self {
            client: Arc::new(client),
            server: Arc::new(server),
        })
    }
}

/// Trusts who holds the same key.
#[derive(Debug)]
struct SameKey {
    public: CertificateDer<'static>,
    provider: Arc<CryptoProvider>,
}

impl SameKey {
    fn same(&self, presented: &CertificateDer<'_>) -> Result<(), Error> {
        if *presented == self.public {
            Ok(())
        } else {
            Err(CertificateError::ApplicationVerificationFailure.into())
        }
    }
}

/// What both ends of a connection ask of the other: the signature that only who holds its key can make.
macro_rules! asks_for_the_key {
    () => {
        fn verify_tls12_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            Err(Error::General("TLS 1.3 only".to_owned()))
        }

        fn verify_tls13_signature(
            &self,
            message: &[u8],
            key: &CertificateDer<'_>,
            signature: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            verify_tls13_signature_with_raw_key(
                message,
                &SubjectPublicKeyInfoDer::from(key.as_ref()),
                signature,
                &self.provider.signature_verification_algorithms,
            )
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            vec![SignatureScheme::ED25519]
        }

        fn requires_raw_public_keys(&self) -> bool {
            true
        }
    };
}

impl ServerCertVerifier for SameKey {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.same(end_entity)
            .map(|()| ServerCertVerified::assertion())
    }

    asks_for_the_key!();
}

impl ClientCertVerifier for SameKey {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.same(end_entity)
            .map(|()| ClientCertVerified::assertion())
    }

    asks_for_the_key!();
}
