//! The text that a picture's file carries.

use std::io::Cursor;

/// The keyword that web UIs write.
const KEYWORD: &str = "parameters";

/// The most bytes of text that are unpacked: a prompt is some hundred.
const MOST_BYTES: usize = 1 << 20;

/// What the bytes of a PNG file say of how it was made, where [`write()`](super::write()) and web UIs put it. `None` if they are no
/// PNG, are damaged, or say nothing.
#[must_use]
pub fn text(bytes: &[u8]) -> Option<String> {
    let mut decoder =
        png::Decoder::new_with_limits(Cursor::new(bytes), png::Limits { bytes: MOST_BYTES });
    decoder.set_ignore_text_chunk(false);
    let reader = decoder.read_info().ok()?;
    let info = reader.info();
    let plain = info.uncompressed_latin1_text.iter();
    let plain = plain.filter(|chunk| chunk.keyword == KEYWORD);
    let packed = info.compressed_latin1_text.iter();
    let packed = packed.filter(|chunk| chunk.keyword == KEYWORD);
    let unicode = info.utf8_text.iter();
    let unicode = unicode.filter(|chunk| chunk.keyword == KEYWORD);
    let unpack = |chunk: &png::text_metadata::ZTXtChunk| {
        let mut chunk = chunk.clone();
        chunk.decompress_text_with_limit(MOST_BYTES).ok()?;
        chunk.get_text().ok()
    };
    let unpack_unicode = |chunk: &png::text_metadata::ITXtChunk| {
        let mut chunk = chunk.clone();
        chunk.decompress_text_with_limit(MOST_BYTES).ok()?;
        chunk.get_text().ok()
    };
    plain
        .map(|chunk| chunk.text.clone())
        .chain(packed.filter_map(unpack))
        .chain(unicode.filter_map(unpack_unicode))
        .next()
}
