//! TLS on buffers of ours, so that a byte is copied no more often than it has to be.

use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::Error;
use rustls::client::UnbufferedClientConnection;
use rustls::pki_types::ServerName;
use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{ConnectionState, EncodeTlsData};

use super::identity::Identity;

/// Bytes of the header of a record (RFC 8446, 5.1).
const HEADER: usize = 5;
/// Most bytes of text in a record.
const TEXT: usize = 1 << 14;
/// Most bytes of a record: its header, its text, and what encryption may add (RFC 8446, 5.2).
pub(super) const RECORD: usize = HEADER + TEXT + 256;

/// Room for the records of a text, and for what may have to go before them.
pub(super) const fn room(text: usize) -> usize {
    text + text.div_ceil(TEXT) * (RECORD - TEXT) + RECORD
}

/// Which end of a connection this is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    Connecting,
    Accepting,
}

/// Encrypts and decrypts at one end of a connection.
pub(super) enum Tls {
    Client(UnbufferedClientConnection),
    Server(UnbufferedServerConnection),
}

/// What follows, by a function that is generic in the end, from `records`: how many of their bytes are done with, and the
/// function's answer.
macro_rules! process {
    ($tls:expr, $records:expr, $then:expr) => {
        match $tls {
            Tls::Client(tls) => {
                let status = tls.process_tls_records($records);
                (status.discard, $then(status.state))
            }
            Tls::Server(tls) => {
                let status = tls.process_tls_records($records);
                (status.discard, $then(status.state))
            }
        }
    };
}

/// Where a handshake goes on.
enum Next {
    Again,
    Send,
    Receive,
    Done,
}

impl Tls {
    /// Lets both ends of `socket` prove that they know the secret, within `patience`. Nothing is read that follows the
    /// handshake.
    pub fn agree(
        socket: &mut TcpStream,
        end: End,
        identity: &Identity,
        patience: Duration,
    ) -> io::Result<Self> {
        let mut tls = match end {
            End::Connecting => {
                let name = ServerName::IpAddress(socket.peer_addr()?.ip().into());
                UnbufferedClientConnection::new(Arc::clone(&identity.client), name)
                    .map(Self::Client)
            }
            End::Accepting => {
                UnbufferedServerConnection::new(Arc::clone(&identity.server)).map(Self::Server)
            }
        }
        .map_err(io::Error::other)?;
        let deadline = Instant::now() + patience;
        let mut records = Vec::new();
        let (mut answer, mut answered) = (vec![0; room(0)], 0);
        loop {
            let (used, next) = process!(&mut tls, &mut records, |state| step(
                state,
                &mut answer,
                &mut answered
            ));
            records.drain(..used);
            match next {
                Ok(Next::Again) => {}
                Ok(Next::Send) => {
                    socket.write_all(&answer[..answered])?;
                    answered = 0;
                }
                Ok(Next::Receive) => receive(socket, &mut records, deadline)?,
                Ok(Next::Done) => return Ok(tls),
                Err(error) => {
                    // The other end is told, if it still listens.
                    while tls.wants_write() {
                        let (_, told) = process!(&mut tls, &mut [], |state| step(
                            state,
                            &mut answer,
                            &mut answered
                        ));
                        told.map_err(io::Error::other)?;
                    }
                    let _ = socket.write_all(&answer[..answered]);
                    return Err(io::Error::new(ErrorKind::InvalidData, error));
                }
            }
        }
    }

    fn wants_write(&self) -> bool {
        match self {
            Self::Client(tls) => tls.wants_write(),
            Self::Server(tls) => tls.wants_write(),
        }
    }

    #[cfg(test)]
    pub fn change_keys(&mut self) -> io::Result<()> {
        fn change<Data>(state: Result<ConnectionState<'_, '_, Data>, Error>) {
            let Ok(ConnectionState::WriteTraffic(traffic)) = state else {
                panic!("an open connection");
            };
            traffic.refresh_traffic_keys().unwrap();
        }
        process!(self, &mut [], change);
        Ok(())
    }

    /// Encrypts `text` to the beginning of `records`, which have [`room`] for it: how many bytes that are.
    pub fn seal(&mut self, text: &[u8], records: &mut [u8]) -> io::Result<usize> {
        self.write(Some(text), records)
    }

    /// The same for what says that nothing follows.
    pub fn close(&mut self, records: &mut [u8]) -> io::Result<usize> {
        self.write(None, records)
    }

    fn write(&mut self, text: Option<&[u8]>, records: &mut [u8]) -> io::Result<usize> {
        let (mut written, mut done) = (0, false);
        while !done {
            let to = &mut records[written..];
            let (_, sealed) = process!(self, &mut [], |state| seal(state, text, to));
            let count;
            (count, done) = sealed?;
            written += count;
        }
        Ok(written)
    }

    /// Decrypts one of `records`, to the beginning of `text`, and what finds no room there to `rest`: how many bytes of `records`
    /// are done with, and how many of `text` have been written. Neither, if there is no whole record.
    pub fn open(
        &mut self,
        records: &mut [u8],
        text: &mut [u8],
        rest: &mut Vec<u8>,
    ) -> io::Result<(usize, usize)> {
        let whole = following(records) == 0;
        let (used, opened) = process!(self, records, |state| open(state, text, rest));
        let opened = opened?;
        // Part of a message of TLS itself, which this program never divides: it would have to be kept for the next time.
        if whole && used == 0 {
            return Err(ErrorKind::InvalidData.into());
        }
        Ok((used, opened))
    }
}

fn step<Data>(
    state: Result<ConnectionState<'_, '_, Data>, Error>,
    answer: &mut [u8],
    answered: &mut usize,
) -> Result<Next, Error> {
    Ok(match state? {
        ConnectionState::EncodeTlsData(record) => {
            *answered += encode(record, &mut answer[*answered..])?;
            Next::Again
        }
        ConnectionState::TransmitTlsData(sent) => {
            sent.done();
            Next::Send
        }
        ConnectionState::BlockedHandshake => Next::Receive,
        ConnectionState::WriteTraffic(_) => Next::Done,
        _ => return Err(Error::HandshakeNotComplete),
    })
}

fn encode<Data>(mut record: EncodeTlsData<'_, Data>, to: &mut [u8]) -> Result<usize, Error> {
    let written = record.encode(to);
    written.map_err(|error| Error::General(error.to_string()))
}

/// How many bytes are missing of the record that `records` begin with, or of its header.
fn following(records: &[u8]) -> usize {
    let whole = match records {
        [_, _, _, high, low, ..] => HEADER + usize::from(u16::from_be_bytes([*high, *low])),
        _ => HEADER,
    };
    whole.saturating_sub(records.len())
}

/// Adds what is missing of a record's header or, when that has been looked at, of the record to `records`, and nothing that
/// follows it.
fn receive(socket: &mut TcpStream, records: &mut Vec<u8>, deadline: Instant) -> io::Result<()> {
    let mut start = records.len();
    let missing = following(records);
    // A handshake of this program has no message of more than a record.
    if missing == 0 {
        return Err(ErrorKind::InvalidData.into());
    }
    records.resize(start + missing, 0);
    while start < records.len() {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(ErrorKind::TimedOut.into());
        }
        socket.set_read_timeout(Some(left))?;
        match socket.read(&mut records[start..]) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(count) => start += count,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                return Err(ErrorKind::TimedOut.into());
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// How many bytes have been written to `records`, and whether they were the text's, or the end's if there is no text;
/// if not, others had to go first.
fn seal<Data>(
    state: Result<ConnectionState<'_, '_, Data>, Error>,
    text: Option<&[u8]>,
    records: &mut [u8],
) -> io::Result<(usize, bool)> {
    match state.map_err(io::Error::other)? {
        ConnectionState::EncodeTlsData(record) => {
            let written = encode(record, records).map_err(io::Error::other)?;
            Ok((written, false))
        }
        ConnectionState::TransmitTlsData(sent) => {
            sent.done();
            Ok((0, false))
        }
        ConnectionState::PeerClosed => Ok((0, false)),
        ConnectionState::WriteTraffic(mut traffic) => {
            let written = match text {
                Some(text) => traffic.encrypt(text, records),
                None => traffic.queue_close_notify(records),
            };
            Ok((written.map_err(io::Error::other)?, true))
        }
        _ => Err(ErrorKind::BrokenPipe.into()),
    }
}

fn open<Data>(
    state: Result<ConnectionState<'_, '_, Data>, Error>,
    text: &mut [u8],
    rest: &mut Vec<u8>,
) -> io::Result<usize> {
    let mut written = 0;
    match state.map_err(io::Error::other)? {
        ConnectionState::ReadTraffic(mut traffic) => {
            while let Some(record) = traffic.next_record() {
                let payload = record.map_err(io::Error::other)?.payload;
                let fits = payload.len().min(text.len() - written);
                text[written..written + fits].copy_from_slice(&payload[..fits]);
                rest.extend_from_slice(&payload[fits..]);
                written += fits;
            }
        }
        // What TLS has to answer goes before the next text; here it would be lost.
        ConnectionState::EncodeTlsData(_) | ConnectionState::TransmitTlsData(_) => {
            return Err(ErrorKind::InvalidData.into());
        }
        _ => {}
    }
    Ok(written)
}
