//! The tokenizer against transformers' `CLIPTokenizer`, with the true CLIP vocabulary.

use asyncdiff_models::tokenizer::ClipTokenizer;
use serde_json::{Value, json};

use super::fixtures::folder;

#[test]
fn tokenizer_equals_every_golden_row() {
    let Some(folder) = folder("tokenizer_clip") else {
        return;
    };
    let read = |name: &str| {
        std::fs::read(folder.join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
    };
    let clip = ClipTokenizer::new(
        &read("vocab.json"),
        &read("merges.txt"),
        &read("tokenizer_config.json"),
        Some(&read("special_tokens_map.json")),
    )
    .unwrap();
    let goldens: Value = serde_json::from_slice(&read("tokenizer_goldens.json")).unwrap();
    let rows = goldens["rows"].as_array().unwrap();
    assert!(!rows.is_empty());
    for row in rows {
        let prompt = row["prompt"].as_str().unwrap();
        assert_eq!(json!(clip.ids(prompt)), row["ids"], "{prompt:?}");
        let encoding = clip.encode(prompt);
        assert_eq!(json!(encoding.ids), row["padded77"], "{prompt:?}");
        let is_long = row["ids"].as_array().unwrap().len() > clip.model_max_length();
        assert_eq!(encoding.truncated.is_some(), is_long, "{prompt:?}");
    }
    println!("{} prompts", rows.len());
}
