//! Prompts with weights against transformers' text encoders and the web UI's rules.

use std::fs;

use asyncdiff_models::device::workers;
use asyncdiff_models::prompt::parse;
use asyncdiff_models::{Request, Session};
use serde_json::Value;

use super::fixtures::{Reference, folder, models};

/// The text embeddings of a request, and the pooled ones where there are any: rows of the negative prompt, then the prompt.
fn encode(session: &Session, request: &Request) -> [Vec<f32>; 2] {
    let conditioning = session.encode(&request.shape, &request.content).unwrap();
    let context = conditioning.context.into_data().try_to_vec().unwrap();
    let pooled = conditioning
        .added
        .and_then(|added| added.text_embeds)
        .map(|text| text.into_data().try_to_vec().unwrap());
    [context, pooled.unwrap_or_default()]
}

#[test]
fn prompt_weighting() {
    let Some(folder) = folder("prompt_weighting") else {
        return;
    };
    let manifest = fs::read(folder.join("manifest.json")).unwrap();
    let manifest: Value = serde_json::from_slice(&manifest).unwrap();
    let prompts = manifest["prompts"].as_array().unwrap();
    let text = |index: usize| prompts[index]["prompt"].as_str().unwrap();
    for (index, prompt) in prompts.iter().enumerate() {
        let found = parse(text(index));
        let expected = prompt["pieces"].as_array().unwrap();
        assert_eq!(found.len(), expected.len(), "{}", text(index));
        for (found, expected) in found.iter().zip(expected) {
            assert_eq!(found.text, expected[0], "{}", text(index));
            // The parser of JSON may be off by the last bit.
            let difference = found.weight - expected[1].as_f64().unwrap();
            assert!(difference.abs() < 1e-14, "{}", text(index));
        }
    }

    let models = models();
    let mut checked = 0;
    for (file, entry) in manifest["files"].as_object().unwrap() {
        let Some(model) = models.iter().find(|model| entry["model"] == *model.name) else {
            println!("passing over {file}: no such model");
            continue;
        };
        let reference = Reference::open(&folder.join(file), entry);
        let stride = reference.params["token_stride"].as_u64().unwrap() as usize;
        let [_, _, features] = <[usize; 3]>::try_from(reference.shape("context")).unwrap();
        let session = Session::new(&model.pipeline, workers("cpu", None).unwrap()).unwrap();
        let row = |name: &str, index: usize| {
            let values = reference.values(name);
            let length = values.len() / prompts.len();
            values[index * length..(index + 1) * length].to_vec()
        };
        for index in 0..prompts.len() {
            let mut request = model.pipeline.request(text(index));
            request.content.prompt_weighting = true;
            // Another weighted prompt in the same batch, never empty: that may stand for zeros.
            let other = (0..prompts.len())
                .rev()
                .find(|other| *other != index && !text(*other).is_empty());
            let other = other.unwrap();
            text(other).clone_into(&mut request.content.negative_prompt);
            let [context, pooled] = encode(&session, &request);
            let (negative, positive) = context.split_at(context.len() / 2);
            for (which, found) in [(other, negative), (index, positive)] {
                let tokens = found.chunks(features).step_by(stride);
                let found: Vec<f32> = tokens.flatten().copied().collect();
                let what = format!("{}: {:?}", model.name, text(which));
                reference.check_part(&what, &row("context", which), &found);
            }
            if reference.has("text_embeds") {
                let positive = &pooled[pooled.len() / 2..];
                let what = format!("{}: pooled {:?}", model.name, text(index));
                reference.check_part(&what, &row("text_embeds", index), positive);
            }
            checked += 1;
        }
    }
    println!("{checked} weighted prompts checked");
    assert!(checked > 0 || models.is_empty());
}

#[test]
fn weights_of_one_change_no_bit() {
    for model in models() {
        if model.pipeline.text_encoders().is_none() {
            println!("passing over {}: it reads no text", model.name);
            continue;
        }
        let session = Session::new(&model.pipeline, workers("cpu", None).unwrap()).unwrap();
        let encode = |prompt: &str, weighting| {
            let mut request = model.pipeline.request(prompt);
            request.content.negative_prompt = "blue sun".to_owned();
            request.content.prompt_weighting = weighting;
            encode(&session, &request)
        };
        let plain = encode("a red apple, on 2 tables!", false);
        for same in [
            "a red apple, on 2 tables!",
            "a (red:1.0) apple, ((on:2):0.5) 2 tables!",
            "a red ([apple]), on 2 tables!",
        ] {
            assert!(encode(same, true) == plain, "{same}");
        }
        assert!(encode("a (red) apple, on 2 tables!", true) != plain);
        // Without weighting, brackets are text.
        assert_ne!(encode("a (red) apple", false), encode("a red apple", false));
    }
}
