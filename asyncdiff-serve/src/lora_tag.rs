//! LoRAs that a prompt names: `<lora:name:weight>`.

use crate::refusal::Refusal;

/// A prompt without its tags, and the names and weights that they hold.
pub(crate) fn take(prompt: &str) -> Result<(String, Vec<(String, f64)>), Refusal> {
    const START: &str = "<lora:";
    let mut text = String::new();
    let mut tags = Vec::new();
    let mut rest = prompt;
    while let Some((before, after)) = rest.split_once(START) {
        let Some((tag, behind)) = after.split_once('>') else {
            break;
        };
        let (name, weight) = tag.split_once(':').unwrap_or((tag, "1"));
        let weight = weight
            .trim()
            .parse::<f64>()
            .ok()
            .filter(|weight| weight.is_finite());
        let Some(weight) = weight else {
            return Err(Refusal::field(
                "prompt",
                format!(
                    "the prompt names a LoRA in a way that is not understood: write <lora:{}:0.8>",
                    asyncdiff_core::quoted(name.trim())
                ),
            ));
        };
        tags.push((name.trim().to_owned(), weight));
        text += before;
        rest = behind;
    }
    text += rest;
    match tags.is_empty() {
        true => Ok((prompt.to_owned(), tags)),
        false => Ok((text.trim().to_owned(), tags)),
    }
}

#[cfg(test)]
mod tests {
    use super::take;

    #[test]
    fn tags_are_taken_out_of_prompts() {
        let tags = |prompt| take(prompt).unwrap();
        assert_eq!(tags(" a <b> "), (" a <b> ".to_owned(), vec![]));
        assert_eq!(
            tags("a fox <lora:ink:0.5>, snow<lora:wet paint>"),
            (
                "a fox , snow".to_owned(),
                vec![("ink".to_owned(), 0.5), ("wet paint".to_owned(), 1.0)]
            )
        );
        assert_eq!(tags("a <lora:open").1, vec![]);
        for bad in ["<lora:a:x>", "<lora:a:1:2>", "<lora:a:nan>"] {
            assert!(take(bad).is_err(), "{bad}");
        }
    }
}
