//! The special tokens of a tokenizer, from its configs.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Map, Value};
use tokenizers::AddedToken;

use super::{TokenizerError, json};

/// The config keys that name a special token, in the order in which transformers adds them. Those with a default are
/// the ones that every CLIP tokenizer has; the default is that of the class `CLIPTokenizer`.
const NAMED: [(&str, Option<&str>); 7] = [
    ("bos_token", Some("<|startoftext|>")),
    ("eos_token", Some("<|endoftext|>")),
    ("unk_token", Some("<|endoftext|>")),
    ("sep_token", None),
    ("pad_token", Some("<|endoftext|>")),
    ("cls_token", None),
    ("mask_token", None),
];

/// The tokens that are recognized in a prompt before it is split into words.
pub(super) struct SpecialTokens {
    /// `added_tokens_decoder`, by id.
    pub(super) added: BTreeMap<u32, AddedToken>,
    /// By config key, in the order of [`NAMED`].
    pub(super) named: Vec<(&'static str, AddedToken)>,
    /// Which of `named` were given as text only.
    as_text: Vec<bool>,
}

impl SpecialTokens {
    /// From `tokenizer_config.json` and the bytes of `special_tokens_map.json`.
    pub(super) fn new(
        config: &Map<String, Value>,
        special_tokens_map: Option<&[u8]>,
    ) -> Result<Self, TokenizerError> {
        const CONFIG: &str = "tokenizer_config.json";
        const MAP: &str = "special_tokens_map.json";
        let mut added = BTreeMap::new();
        let mut map = Map::new();
        match (config.get("added_tokens_decoder"), special_tokens_map) {
            (Some(decoder), _) => {
                let decoder = BTreeMap::<u32, Value>::deserialize(decoder).map_err(|source| {
                    let expected = "right about added_tokens_decoder, which should be an object of ids and tokens";
                    TokenizerError::Json { file: CONFIG, expected, source }
                })?;
                for (id, value) in &decoder {
                    added.insert(*id, parse_token(CONFIG, &id.to_string(), value, false)?);
                }
            }
            (None, Some(bytes)) => map = json(MAP, "a JSON object", bytes)?,
            (None, None) => {}
        }
        let mut named = Vec::new();
        let mut as_text = Vec::new();
        for (key, default) in NAMED {
            let (file, value) = match map.get(key) {
                Some(value) => (MAP, value),
                None => (CONFIG, config.get(key).unwrap_or(&Value::Null)),
            };
            let token = match (value, default) {
                (Value::Null, None) => continue,
                (Value::Null, Some(default)) => AddedToken::from(default, true),
                _ => parse_token(file, key, value, file == MAP)?.special(true),
            };
            named.push((key, token));
            as_text.push(!value.is_object());
        }
        Ok(Self {
            added,
            named,
            as_text,
        })
    }

    /// The token that a key of [`NAMED`] with a default stands for.
    pub(super) fn named(&self, key: &str) -> &str {
        self.named
            .iter()
            .find(|(name, _)| *name == key)
            .map_or("", |(_, token)| &token.content)
    }

    /// The tokens to add, each once. Tokens of one content may differ in their flags (`eos_token` an object, `pad_token`
    /// the same token as text); transformers 5 ends up with the last that is not a mere repetition, and so does this.
    pub(super) fn in_order(&self) -> Vec<AddedToken> {
        let mut tokens: Vec<AddedToken> = self.added.values().cloned().collect();
        let mut seen = Vec::new();
        for ((_, token), &as_text) in self.named.iter().zip(&self.as_text) {
            let flags = [
                token.lstrip,
                token.rstrip,
                token.single_word,
                token.normalized,
            ];
            let key = (&token.content, flags, as_text);
            let declared = self
                .added
                .values()
                .any(|added| added.content == token.content);
            if declared || seen.contains(&key) {
                continue;
            }
            seen.push(key);
            tokens.retain(|earlier| earlier.content != token.content);
            tokens.push(token.clone());
        }
        tokens
    }
}

/// A token in a config: text, or an object with transformers' `AddedToken` fields.
fn parse_token(
    file: &'static str,
    key: &str,
    value: &Value,
    special: bool,
) -> Result<AddedToken, TokenizerError> {
    #[derive(Deserialize)]
    struct Fields {
        content: String,
        #[serde(default)]
        lstrip: bool,
        #[serde(default)]
        rstrip: bool,
        #[serde(default)]
        single_word: bool,
        normalized: Option<bool>,
        special: Option<bool>,
    }
    if let Value::String(content) = value {
        return Ok(AddedToken::from(content, true));
    }
    let fields = Fields::deserialize(value).map_err(|_| TokenizerError::TokenForm {
        file,
        key: key.to_owned(),
        found: value.to_string(),
    })?;
    let special = special || fields.special.unwrap_or(false);
    Ok(AddedToken::from(fields.content, special)
        .lstrip(fields.lstrip)
        .rstrip(fields.rstrip)
        .single_word(fields.single_word)
        .normalized(fields.normalized.unwrap_or(!special)))
}
