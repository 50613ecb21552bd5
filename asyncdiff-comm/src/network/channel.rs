//! A TLS connection whose two directions belong to two threads.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustls::pki_types::ServerName;
use rustls::{ClientConnection, Connection, ServerConnection};

use super::identity::Identity;

/// Plaintext that is encrypted at once: large enough that taking turns costs nothing.
const CHUNK: usize = 128 * 1024;

/// How often a read that waits looks at the clock.
const TICK: Duration = Duration::from_millis(250);

/// A connection to somebody who has proved to know the secret.
pub(super) struct Channel {
    socket: TcpStream,
    tls: Mutex<Connection>,
}

/// Which end of a connection this is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    Connecting,
    Accepting,
}

impl Channel {
    /// Lets both ends prove that they know the secret, within `patience`.
    pub fn open(
        mut socket: TcpStream,
        end: End,
        identity: &Identity,
        patience: Duration,
    ) -> io::Result<Arc<Self>> {
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(patience))?;
        socket.set_write_timeout(Some(patience))?;
        let mut tls = match end {
            End::Connecting => {
                let name = ServerName::IpAddress(socket.peer_addr()?.ip().into());
                let client = ClientConnection::new(Arc::clone(&identity.client), name);
                Connection::from(client.map_err(io::Error::other)?)
            }
            End::Accepting => {
                let server = ServerConnection::new(Arc::clone(&identity.server));
                Connection::from(server.map_err(io::Error::other)?)
            }
        };
        let start = Instant::now();
        while tls.is_handshaking() {
            tls.complete_io(&mut socket)?;
            if start.elapsed() > patience {
                return Err(ErrorKind::TimedOut.into());
            }
        }
        tls.set_buffer_limit(None);
        socket.set_read_timeout(Some(TICK))?;
        socket.set_write_timeout(None)?;
        Ok(Arc::new(Self {
            socket,
            tls: Mutex::new(tls),
        }))
    }

    pub fn socket(&self) -> &TcpStream {
        &self.socket
    }

    fn tls(&self) -> MutexGuard<'_, Connection> {
        self.tls.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends both directions at once; whoever waits in one of them gets an error.
    pub fn cut(&self) {
        // A connection that is gone already is what is wanted.
        let _ = self.socket.shutdown(Shutdown::Both);
    }
}

/// The outgoing direction.
pub(super) struct Outgoing {
    channel: Arc<Channel>,
    records: Vec<u8>,
}

impl Outgoing {
    pub fn new(channel: &Arc<Channel>) -> Self {
        Self {
            channel: Arc::clone(channel),
            records: Vec::new(),
        }
    }

    fn send(&mut self, fill: impl FnOnce(&mut Connection) -> io::Result<()>) -> io::Result<()> {
        self.records.clear();
        let mut tls = self.channel.tls();
        fill(&mut tls)?;
        while tls.wants_write() {
            tls.write_tls(&mut self.records)?;
        }
        // The other direction goes on while this one waits for the network.
        drop(tls);
        (&self.channel.socket).write_all(&self.records)
    }

    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        for chunk in bytes.chunks(CHUNK) {
            self.send(|tls| tls.writer().write_all(chunk))?;
        }
        Ok(())
    }

    /// Nothing more will be written.
    pub fn finish(&mut self) -> io::Result<()> {
        self.send(|tls| {
            tls.send_close_notify();
            Ok(())
        })?;
        self.channel.socket.shutdown(Shutdown::Write)
    }
}

/// The incoming direction.
pub(super) struct Incoming {
    channel: Arc<Channel>,
    /// As it came from the network.
    records: Vec<u8>,
    /// Decrypted and not yet read.
    text: Vec<u8>,
    read: usize,
    silence: Duration,
}

impl Incoming {
    /// A read that has waited for `silence` without a byte is an error of the kind `TimedOut`.
    pub fn new(channel: &Arc<Channel>, silence: Duration) -> Self {
        Self {
            channel: Arc::clone(channel),
            records: vec![0; CHUNK],
            text: Vec::new(),
            read: 0,
            silence,
        }
    }

    /// From now on, waits as long as `silence`.
    pub fn wait(&mut self, silence: Duration) {
        self.silence = silence;
    }

    /// Decrypts what has come; leaves `text` empty if that was not a whole record.
    fn decrypt(&mut self, mut records: usize) -> io::Result<()> {
        self.text.clear();
        self.read = 0;
        let mut tls = self.channel.tls();
        let mut offset = 0;
        loop {
            let state = tls.process_new_packets().map_err(io::Error::other)?;
            let waiting = state.plaintext_bytes_to_read();
            if waiting > 0 {
                let start = self.text.len();
                self.text.resize(start + waiting, 0);
                tls.reader().read_exact(&mut self.text[start..])?;
            }
            if records == 0 {
                return Ok(());
            }
            let taken = tls.read_tls(&mut &self.records[offset..offset + records])?;
            offset += taken;
            records -= taken;
        }
    }
}

impl Read for Incoming {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut heard = Instant::now();
        // What came together with the end of the handshake is decrypted first.
        let mut records = 0;
        while self.read == self.text.len() {
            self.decrypt(records)?;
            if self.read < self.text.len() {
                break;
            }
            records = match (&self.channel.socket).read(&mut self.records) {
                Ok(0) => return Ok(0),
                Ok(count) => {
                    heard = Instant::now();
                    count
                }
                Err(error)
                    if matches!(
                        error.kind(),
                        ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted
                    ) =>
                {
                    if heard.elapsed() >= self.silence {
                        return Err(ErrorKind::TimedOut.into());
                    }
                    0
                }
                Err(error) => return Err(error),
            };
        }
        let count = buffer.len().min(self.text.len() - self.read);
        buffer[..count].copy_from_slice(&self.text[self.read..self.read + count]);
        self.read += count;
        Ok(count)
    }
}
