//! Prompts in which some words count more than others, in the syntax of the AUTOMATIC1111 web UI.
//!
//! | written | weight of its tokens |
//! |---|---|
//! | `(word:1.3)` | 1.3 |
//! | `(word)` | 1.1 |
//! | `[word]` | 1/1.1 |
//! | `\(` `\)` `\[` `\]` `\\` | the character itself, no bracket |
//!
//! Brackets may hold several words and other brackets; nested weights multiply. A closing bracket that nothing opens is
//! text, one that nothing closes reaches to the prompt's end, and a single backslash is left out: all as in the web UI
//! (`parse_prompt_attention` in its `modules/prompt_parser.py`). A number that cannot be read, as in `(word:1.2.3)`, is
//! text; there it is an error.
//!
//! The rest of the web UI's language has no meaning here: `BREAK`, `AND` and `<lora:…>` are words like any other, and what
//! `[from:to:when]` and `[one|other]` have in their brackets is text with the weight 1/1.1.
//!
//! What a weight does is the web UI's default, "Original" of `modules/sd_emphasis.py`: it multiplies the text encoder's
//! output for each of its tokens, and then the whole output of that encoder for that prompt, beginning, end and padding
//! included, is rescaled so that its mean is what it was. The pooled text of Stable Diffusion XL is not weighted.
//!
//! ```
//! use asyncdiff_models::prompt::parse;
//!
//! let pieces = parse("a (red:1.5) [barn]");
//! let found: Vec<_> = pieces.iter().map(|piece| (piece.text.as_str(), piece.weight)).collect();
//! assert_eq!(found, [("a ", 1.0), ("red", 1.5), (" ", 1.0), ("barn", 1.0 / 1.1)]);
//! ```

/// What a round bracket without a number multiplies with, and a square one divides by.
const STEP: f64 = 1.1;

/// A part of a prompt whose tokens have the same weight.
#[derive(Clone, Debug, PartialEq)]
pub struct Piece {
    /// The text.
    pub text: String,
    /// What the text encoder's output for its tokens is multiplied with.
    pub weight: f64,
}

impl Piece {
    /// A text that counts as it is, whatever brackets are in it.
    #[must_use]
    pub fn literal(text: impl Into<String>) -> Self {
        Self {
            text: text.into(),
            weight: 1.0,
        }
    }
}

/// The pieces of a prompt, at least one, neighbours of different weights.
#[must_use]
pub fn parse(prompt: &str) -> Vec<Piece> {
    let mut pieces = Pieces::default();
    let mut rest = prompt;
    while let Some(first) = rest.chars().next() {
        let length = match first {
            '\\' => pieces.escape(rest),
            '(' => pieces.open(Bracket::Round),
            '[' => pieces.open(Bracket::Square),
            ')' => pieces.close(Bracket::Round, STEP, ")"),
            ']' => pieces.close(Bracket::Square, 1.0 / STEP, "]"),
            ':' => match number_and_bracket(&rest[1..]) {
                Some((weight, length)) => pieces.close(Bracket::Round, weight, &rest[..1 + length]),
                None => pieces.text(":"),
            },
            _ => {
                let end = rest.find(['\\', '(', ')', '[', ']', ':']);
                pieces.text(&rest[..end.unwrap_or(rest.len())])
            }
        };
        rest = &rest[length..];
    }
    pieces.finish()
}

/// A weight and the bracket behind it, as `1.3)` with or without blanks: its value, and the length of both.
fn number_and_bracket(text: &str) -> Option<(f64, usize)> {
    let (number, _) = text.split_once(')')?;
    let is_part = |character: char| character.is_ascii_digit() || "+-.".contains(character);
    let weight = number.trim();
    // Rust also reads exponents, infinities and the like.
    let value = weight
        .parse()
        .ok()
        .filter(|_| weight.chars().all(is_part))?;
    Some((value, number.len() + 1))
}

#[derive(Clone, Copy)]
enum Bracket {
    Round,
    Square,
}

/// The pieces so far, and where the brackets begin that are still open. Every method returns how much it has read.
#[derive(Default)]
struct Pieces {
    pieces: Vec<Piece>,
    round: Vec<usize>,
    square: Vec<usize>,
}

impl Pieces {
    fn text(&mut self, text: &str) -> usize {
        self.pieces.push(Piece::literal(text));
        text.len()
    }

    fn escape(&mut self, rest: &str) -> usize {
        let character = &rest[1..]
            .chars()
            .next()
            .filter(|character| "()[]\\".contains(*character))
            .map(String::from)
            .unwrap_or_default();
        1 + self.text(character)
    }

    fn open(&mut self, bracket: Bracket) -> usize {
        let start = self.pieces.len();
        self.opened(bracket).push(start);
        1
    }

    /// Ends the innermost bracket of that kind; what was written is text if there is none.
    fn close(&mut self, bracket: Bracket, weight: f64, written: &str) -> usize {
        match self.opened(bracket).pop() {
            Some(start) => {
                self.multiply(start, weight);
                written.len()
            }
            None => self.text(written),
        }
    }

    fn opened(&mut self, bracket: Bracket) -> &mut Vec<usize> {
        match bracket {
            Bracket::Round => &mut self.round,
            Bracket::Square => &mut self.square,
        }
    }

    fn multiply(&mut self, start: usize, weight: f64) {
        for piece in &mut self.pieces[start..] {
            piece.weight *= weight;
        }
    }

    fn finish(mut self) -> Vec<Piece> {
        for start in std::mem::take(&mut self.round) {
            self.multiply(start, STEP);
        }
        for start in std::mem::take(&mut self.square) {
            self.multiply(start, 1.0 / STEP);
        }
        let mut merged: Vec<Piece> = Vec::new();
        for piece in self.pieces {
            match merged.last_mut().filter(|last| last.weight == piece.weight) {
                Some(last) => last.text += &piece.text,
                None => merged.push(piece),
            }
        }
        if merged.is_empty() {
            merged.push(Piece::literal(""));
        }
        merged
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(prompt: &str) -> Vec<(String, f64)> {
        let pieces = parse(prompt).into_iter();
        pieces.map(|piece| (piece.text, piece.weight)).collect()
    }

    /// The examples in the documentation of the web UI's `parse_prompt_attention`.
    #[test]
    fn the_examples_of_the_web_ui() {
        let cases: &[(&str, &[(&str, f64)])] = &[
            ("normal text", &[("normal text", 1.0)]),
            (
                "an (important) word",
                &[("an ", 1.0), ("important", 1.1), (" word", 1.0)],
            ),
            ("(unbalanced", &[("unbalanced", 1.1)]),
            (r"\(literal\]", &[("(literal]", 1.0)]),
            ("(unnecessary)(parens)", &[("unnecessaryparens", 1.1)]),
            (
                "a (((house:1.3)) [on] a (hill:0.5), sun, (((sky))).",
                &[
                    ("a ", 1.0),
                    ("house", 1.573_000_000_000_000_4),
                    (" ", 1.1),
                    ("on", 1.0),
                    (" a ", 1.1),
                    ("hill", 0.55),
                    (", sun, ", 1.1),
                    ("sky", 1.464_100_000_000_000_6),
                    (".", 1.1),
                ],
            ),
        ];
        for (prompt, expected) in cases {
            let expected: Vec<_> = expected
                .iter()
                .map(|(text, weight)| ((*text).to_owned(), *weight))
                .collect();
            assert_eq!(parsed(prompt), expected, "{prompt}");
        }
    }

    #[test]
    fn what_is_no_weight_is_text() {
        for prompt in [
            "",
            "a:b",
            "a:1.3)",
            "a) b]",
            "猫: 🐈",
            "BREAK AND <lora:x:1>",
        ] {
            assert_eq!(parsed(prompt), [(prompt.to_owned(), 1.0)]);
        }
        for (prompt, text) in [
            ("(a:1.2.3)", "a:1.2.3"),
            ("(a:.)", "a:."),
            ("(a:1e3)", "a:1e3"),
            ("(a:inf)", "a:inf"),
            ("(a:)", "a:"),
        ] {
            assert_eq!(parsed(prompt), [(text.to_owned(), STEP)]);
        }
        for prompt in ["[cat:dog:0.5]", "[cat|dog]"] {
            let text = prompt[1..prompt.len() - 1].to_owned();
            assert_eq!(parsed(prompt), [(text, 1.0 / STEP)]);
        }
    }

    #[test]
    fn any_mixture_of_signs_is_read_to_its_end() {
        let signs = ["(", ")", "[", "]", ":", "1.5", "\\", "é", " ", ":2)"];
        for number in 0..100_000_usize {
            let digits = (0..5).map(|place| number / 10_usize.pow(place) % 10);
            let prompt: String = digits.map(|digit| signs[digit]).collect();
            let pieces = parse(&prompt);
            assert!(!pieces.is_empty() && pieces.iter().all(|piece| piece.weight.is_finite()));
            let kept = |text: &str| text.matches(['é', ' ']).count();
            let found: usize = pieces.iter().map(|piece| kept(&piece.text)).sum();
            // A blank before a weight belongs to it.
            assert!(found <= kept(&prompt), "{prompt}");
            assert!(
                pieces
                    .windows(2)
                    .all(|pair| pair[0].weight != pair[1].weight),
                "{prompt}"
            );
        }
    }
}
