//! From inputs that are right to inputs that are nearly right: changes of bytes, and of values in JSON, also in that of a
//! safetensors header.

use rand_mt::Mt64;
use serde_json::{Map, Number, Value, json};

/// The same inputs for the same seed.
pub struct Mutator(Mt64);

const NUMBERS: [f64; 16] = [
    0.0, -0.0, 1.0, -1.0, 2.0, 3.0, 7.0, 64.0, 65.0, 65536.0, 0.5, 1e-320, 1e9, 1e18, 1e308, -1e308,
];

const TEXTS: [&str; 14] = [
    "",
    "a\0b",
    "../../escaped",
    "/etc/passwd",
    "\u{feff}",
    "\u{1b}[2J",
    "é漢🙂",
    "NaN",
    "null",
    "F16",
    "F64",
    "down_blocks.0",
    "lora_unet_",
    "epsilon",
];

/// Pieces that mean something to one of the parsers.
const TOKENS: [&[u8]; 20] = [
    b"\"",
    b"{",
    b"}",
    b"[",
    b"]",
    b",",
    b":",
    b"\\",
    b"(",
    b")",
    b":1.3)",
    b"\xef\xbb\xbf",
    b"\xff\xfe",
    b"\0",
    b"Infinity",
    b"NaN",
    b"1e999",
    b"-",
    b"99999999999999999999",
    b"\xf0\x9f\x99\x82",
];

impl Mutator {
    pub fn new(seed: u64) -> Self {
        Self(Mt64::new(seed))
    }

    pub fn below(&mut self, count: usize) -> usize {
        (self.0.next_u64() % count.max(1) as u64) as usize
    }

    fn one_in(&mut self, count: usize) -> bool {
        self.below(count) == 0
    }

    /// A changed `seed`; parts of `other` may come into it.
    pub fn mutate(&mut self, seed: &[u8], other: &[u8]) -> Vec<u8> {
        let mut bytes = seed.to_vec();
        for _ in 0..=self.below(4) {
            bytes = match self.below(3) {
                0 => self.change_bytes(bytes, other),
                _ => self
                    .change_values(&bytes)
                    .unwrap_or_else(|| self.change_bytes(bytes, other)),
            };
        }
        bytes
    }

    fn change_bytes(&mut self, mut bytes: Vec<u8>, other: &[u8]) -> Vec<u8> {
        // Headers are short beside what follows, and more interesting.
        let length = match self.one_in(2) {
            true => bytes.len(),
            false => bytes.len().min(4096),
        };
        let at = self.below(length + 1);
        let end = (at + 1 + self.below(16)).min(bytes.len()).max(at);
        match self.below(8) {
            0 if at < bytes.len() => bytes[at] ^= 1 << self.below(8),
            1 if at < bytes.len() => bytes[at] = self.below(256) as u8,
            2 => bytes.truncate(at),
            3 => drop(bytes.drain(at..end)),
            4 => {
                let piece = bytes[at..end].to_vec();
                bytes.splice(at..at, piece.repeat(1 + self.below(3)));
            }
            5 => {
                let from = self.below(other.len());
                let to = (from + self.below(64)).min(other.len());
                bytes.splice(
                    at..end,
                    other.get(from..to).unwrap_or_default().iter().copied(),
                );
            }
            6 => {
                let piece = vec![self.below(256) as u8; self.below(300)];
                bytes.splice(at..at, piece);
            }
            _ => {
                let token = TOKENS[self.below(TOKENS.len())];
                bytes.splice(at..at, token.iter().copied());
            }
        }
        bytes
    }

    /// Changes JSON at the beginning, behind one byte, or in a safetensors header; `None` if there is none.
    fn change_values(&mut self, bytes: &[u8]) -> Option<Vec<u8>> {
        for skip in 0..2 {
            if let Some(rest) = bytes.get(skip..)
                && let Ok(mut value) = serde_json::from_slice(rest)
            {
                self.change(&mut value);
                let mut changed = bytes[..skip].to_vec();
                changed.extend(value.to_string().as_bytes());
                return Some(changed);
            }
        }
        let (length, rest) = bytes.split_first_chunk()?;
        let length = usize::try_from(u64::from_le_bytes(*length)).ok()?;
        let mut header = serde_json::from_slice(rest.get(..length)?).ok()?;
        self.change(&mut header);
        let header = header.to_string();
        let mut changed = (header.len() as u64).to_le_bytes().to_vec();
        changed.extend(header.as_bytes());
        changed.extend(&rest[length..]);
        Some(changed)
    }

    /// Changes one of the values in `value`, itself included.
    fn change(&mut self, value: &mut Value) {
        let inner = match value {
            Value::Array(values) => values.len(),
            Value::Object(values) => values.len(),
            _ => 0,
        };
        if inner == 0 || self.one_in(12) {
            return *value = self.another(value);
        }
        let index = self.below(inner);
        match value {
            Value::Array(values) => match self.below(8) {
                0 => drop(values.remove(index)),
                1 => values.push(values[index].clone()),
                2 => *values = vec![values[index].clone(); self.below(300)],
                _ => self.change(&mut values[index]),
            },
            Value::Object(values) => self.change_object(values, index),
            _ => {}
        }
    }

    fn change_object(&mut self, values: &mut Map<String, Value>, index: usize) {
        let Some(key) = values.keys().nth(index).cloned() else {
            return;
        };
        match self.below(10) {
            0 => drop(values.remove(&key)),
            1 => {
                // Another name for the same.
                let value = values.remove(&key).unwrap_or_default();
                let name = self.text(&key);
                values.insert(name, value);
            }
            2 => {
                let other = self.below(values.len());
                let other = values.values().nth(other).cloned().unwrap_or_default();
                values.insert(key, other);
            }
            _ => {
                if let Some(value) = values.get_mut(&key) {
                    self.change(value);
                }
            }
        }
    }

    fn another(&mut self, value: &Value) -> Value {
        match (self.below(4), value) {
            (0 | 1, Value::Number(number)) => {
                let number = number.as_f64().unwrap_or_default();
                let changed = match self.below(5) {
                    0 => number + 1.0,
                    1 => number - 1.0,
                    2 => -number,
                    3 => number * 1000.0,
                    _ => NUMBERS[self.below(NUMBERS.len())],
                };
                // Whole numbers stay ones, as far as that goes.
                match changed.fract() == 0.0 && changed.abs() < 1e19 {
                    true if changed < 0.0 => json!(changed as i64),
                    true => json!(changed as u64),
                    false => Number::from_f64(changed).map_or(Value::Null, Value::Number),
                }
            }
            (0 | 1, Value::String(text)) => self.text(text).into(),
            (0 | 1, Value::Bool(flag)) => json!(!flag),
            _ => match self.below(8) {
                0 => Value::Null,
                1 => json!([]),
                2 => json!({}),
                3 => json!(u64::MAX),
                4 => json!(self.one_in(2)),
                5 => json!([value, value]),
                6 => json!(NUMBERS[self.below(NUMBERS.len())]),
                _ => self.text("").into(),
            },
        }
    }

    fn text(&mut self, text: &str) -> String {
        let other = TEXTS[self.below(TEXTS.len())];
        match self.below(5) {
            0 => other.to_owned(),
            1 => format!("{text}{other}"),
            2 => format!("{other}{text}"),
            3 => text.chars().filter(|_| !self.one_in(8)).collect(),
            _ => text.repeat(1 + self.below(200)),
        }
    }
}
