//! Messages on standard error.

use std::borrow::Cow;
use std::path::Path;

use asyncdiff_core::quoted;

/// Writes a line to standard error. Unlike with `eprintln!`, an error there (nobody reads, the disk is full) ends nothing: there is
/// nobody left to tell.
macro_rules! complain {
    ($($line:tt)*) => {
        $crate::message::write(&format!($($line)*))
    };
}

/// Longer arguments are cut where a message quotes them.
const LONG_ARGUMENT: usize = 120;
/// Longer words are cut; a path can have some hundred bytes.
const LONG_WORD: usize = 512;
/// Longer messages are cut: nothing that we say is.
const LONG_MESSAGE: usize = 2000;

/// See `complain!`.
pub fn write(line: &str) {
    use std::io::Write;
    let mut error = std::io::stderr().lock();
    let line = without_controls(line);
    let arguments = std::env::args_os().map(|argument| argument.to_string_lossy().into_owned());
    let _ = error.write_all(shown(&line, arguments).as_bytes());
    let _ = error.write_all(b"\n");
}

/// Characters that could tell a terminal what to do, which nobody but `clap` (for colours) has reason to send, written out.
fn without_controls(text: &str) -> String {
    text.chars()
        .flat_map(|c| match c.is_control() && c != '\n' {
            true => c.escape_default().to_string().chars().collect::<Vec<_>>(),
            false => vec![c],
        })
        .collect()
}

/// A message as it is shown: long values are cut, whoever quotes them.
pub fn shown(message: &str, arguments: impl Iterator<Item = String>) -> String {
    let mut message = Cow::Borrowed(message);
    for argument in arguments {
        let value = argument.split_once('=').map(|(_, value)| value);
        for typed in [Some(argument.as_str()), value].into_iter().flatten() {
            // Whoever names a file wants to read its whole name.
            if typed.len() > LONG_ARGUMENT && !Path::new(typed).exists() {
                let escaped = typed.escape_debug().to_string();
                for form in [typed, &escaped] {
                    if message.contains(form) {
                        message = message.replace(form, &quoted(form).to_string()).into();
                    }
                }
            }
        }
    }
    let words = message.split(' ').map(|word| match word.len() {
        0..=LONG_WORD => Cow::Borrowed(word),
        _ => quoted(word).to_string().into(),
    });
    let message = words.collect::<Vec<_>>().join(" ");
    match message.char_indices().nth(LONG_MESSAGE) {
        Some((end, _)) => format!("{}… ({} bytes)", &message[..end], message.len()),
        None => message,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_values_are_cut_and_messages_are_not() {
        let short = "error: cannot read a/b.png: there is no such file";
        assert_eq!(shown(short, ["a/b.png".to_owned()].into_iter()), short);
        let long = "word ".repeat(6000);
        let typed = [format!("--prompt={long}"), "\"\n".repeat(500)];
        for text in [
            format!("error: {long:?} is no seed"),
            format!("error: {long} is no seed"),
            format!("error: {:?} is no seed", typed[1]),
            format!("error: {} is no seed", "x".repeat(30_000)),
        ] {
            let message = shown(&text, typed.iter().cloned());
            assert!(message.len() < 400, "{message}");
            assert!(message.ends_with(" is no seed"), "{message}");
        }
        // What nobody has typed, and has spaces.
        let message = shown(&format!("error: {long}"), std::iter::empty());
        assert!(message.len() < 2100, "{message}");
    }

    #[test]
    fn terminals_are_told_nothing() {
        assert_eq!(
            without_controls("a\u{1b}[2J\u{7}é\nb"),
            "a\\u{1b}[2J\\u{7}é\nb"
        );
    }
}
