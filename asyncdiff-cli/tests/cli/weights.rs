//! Words that count more than others.

use super::sandbox::{Sandbox, pixels};

#[test]
fn brackets_weigh_words_unless_they_are_literal() {
    let sandbox = Sandbox::new();
    let generate = |prompt: &str, more: &[&str]| {
        let base = ["generate", prompt, "--steps", "3", "--quiet", "-o", "a.png"];
        sandbox.ok(&[&base, more].concat());
        pixels(&sandbox.path("a.png"))
    };
    let plain = generate("red apple, fluent style", &[]);
    assert!(generate("(red:1.0) apple, ([fluent]) style", &[]) == plain);
    assert!(generate("red apple, fluent style", &["--literal-prompts"]) == plain);
    let weighted = generate("(red:1.5) apple, fluent style", &[]);
    assert!(weighted != plain);
    assert!(generate("(red:1.5) apple, fluent style", &["--literal-prompts"]) != weighted);
    let negative = |text| generate("red apple, fluent style", &["--negative-prompt", text]);
    assert!(negative("(blue:1.5) sky") != negative("blue sky"));
}

#[test]
fn weights_do_not_count_as_words_of_a_long_prompt() {
    let sandbox = Sandbox::new();
    // 26 words, the first of them 13 times in brackets: too many signs for 32 tokens, if they were signs.
    let prompt = "(red:1.1) apple ".repeat(13);
    let warning = |more: &[&str]| {
        let base = ["generate", &prompt, "--steps", "1", "--quiet"];
        let output = sandbox.run(&[&base, more].concat());
        assert!(output.status.success());
        String::from_utf8(output.stderr).unwrap()
    };
    assert_eq!(warning(&[]), "");
    assert!(warning(&["--literal-prompts"]).contains("32 tokens"));
    let long = format!("{prompt} and a (blue whale:1.5) in a very deep sea");
    let output = sandbox.run(&["generate", &long, "--steps", "1", "--quiet"]);
    let warning = String::from_utf8(output.stderr).unwrap();
    assert!(
        warning.contains("32 tokens") && warning.contains("deep sea"),
        "{warning}"
    );
    assert!(!warning.contains("1.5"), "{warning}");
}
