//! The two things of Exif (JEITA CP-3451) that matter here: which way up a photograph is, and a comment.

/// Tag of the orientation in the first directory.
const ORIENTATION: u16 = 0x0112;
/// Tag that points from the first directory to the Exif directory.
const EXIF_DIRECTORY: u16 = 0x8769;
/// Tag of the comment in the Exif directory.
const USER_COMMENT: u16 = 0x9286;

/// Bytes of one directory entry: tag, type, count, value or offset.
const ENTRY: usize = 12;

/// The orientation, 1 (as stored) to 8, of Exif data with or without the `Exif\0\0` in front; 1 where none is told.
pub(crate) fn orientation(exif: &[u8]) -> u8 {
    let tiff = exif.strip_prefix(b"Exif\0\0").unwrap_or(exif);
    match read_orientation(tiff) {
        Some(value @ 2..=8) => value as u8,
        _ => 1,
    }
}

fn read_orientation(tiff: &[u8]) -> Option<u16> {
    let little = match tiff.get(..2)? {
        b"II" => true,
        b"MM" => false,
        _ => return None,
    };
    let number = |at: usize, bytes: usize| {
        let slice = tiff.get(at..at.checked_add(bytes)?)?;
        let fold = |sum: usize, byte: &u8| sum << 8 | usize::from(*byte);
        Some(if little {
            slice.iter().rev().fold(0, fold)
        } else {
            slice.iter().fold(0, fold)
        })
    };
    let directory = number(4, 4)?;
    let entries = number(directory, 2)?;
    let entry = (0..entries)
        .map(|index| directory + 2 + index * ENTRY)
        .find(|at| number(*at, 2) == Some(usize::from(ORIENTATION)))?;
    u16::try_from(number(entry + 8, 2)?).ok()
}

/// Exif data that holds nothing but `text` as the user comment, in the encoding that web UIs read and write (UTF-16).
/// Without the `Exif\0\0` in front.
pub(crate) fn user_comment(text: &str) -> Vec<u8> {
    let mut comment = b"UNICODE\0".to_vec();
    comment.extend(text.encode_utf16().flat_map(u16::to_be_bytes));

    let header = 8;
    let directory = 2 + ENTRY + 4; // number of entries, one entry, no next directory
    let mut tiff = b"MM\0*".to_vec();
    tiff.extend((header as u32).to_be_bytes());
    // Type 4 is one 32-bit number, type 7 is bytes whose meaning the tag knows.
    let pointer = (EXIF_DIRECTORY, 4_u16, 1, header + directory);
    let content = (USER_COMMENT, 7, comment.len(), header + 2 * directory);
    for (tag, kind, count, value) in [pointer, content] {
        tiff.extend(1_u16.to_be_bytes());
        tiff.extend(tag.to_be_bytes());
        tiff.extend(kind.to_be_bytes());
        tiff.extend((count as u32).to_be_bytes());
        tiff.extend((value as u32).to_be_bytes());
        tiff.extend(0_u32.to_be_bytes());
    }
    tiff.extend(comment);
    tiff
}

#[cfg(test)]
mod tests {
    use super::{orientation, user_comment};

    #[test]
    fn damaged_data_tells_no_orientation() {
        let whole = user_comment("text");
        for length in 0..=whole.len() {
            assert_eq!(orientation(&whole[..length]), 1);
        }
        let mut endless = b"II*\0\xff\xff\xff\xff".to_vec();
        assert_eq!(orientation(&endless), 1);
        // A directory that claims 65535 entries.
        endless[4..].copy_from_slice(&8_u32.to_le_bytes());
        endless.extend([0xff; 40]);
        assert_eq!(orientation(&endless), 1);
    }
}
