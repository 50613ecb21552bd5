//! The page.

/// One file, nothing else needed.
pub(crate) const HTML: &str = include_str!("page/index.html");
