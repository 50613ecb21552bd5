//! The settings of a picture or video, as web UIs write them into their files, and read them from there: the prompt, the negative
//! prompt, and a line of settings.
//!
//! ```
//! use asyncdiff_media::Parameters;
//!
//! let mut parameters = Parameters::new("red apple, fluent style", "blurry");
//! parameters.add("Steps", 20);
//! parameters.add("Model", "apples, and pears");
//! let text = parameters.to_string();
//! assert_eq!(
//!     text,
//!     "red apple, fluent style\nNegative prompt: blurry\nSteps: 20, Model: \"apples, and pears\""
//! );
//! assert_eq!(Parameters::read(&text), parameters);
//! assert_eq!(parameters.get("Steps"), Some("20"));
//! ```

use std::fmt::{self, Display};

const NEGATIVE: &str = "Negative prompt: ";

/// What makes a picture again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Parameters {
    /// What to draw.
    pub prompt: String,
    /// What to avoid; empty for nothing.
    pub negative_prompt: String,
    /// Names and values, in their order.
    pub settings: Vec<(String, String)>,
}

impl Parameters {
    /// Those of the prompts, without settings.
    #[must_use]
    pub fn new(prompt: impl Into<String>, negative_prompt: impl Into<String>) -> Self {
        Self {
            prompt: prompt.into(),
            negative_prompt: negative_prompt.into(),
            settings: Vec::new(),
        }
    }

    /// Adds a setting.
    pub fn add(&mut self, name: &str, value: impl Display) {
        self.settings.push((name.to_owned(), value.to_string()));
    }

    /// The first setting of that name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        let mut settings = self.settings.iter();
        settings
            .find(|(found, _)| found == name)
            .map(|(_, value)| value.as_str())
    }

    /// Reads what [`Display`] or a web UI has written. Of a text without a line of settings, everything is the prompt.
    #[must_use]
    pub fn read(text: &str) -> Self {
        let (texts, last) = text.trim_end().rsplit_once('\n').unwrap_or(("", text));
        let settings = settings(last.trim());
        let (texts, settings) = match settings {
            Some(settings) => (texts, settings),
            None => (text.trim_end(), Vec::new()),
        };
        let (prompt, negative_prompt) = match texts.strip_prefix(NEGATIVE) {
            Some(negative) => ("", negative),
            None => texts
                .split_once(&format!("\n{NEGATIVE}"))
                .unwrap_or((texts, "")),
        };
        Self {
            prompt: prompt.to_owned(),
            negative_prompt: negative_prompt.to_owned(),
            settings,
        }
    }
}

/// The settings of a line; `None` if it is none.
fn settings(line: &str) -> Option<Vec<(String, String)>> {
    let mut settings = Vec::new();
    let mut rest = line;
    while !rest.is_empty() {
        let (name, after) = rest.split_once(": ")?;
        if name.contains([',', '"']) {
            return None;
        }
        let (value, end) = if after.starts_with('"') {
            let mut values = serde_json::Deserializer::from_str(after).into_iter::<String>();
            let value = values.next()?.ok()?;
            (value, values.byte_offset())
        } else {
            let end = after.find(',').unwrap_or(after.len());
            (after[..end].to_owned(), end)
        };
        settings.push((name.trim().to_owned(), value));
        rest = after[end..].trim_start_matches(',').trim_start();
    }
    // One at least, and the one that every web UI writes.
    settings
        .iter()
        .any(|(name, _)| name == "Steps")
        .then_some(settings)
}

impl Display for Parameters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.prompt)?;
        if !self.negative_prompt.is_empty() {
            write!(f, "\n{NEGATIVE}{}", self.negative_prompt)?;
        }
        for (index, (name, value)) in self.settings.iter().enumerate() {
            f.write_str(if index == 0 { "\n" } else { ", " })?;
            // In quotation marks, as in JSON, where it would be taken for several.
            match value.contains([',', '\n', '"']) {
                true => write!(f, "{name}: {}", serde_json::Value::from(value.as_str()))?,
                false => write!(f, "{name}: {value}")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_of_web_uis_are_read() {
        // As AUTOMATIC1111's wiki shows it.
        let text = "portrait of a cat,\n(fluffy:1.2)\nNegative prompt: dog, 3d\nSteps: 20, Sampler: DPM++ 2M Karras, CFG scale: 7, Seed: 965400086, Size: 512x512, Model hash: 45dee52b, Lora hashes: \"a: 1b, c: 2d\"";
        let read = Parameters::read(text);
        assert_eq!(read.prompt, "portrait of a cat,\n(fluffy:1.2)");
        assert_eq!(read.negative_prompt, "dog, 3d");
        assert_eq!(read.get("Sampler"), Some("DPM++ 2M Karras"));
        assert_eq!(read.get("Seed"), Some("965400086"));
        assert_eq!(read.get("Lora hashes"), Some("a: 1b, c: 2d"));
        assert_eq!(read.to_string(), text);
    }

    #[test]
    fn texts_without_settings_are_prompts() {
        for text in ["a cat", "a cat: fluffy, grey", "two\nlines", ""] {
            assert_eq!(
                Parameters::read(text),
                Parameters::new(text, ""),
                "{text:?}"
            );
        }
        let only = Parameters::read("Steps: 2");
        assert_eq!((only.prompt.as_str(), only.get("Steps")), ("", Some("2")));
        let negative = Parameters::read("\nNegative prompt: dog\nSteps: 2");
        assert_eq!(negative.negative_prompt, "dog");
    }
}
