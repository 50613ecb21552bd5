//! The tokenizer that original checkpoints leave out, because there is only one: CLIP's.

use serde_json::{Map, Value, json};

/// The merges of CLIP's byte pair encoding, as OpenAI published them under the MIT licence.
const MERGES: &str = include_str!("clip_merges.txt");

const START: &str = "<|startoftext|>";
const END: &str = "<|endoftext|>";

/// The file `name` of a tokenizer folder: CLIP's 49,408 tokens, texts of `length` tokens, padded with `pad`.
pub(super) fn file(name: &str, length: usize, pad: &str) -> Option<Vec<u8>> {
    match name {
        "merges.txt" => Some(MERGES.into()),
        "vocab.json" => Some(Value::Object(vocabulary()).to_string().into()),
        "tokenizer_config.json" => {
            let mut config = special_tokens(pad);
            config["model_max_length"] = json!(length);
            config["tokenizer_class"] = json!("CLIPTokenizer");
            Some(config.to_string().into())
        }
        "special_tokens_map.json" => Some(special_tokens(pad).to_string().into()),
        _ => None,
    }
}

fn special_tokens(pad: &str) -> Value {
    let token = |content: &str| {
        json!({
            "content": content,
            "lstrip": false,
            "normalized": true,
            "rstrip": false,
            "single_word": false,
        })
    };
    json!({
        "bos_token": token(START),
        "eos_token": token(END),
        "unk_token": token(END),
        "pad_token": pad,
    })
}

/// The characters that stand for the bytes, the same at the end of a word, what the merges make of them, and two special
/// tokens, numbered in this order.
fn vocabulary() -> Map<String, Value> {
    // The printable bytes stand for themselves, in order; then come the others, as the characters from 256 on.
    let bytes = || {
        ('!'..='~')
            .chain('¡'..='¬')
            .chain('®'..='\u{143}')
            .map(String::from)
    };
    let ends = bytes().map(|byte| byte + "</w>");
    let merged = MERGES
        .lines()
        .filter(|line| !line.starts_with("#version"))
        .map(|pair| pair.replace(' ', ""));
    bytes()
        .chain(ends)
        .chain(merged)
        .chain([START.to_owned(), END.to_owned()])
        .enumerate()
        .map(|(id, token)| (token, json!(id)))
        .collect()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;

    /// The project's copy of the tokenizer of Stable Diffusion 1.
    #[test]
    fn the_files_are_those_of_the_published_tokenizer() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/tokenizer_clip");
        let published = |name: &str| fs::read(folder.join(name)).unwrap();
        let built_in = |name: &str| file(name, 77, END).unwrap();
        assert_eq!(built_in("merges.txt"), published("merges.txt"));
        let json = |bytes: Vec<u8>| serde_json::from_slice::<Map<String, Value>>(&bytes).unwrap();
        assert_eq!(json(built_in("vocab.json")), json(published("vocab.json")));
        let map = "special_tokens_map.json";
        assert_eq!(json(built_in(map)), json(published(map)));
        assert_eq!(file("tokenizer.json", 77, END), None);
    }
}
