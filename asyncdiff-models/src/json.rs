//! JSON as people save it.

use serde::de::DeserializeOwned;

/// The value that JSON text stands for. What some editors put before UTF-8, a byte-order mark, is passed over.
///
/// # Errors
///
/// What the parser says.
pub fn from_slice<T: DeserializeOwned>(text: &[u8]) -> serde_json::Result<T> {
    serde_json::from_slice(text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text))
}
