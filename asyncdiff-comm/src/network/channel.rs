//! A TLS connection whose two directions belong to two threads.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::identity::Identity;
use super::tls::{End, RECORD, Tls, room};

/// Plaintext that is encrypted at once: large enough that taking turns costs nothing.
const CHUNK: usize = 128 * 1024;

/// How often a read that waits looks at the clock.
const TICK: Duration = Duration::from_millis(250);

/// A connection to somebody who has proved to know the secret.
pub(super) struct Channel {
    socket: TcpStream,
    /// Nothing any more after an error.
    tls: Mutex<Option<Tls>>,
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
        socket.set_write_timeout(Some(patience))?;
        let tls = Tls::agree(&mut socket, end, identity, patience)?;
        socket.set_read_timeout(Some(TICK))?;
        socket.set_write_timeout(None)?;
        Ok(Arc::new(Self {
            socket,
            tls: Mutex::new(Some(tls)),
        }))
    }

    pub fn socket(&self) -> &TcpStream {
        &self.socket
    }

    fn tls<R>(&self, then: impl FnOnce(&mut Tls) -> io::Result<R>) -> io::Result<R> {
        let mut tls = self.tls.lock().unwrap_or_else(PoisonError::into_inner);
        let done = tls.as_mut().map(then);
        let done = done.unwrap_or_else(|| Err(ErrorKind::BrokenPipe.into()));
        if done.is_err() {
            *tls = None;
        }
        done
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
            records: vec![0; room(CHUNK)],
        }
    }

    fn send(
        &mut self,
        seal: impl FnOnce(&mut Tls, &mut [u8]) -> io::Result<usize>,
    ) -> io::Result<()> {
        // The other direction goes on while this one waits for the network.
        let records = &mut self.records;
        let count = self.channel.tls(|tls| seal(tls, records))?;
        (&self.channel.socket).write_all(&self.records[..count])
    }

    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        for chunk in bytes.chunks(CHUNK) {
            self.send(|tls, records| tls.seal(chunk, records))?;
        }
        Ok(())
    }

    /// Nothing more will be written.
    pub fn finish(&mut self) -> io::Result<()> {
        self.send(Tls::close)?;
        self.channel.socket.shutdown(Shutdown::Write)
    }
}

/// The incoming direction.
pub(super) struct Incoming {
    channel: Arc<Channel>,
    /// As they came from the network; those of `waiting` have not been decrypted.
    records: Vec<u8>,
    waiting: Range<usize>,
    /// Decrypted; what follows the first `read` bytes has not been read.
    text: Vec<u8>,
    read: usize,
    silence: Duration,
}

impl Incoming {
    /// A read that has waited for `silence` without a byte is an error of the kind `TimedOut`.
    pub fn new(channel: &Arc<Channel>, silence: Duration) -> Self {
        Self {
            channel: Arc::clone(channel),
            records: vec![0; CHUNK + RECORD],
            waiting: 0..0,
            text: Vec::new(),
            read: 0,
            silence,
        }
    }

    /// From now on, waits as long as `silence`.
    pub fn wait(&mut self, silence: Duration) {
        self.silence = silence;
    }

    /// Decrypts what has come, straight to where it is wanted: 0 bytes if that was not a whole record.
    fn decrypt(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.text.clear();
        self.read = 0;
        let mut count = 0;
        self.channel.tls(|tls| {
            while count < buffer.len() {
                let records = &mut self.records[self.waiting.clone()];
                let (used, written) = tls.open(records, &mut buffer[count..], &mut self.text)?;
                self.waiting.start += used;
                count += written;
                if (used, written) == (0, 0) {
                    break;
                }
            }
            Ok(count)
        })
    }

    /// Waits for more of the network; 0 bytes if nothing more will come.
    fn receive(&mut self) -> io::Result<usize> {
        self.records.copy_within(self.waiting.clone(), 0);
        self.waiting = 0..self.waiting.len();
        let start = Instant::now();
        loop {
            match (&self.channel.socket).read(&mut self.records[self.waiting.end..]) {
                Ok(count) => {
                    self.waiting.end += count;
                    return Ok(count);
                }
                Err(error)
                    if matches!(
                        error.kind(),
                        ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted
                    ) =>
                {
                    if start.elapsed() >= self.silence {
                        return Err(ErrorKind::TimedOut.into());
                    }
                }
                Err(error) => return Err(error),
            }
        }
    }
}

impl Read for Incoming {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.read < self.text.len() {
            let count = buffer.len().min(self.text.len() - self.read);
            buffer[..count].copy_from_slice(&self.text[self.read..self.read + count]);
            self.read += count;
            return Ok(count);
        }
        while !buffer.is_empty() {
            let count = self.decrypt(buffer)?;
            if count > 0 {
                return Ok(count);
            }
            if self.receive()? == 0 {
                break;
            }
        }
        Ok(0)
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::thread;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(10);

    fn pair() -> [Arc<Channel>; 2] {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let connecting = thread::spawn(move || {
            let socket = TcpStream::connect(address).unwrap();
            let identity = Identity::new(None).unwrap();
            Channel::open(socket, End::Connecting, &identity, PATIENCE).unwrap()
        });
        let identity = Identity::new(None).unwrap();
        let (socket, _) = listener.accept().unwrap();
        let accepted = Channel::open(socket, End::Accepting, &identity, PATIENCE).unwrap();
        [connecting.join().unwrap(), accepted]
    }

    /// Why whoever connects from `by` is not let in.
    fn refused(patience: Duration, by: impl FnOnce(TcpStream) + Send + 'static) -> ErrorKind {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let stranger = thread::spawn(move || by(TcpStream::connect(address).unwrap()));
        let identity = Identity::new(None).unwrap();
        let (socket, _) = listener.accept().unwrap();
        let met = Channel::open(socket, End::Accepting, &identity, patience);
        stranger.join().unwrap();
        met.err().unwrap().kind()
    }

    #[test]
    fn a_stranger_that_dribbles_has_no_more_time_than_others() {
        let kind = refused(Duration::from_secs(1), |mut socket| {
            // The beginning of a record that could be the first of a handshake; ten seconds, if nobody hangs up before.
            for byte in [22, 3, 1, 1, 0].into_iter().chain([0; 100]) {
                if socket.write_all(&[byte]).is_err() {
                    return;
                }
                thread::sleep(Duration::from_millis(100));
            }
        });
        assert_eq!(kind, ErrorKind::TimedOut);
    }

    #[test]
    fn a_stranger_that_speaks_otherwise_is_not_listened_to() {
        let kind = refused(PATIENCE, |mut socket| {
            socket.write_all(b"GET /").unwrap();
            // It waits: whoever waited for the rest of a record would do so until its time is over.
            let _ = socket.read_to_end(&mut Vec::new());
        });
        assert_eq!(kind, ErrorKind::InvalidData);
    }

    /// Text of `length`, whose bytes do not repeat with a record's or a buffer's length.
    fn text(length: usize) -> Vec<u8> {
        (0..length).map(|index| (index % 251) as u8).collect()
    }

    #[test]
    fn bytes_arrive_as_they_were_in_whatever_pieces_they_are_read() {
        let [here, there] = pair();
        let sent = text(3 * CHUNK + 12345);
        let mut outgoing = Outgoing::new(&here);
        let copy = sent.clone();
        let writer = thread::spawn(move || {
            for piece in [&copy[..1], &copy[1..CHUNK + 7], &copy[CHUNK + 7..]] {
                outgoing.write(piece).unwrap();
            }
            outgoing.finish().unwrap();
        });
        let mut incoming = Incoming::new(&there, PATIENCE);
        let mut got = Vec::new();
        for piece in [1, 7, 16 * 1024 + 1, CHUNK, 100_000] {
            let mut bytes = vec![0; piece];
            incoming.read_exact(&mut bytes).unwrap();
            got.extend(bytes);
        }
        incoming.read_to_end(&mut got).unwrap();
        assert!(got == sent);
        writer.join().unwrap();
    }

    /// As TLS does by itself after 2^24 records.
    #[test]
    fn keys_can_be_changed_between_messages() {
        let ends = pair();
        let sent = text(100_000);
        for (from, to) in [(0, 1), (1, 0), (0, 1), (1, 0)] {
            let mut outgoing = Outgoing::new(&ends[from]);
            let mut incoming = Incoming::new(&ends[to], PATIENCE);
            ends[from].tls(Tls::change_keys).unwrap();
            outgoing.write(&sent).unwrap();
            let mut got = vec![0; sent.len()];
            incoming.read_exact(&mut got).unwrap();
            assert!(got == sent);
        }
    }
}
