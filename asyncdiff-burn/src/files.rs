//! Files that were named by somebody: of the right kind, and no larger than they may be.
//!
//! A named pipe would be waited for without end, and a device such as `/dev/zero` read until memory runs out. So both are
//! looked at before they are opened.

use std::fs::{self, File, FileType};
use std::io::{self, ErrorKind, Read};
use std::path::Path;

/// What a configuration, a list of prompts or the like may have at most, in bytes. The largest vocabularies have a few MiB.
pub const MOST_BYTES_OF_TEXT: u64 = 64 << 20;

/// Opens a file for reading, through links.
///
/// # Errors
///
/// What the system says, or that the path is a folder, a named pipe, a device or a socket; and what to do about it.
pub fn open(path: &Path) -> io::Result<File> {
    let kind = fs::metadata(path).map_err(with_remedy)?.file_type();
    match refusal(kind) {
        Some(refusal) => Err(io::Error::new(ErrorKind::InvalidInput, refusal)),
        None => File::open(path).map_err(with_remedy),
    }
}

/// The contents of a file of at most `most` bytes.
///
/// # Errors
///
/// As [`open`]; that it is larger.
pub fn read(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut file = open(path)?.take(most + 1);
    file.read_to_end(&mut bytes).map_err(with_remedy)?;
    if bytes.len() as u64 > most {
        let refusal =
            format!("it is larger than the {most} bytes that such a file may have, give another");
        return Err(io::Error::new(ErrorKind::FileTooLarge, refusal));
    }
    Ok(bytes)
}

/// The system's error, with what to do about it.
fn with_remedy(error: io::Error) -> io::Error {
    let said = match error.kind() {
        ErrorKind::NotFound => "there is no such file, check its name".to_owned(),
        ErrorKind::PermissionDenied => {
            format!("{error}, let this user read it or give another file")
        }
        _ => format!("{error}, give another file"),
    };
    io::Error::new(error.kind(), said)
}

/// Why nothing is read from, or written to, what is of this kind.
#[must_use]
pub fn refusal(kind: FileType) -> Option<&'static str> {
    if kind.is_file() {
        return None;
    }
    if kind.is_dir() {
        return Some("it is a folder, give a file");
    }
    #[cfg(unix)]
    {
        use std::os::unix::fs::FileTypeExt;
        if kind.is_fifo() {
            return Some("it is a named pipe, give a regular file");
        }
        if kind.is_char_device() || kind.is_block_device() {
            return Some("it is a device, give a regular file");
        }
        if kind.is_socket() {
            return Some("it is a socket, give a regular file");
        }
    }
    Some("it is no regular file, give one")
}
