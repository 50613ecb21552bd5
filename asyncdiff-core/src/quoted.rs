//! Other people's text in our messages.

use std::fmt::{self, Write};

/// Characters that are shown of the beginning and of the end of a long text.
const EACH_END: usize = 60;

/// A text as messages show it: of a long one the beginning and the end, and control characters, which could tell a terminal what
/// to do, written out. With `{:?}` in quotation marks.
///
/// ```
/// use asyncdiff_core::quoted;
///
/// assert_eq!(quoted("conv_in.weight").to_string(), "conv_in.weight");
/// assert_eq!(quoted("a\u{1b}[2J").to_string(), "a\\u{1b}[2J");
/// assert_eq!(format!("{:?}", quoted("a \"b\"")), "\"a \\\"b\\\"\"");
///
/// let long = format!("{}{}", "a".repeat(20_000), "z".repeat(10_000));
/// let expected = format!("{}… (30000 bytes) …{}", "a".repeat(60), "z".repeat(60));
/// assert_eq!(quoted(&long).to_string(), expected);
/// ```
#[must_use]
pub fn quoted(text: &str) -> Quoted<'_> {
    Quoted(text)
}

/// See [`quoted`].
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Quoted<'a>(&'a str);

impl Quoted<'_> {
    /// Writes a text's parts by `write`, with what is left out between them.
    fn write(
        self,
        f: &mut fmt::Formatter<'_>,
        write: fn(&str, &mut fmt::Formatter<'_>) -> fmt::Result,
    ) -> fmt::Result {
        let text = self.0;
        let mut starts = text.char_indices().map(|(index, _)| index);
        let head = starts.clone().nth(EACH_END);
        let tail = starts.nth_back(EACH_END - 1);
        match (head, tail) {
            (Some(head), Some(tail)) if head < tail => {
                write(&text[..head], f)?;
                write!(f, "… ({} bytes) …", text.len())?;
                write(&text[tail..], f)
            }
            _ => write(text, f),
        }
    }
}

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write(f, |part, f| {
            part.chars().try_for_each(|c| match c.is_control() {
                true => write!(f, "{}", c.escape_default()),
                false => f.write_char(c),
            })
        })
    }
}

impl fmt::Debug for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_char('"')?;
        self.write(f, |part, f| write!(f, "{}", part.escape_debug()))?;
        f.write_char('"')
    }
}
