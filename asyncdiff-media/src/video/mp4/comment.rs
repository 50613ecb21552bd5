//! A comment in an MP4 file, where players and taggers look for one: `moov/udta/meta/ilst/©cmt`, as in iTunes.

/// Bytes of a box's length and name.
const HEADER: usize = 8;

/// The box `udta` with `text` as the comment; nothing for no text.
pub(super) fn user_data(text: &str) -> Vec<u8> {
    if text.is_empty() {
        return Vec::new();
    }
    // Type 1 is UTF-8, then the language, which is none.
    let data = [&1_u32.to_be_bytes(), &[0; 4], text.as_bytes()].concat();
    let comment = boxed(b"\xa9cmt", &boxed(b"data", &data));
    // No version, flags and predefined value; the kind and its maker; two reserved words and an empty name.
    let handler = [&[0; 8], &b"mdirappl"[..], &[0; 9]].concat();
    let meta = [
        &[0; 4],
        &*boxed(b"hdlr", &handler),
        &*boxed(b"ilst", &comment),
    ];
    boxed(b"udta", &boxed(b"meta", &meta.concat()))
}

/// Lets the box `moov` of a file end with `user_data`, in the place of as many bytes of the free box behind it. `None` if the
/// boxes lie otherwise.
pub(super) fn append(file: &mut [u8], user_data: &[u8]) -> Option<()> {
    let mut start = 0;
    while name(file, start)? != b"moov" {
        start += length(file, start)?;
    }
    let index = length(file, start)?;
    let end = start + index;
    if name(file, end)? != b"free" {
        return None;
    }
    let free = length(file, end)?.checked_sub(user_data.len())?;
    let rest = end + user_data.len();
    file.get_mut(end..rest)?.copy_from_slice(user_data);
    set_length(file, start, index + user_data.len())?;
    // What remains is a box or nothing.
    if free == 0 {
        return Some(());
    }
    if free < HEADER {
        return None;
    }
    set_length(file, rest, free)?;
    file.get_mut(rest + 4..rest + HEADER)?
        .copy_from_slice(b"free");
    Some(())
}

fn boxed(name: &[u8; 4], content: &[u8]) -> Vec<u8> {
    let length = (HEADER + content.len()) as u32;
    [&length.to_be_bytes(), &name[..], content].concat()
}

fn length(file: &[u8], start: usize) -> Option<usize> {
    let bytes = file.get(start..start + 4)?.try_into().ok()?;
    let length = u32::from_be_bytes(bytes) as usize;
    (length >= HEADER).then_some(length)
}

fn set_length(file: &mut [u8], start: usize, length: usize) -> Option<()> {
    let length = u32::try_from(length).ok()?.to_be_bytes();
    file.get_mut(start..start + 4)?.copy_from_slice(&length);
    Some(())
}

fn name(file: &[u8], start: usize) -> Option<&[u8]> {
    file.get(start + 4..start + HEADER)
}
