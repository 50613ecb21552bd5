//! Prompts to token ids, as the text encoders of Stable Diffusion checkpoints expect them.
//!
//! [`ClipTokenizer`] reads a `tokenizer/` folder of a diffusers checkpoint (its files' bytes, not their paths) and does
//! what `CLIPTokenizer` of transformers 5 does with it: Unicode NFC, white space collapsed, lower case, the word pattern
//! of CLIP, bytes as characters, byte pair encoding with `</w>` at the end of a word.

mod special_tokens;

use asyncdiff_core::quoted;
use serde_json::{Map, Value};
use tokenizers::decoders::byte_level::ByteLevel;
use tokenizers::models::bpe::{BPE, Merges, Vocab};
use tokenizers::normalizers::{
    Lowercase, NFC, Replace, Sequence as Normalizers, replace::ReplacePattern,
};
use tokenizers::pre_tokenizers::sequence::Sequence as PreTokenizers;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{SplitDelimiterBehavior, Tokenizer};

use crate::json;
use special_tokens::SpecialTokens;

/// What CLIP counts as a word: a special token, an English contraction, letters, one digit, or a run of other signs.
const WORD: &str =
    r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+";

const END_OF_WORD: &str = "</w>";

/// Longest `model_max_length` that is believed. transformers writes 10^30 for "unknown", and padding to that is no use.
const LONGEST: u64 = 1 << 16;

/// The tokenizer of a CLIP text encoder (transformers' `CLIPTokenizer`).
#[derive(Clone, Debug)]
pub struct ClipTokenizer {
    tokenizer: Tokenizer,
    bos: u32,
    eos: u32,
    pad: u32,
    model_max_length: usize,
}

/// A prompt, ready for the text encoder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Encoding {
    /// Exactly `model_max_length` token ids: beginning of text, the prompt, end of text, padding.
    pub ids: Vec<u32>,
    /// The end of the prompt, if it did not fit, as diffusers puts it in its warning (so in lower case).
    pub truncated: Option<String>,
}

/// Why a tokenizer cannot be made from its files.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TokenizerError {
    /// A file is not JSON, or JSON of another form.
    #[error("{file} is not {expected}: {source}; download the file again", source = quoted(&source.to_string()))]
    Json {
        /// The file.
        file: &'static str,
        /// What it should be.
        expected: &'static str,
        /// What the parser says.
        source: serde_json::Error,
    },
    /// merges.txt is not text.
    #[error(
        "merges.txt is not UTF-8 text (byte {position} is not part of a character); download the file again"
    )]
    MergesNotText {
        /// Position of the first bad byte.
        position: usize,
    },
    /// A line of merges.txt is not a pair.
    #[error(
        "line {line} of merges.txt should be two tokens with one space between, found {found:?}; download the file again",
        found = quoted(found)
    )]
    MergeForm {
        /// Line number, from 1.
        line: usize,
        /// The line.
        found: String,
    },
    /// merges.txt uses a token that vocab.json does not have.
    #[error(
        "line {line} of merges.txt needs the token {token:?}, which vocab.json does not have; take both files from one tokenizer",
        token = quoted(token)
    )]
    MergeToken {
        /// Line number, from 1.
        line: usize,
        /// The token.
        token: String,
    },
    /// A config gives something else where a token is expected.
    #[error(
        "{key:?} in {file} should be a token, as text or as an object with \"content\", found {found}",
        found = quoted(found),
        key = quoted(key)
    )]
    TokenForm {
        /// The file.
        file: &'static str,
        /// The key.
        key: String,
        /// What it holds.
        found: String,
    },
    /// A special token without an id.
    #[error(
        "{key} is {token:?}, which vocab.json does not have; correct {key} in tokenizer_config.json and special_tokens_map.json, or take the vocab.json that belongs to them",
        token = quoted(token)
    )]
    MissingToken {
        /// The key that names it.
        key: &'static str,
        /// The token.
        token: String,
    },
    /// `added_tokens_decoder` contradicts vocab.json.
    #[error(
        "added_tokens_decoder in tokenizer_config.json gives {token:?} the id {declared}, but with vocab.json it gets {}; take both files from one tokenizer",
        found.map_or("none".to_owned(), |id| id.to_string()), token = quoted(token))]
    AddedTokenId {
        /// The token.
        token: String,
        /// Id in tokenizer_config.json.
        declared: u32,
        /// Id by vocab.json, or the next free one.
        found: Option<u32>,
    },
    /// No usable `model_max_length`.
    #[error(
        "model_max_length in tokenizer_config.json should be a number from 2 to {LONGEST}, found {found}; set it to the text encoder's max_position_embeddings (77 for CLIP)",
        found = quoted(found)
    )]
    ModelMaxLength {
        /// What the file holds.
        found: String,
    },
    /// The `tokenizers` crate refuses.
    #[error(
        "the tokenizer cannot be built from vocab.json and merges.txt: {0}; download both again"
    )]
    Build(#[source] tokenizers::Error),
}

impl ClipTokenizer {
    /// Makes a tokenizer from the bytes of `vocab.json`, `merges.txt`, `tokenizer_config.json` and, if the checkpoint
    /// has it, `special_tokens_map.json`.
    ///
    /// The special tokens and `model_max_length` come from the configs. As in transformers, the special tokens map goes
    /// before `tokenizer_config.json`, unless that has an `added_tokens_decoder`; a special token that no file names is
    /// the one of the class (`<|startoftext|>`, `<|endoftext|>`); and a special token that occurs in a prompt is that
    /// token, so where "!" pads (Stable Diffusion 2, second encoder of SDXL) "wow!" ends in padding.
    ///
    /// # Errors
    ///
    /// [`TokenizerError`] if a file is damaged or contradicts another one, or if `model_max_length` is not known.
    pub fn new(
        vocab: &[u8],
        merges: &[u8],
        config: &[u8],
        special_tokens_map: Option<&[u8]>,
    ) -> Result<Self, TokenizerError> {
        let vocab: Vocab = json("vocab.json", "a JSON object of tokens and their ids", vocab)?;
        let config: Map<String, Value> = json("tokenizer_config.json", "a JSON object", config)?;
        let model_max_length = model_max_length(&config)?;
        let special = SpecialTokens::new(&config, special_tokens_map)?;
        let merges = parse_merges(merges, &vocab)?;
        // The encoder of byte pairs itself looks this one up, and it does not know the added tokens.
        let unk = special.named("unk_token");
        if !vocab.contains_key(unk) {
            return Err(missing("unk_token", unk));
        }

        let mut tokenizer = pipeline(vocab, merges, unk).map_err(TokenizerError::Build)?;
        for (key, token) in &special.named {
            let declared = special
                .added
                .values()
                .any(|added| added.content == token.content);
            if !declared && tokenizer.token_to_id(&token.content).is_none() {
                return Err(missing(key, &token.content));
            }
        }
        tokenizer.add_tokens(&special.in_order());
        for (&declared, added) in &special.added {
            let found = tokenizer.token_to_id(&added.content);
            if found != Some(declared) {
                let token = added.content.clone();
                return Err(TokenizerError::AddedTokenId {
                    token,
                    declared,
                    found,
                });
            }
        }
        let id = |key: &'static str| {
            let token = special.named(key);
            tokenizer
                .token_to_id(token)
                .ok_or_else(|| missing(key, token))
        };
        Ok(Self {
            bos: id("bos_token")?,
            eos: id("eos_token")?,
            pad: id("pad_token")?,
            model_max_length,
            tokenizer,
        })
    }

    /// Number of token ids that the text encoder takes, from `tokenizer_config.json`.
    #[must_use]
    pub fn model_max_length(&self) -> usize {
        self.model_max_length
    }

    /// One more than the highest token id: what the text encoder's `vocab_size` must reach.
    #[must_use]
    pub fn vocab_size(&self) -> usize {
        let highest = self.tokenizer.get_vocab(true).into_values().max();
        highest.map_or(0, |highest| highest as usize + 1)
    }

    /// The prompt in exactly [`model_max_length`](Self::model_max_length) ids. A prompt that is too long loses its end;
    /// the end-of-text token stays last.
    #[must_use]
    pub fn encode(&self, prompt: &str) -> Encoding {
        self.encode_pieces([prompt]).0
    }

    /// The same for a prompt in pieces, each tokenized by itself. Beside the ids, the index of the piece that each is of; the
    /// beginning, the end and padding are of none.
    #[must_use]
    pub fn encode_pieces<'a>(
        &self,
        pieces: impl IntoIterator<Item = &'a str>,
    ) -> (Encoding, Vec<Option<usize>>) {
        let (mut ids, mut owners) = (vec![self.bos], vec![None]);
        for (index, piece) in pieces.into_iter().enumerate() {
            ids.extend(self.inner_ids(piece));
            owners.resize(ids.len(), Some(index));
        }
        let last = self.model_max_length - 1;
        let truncated = (ids.len() > last).then(|| self.decode(&ids[last..]));
        ids.truncate(last);
        owners.truncate(last);
        ids.push(self.eos);
        ids.resize(self.model_max_length, self.pad);
        owners.resize(self.model_max_length, None);
        (Encoding { ids, truncated }, owners)
    }

    /// All ids of the prompt between the beginning-of-text and end-of-text tokens, neither padded nor truncated.
    #[must_use]
    pub fn ids(&self, prompt: &str) -> Vec<u32> {
        let inner = self.inner_ids(prompt);
        std::iter::once(self.bos)
            .chain(inner)
            .chain([self.eos])
            .collect()
    }

    fn inner_ids(&self, text: &str) -> Vec<u32> {
        let encoding = self
            .tokenizer
            .encode_fast(text, false)
            .expect("encoding fails only without the unknown token, and `new` has found that in the vocabulary");
        encoding.get_ids().to_vec()
    }

    fn decode(&self, ids: &[u32]) -> String {
        let text = self
            .tokenizer
            .decode(ids, false)
            .expect("joining bytes to text, with U+FFFD for bad ones, cannot fail");
        // Python's `strip` takes these four separators for white space, Rust's `trim` does not.
        let is_blank = |c: char| c.is_whitespace() || ('\x1c'..='\x1f').contains(&c);
        text.replace(END_OF_WORD, " ")
            .trim_matches(is_blank)
            .to_owned()
    }
}

fn pipeline(vocab: Vocab, merges: Merges, unk: &str) -> Result<Tokenizer, tokenizers::Error> {
    let model = BPE::builder()
        .vocab_and_merges(vocab, merges)
        .unk_token(unk.to_owned())
        .end_of_word_suffix(END_OF_WORD.to_owned())
        .build()?;
    let white_space = Replace::new(ReplacePattern::Regex(r"\s+".to_owned()), " ")?;
    let words = Split::new(
        SplitPattern::Regex(WORD.to_owned()),
        SplitDelimiterBehavior::Removed,
        true,
    )?;
    let bytes = ByteLevel::default().add_prefix_space(false);
    let mut tokenizer = Tokenizer::new(model);
    tokenizer
        .with_normalizer(Some(Normalizers::new(vec![
            NFC.into(),
            white_space.into(),
            Lowercase.into(),
        ])))
        .with_pre_tokenizer(Some(PreTokenizers::new(vec![words.into(), bytes.into()])))
        .with_decoder(Some(bytes));
    Ok(tokenizer)
}

fn parse_merges(merges: &[u8], vocab: &Vocab) -> Result<Merges, TokenizerError> {
    let text = std::str::from_utf8(merges).map_err(|error| TokenizerError::MergesNotText {
        position: error.valid_up_to(),
    })?;
    let mut pairs = Merges::new();
    for (index, found) in text
        .lines()
        .enumerate()
        .filter(|(_, line)| !line.starts_with("#version"))
    {
        let line = index + 1;
        let (left, right) = found
            .split_once(' ')
            .filter(|(_, right)| !right.contains(' '))
            .ok_or_else(|| TokenizerError::MergeForm {
                line,
                found: found.to_owned(),
            })?;
        for token in [left.to_owned(), right.to_owned(), format!("{left}{right}")] {
            if !vocab.contains_key(&token) {
                return Err(TokenizerError::MergeToken { line, token });
            }
        }
        pairs.push((left.to_owned(), right.to_owned()));
    }
    Ok(pairs)
}

fn model_max_length(config: &Map<String, Value>) -> Result<usize, TokenizerError> {
    let value = config.get("model_max_length").unwrap_or(&Value::Null);
    match value.as_u64() {
        Some(length @ 2..=LONGEST) => Ok(length as usize),
        _ => Err(TokenizerError::ModelMaxLength {
            found: value.to_string(),
        }),
    }
}

fn json<T: serde::de::DeserializeOwned>(
    file: &'static str,
    expected: &'static str,
    bytes: &[u8],
) -> Result<T, TokenizerError> {
    json::from_slice(bytes).map_err(|source| TokenizerError::Json {
        file,
        expected,
        source,
    })
}

fn missing(key: &'static str, token: &str) -> TokenizerError {
    TokenizerError::MissingToken {
        key,
        token: token.to_owned(),
    }
}
