//! Models that are named in other ways than by their folder.

use std::fs;
use std::path::PathBuf;

use super::sandbox::{Sandbox, quick};

#[test]
fn a_name_that_is_nothing_lists_what_it_could_be() {
    let sandbox = Sandbox::new();
    for name in ["none", "models/absent.safetensors", "./a/b"] {
        let error = sandbox.fails(&quick(&["--model", name]));
        for part in [name, "folder", ".safetensors", "org/name"] {
            assert!(error.contains(part), "{error:?} should contain {part:?}");
        }
    }
}

#[test]
fn files_that_are_no_checkpoint_are_refused() {
    let sandbox = Sandbox::new();
    fs::write(sandbox.path("old.ckpt"), b"PK\x03\x04 and so on").unwrap();
    let error = sandbox.fails(&quick(&["--model", "old.ckpt"]));
    assert!(error.contains("old.ckpt is a pickle") && error.contains("save_file"));
    sandbox.model("sd15");
    let part = "model/unet/diffusion_pytorch_model.safetensors";
    let error = sandbox.fails(&quick(&["--model", part]));
    assert!(error.contains(part) && error.contains("model_index.json"));
    let error = sandbox.fails(&["info", part, "--config", "model/unet"]);
    assert!(
        error.contains("model/unet has no configurations"),
        "{error}"
    );
    let error = sandbox.fails(&quick(&["--model", "model", "--config", "model"]));
    assert!(error.contains("--config"), "{error}");
    let error = sandbox.fails(&quick(&["--model", "model", "--variant", "fp16"]));
    assert!(error.contains("variant fp16"), "{error}");
}

#[cfg(feature = "hub")]
mod hub {
    use std::process::Output;

    use super::*;

    /// A cache with the model `someone/small`, as Python's `huggingface_hub` leaves it.
    fn prepare(sandbox: &Sandbox, cache: &str) {
        let repository = sandbox.path(cache).join("models--someone--small");
        let snapshot = repository.join("snapshots/0123abc");
        fs::create_dir_all(snapshot.parent().unwrap()).unwrap();
        fs::rename(sandbox.model("sd15"), snapshot).unwrap();
        fs::create_dir_all(repository.join("refs")).unwrap();
        fs::write(repository.join("refs/main"), "0123abc").unwrap();
    }

    fn generate(sandbox: &Sandbox, model: &str, variables: &[(&str, PathBuf)]) -> Output {
        let args = ["generate", "x", "--model", model, "--steps", "1", "--quiet"];
        let small = ["--width", "64", "--height", "64"];
        sandbox
            .command(&[&args[..], &small].concat())
            .envs(variables.iter().map(|(name, value)| (name, value)))
            .output()
            .unwrap()
    }

    #[test]
    fn a_cached_model_is_found_by_every_variable_that_says_where_it_is() {
        for (variable, value, cache) in [
            ("HF_HUB_CACHE", "cache", "cache"),
            ("HF_HOME", "home", "home/hub"),
            ("XDG_CACHE_HOME", "xdg", "xdg/huggingface/hub"),
        ] {
            let sandbox = Sandbox::new();
            prepare(&sandbox, cache);
            let variables = [
                (variable, sandbox.path(value)),
                ("HF_HUB_OFFLINE", "1".into()),
            ];
            let output = generate(&sandbox, "someone/small", &variables);
            let error = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{variable}: {error}");
            assert!(sandbox.path("asyncdiff.png").is_file());
        }
    }

    #[test]
    fn what_cannot_be_downloaded_is_one_sentence() {
        let sandbox = Sandbox::new();
        let home = ("HF_HOME", sandbox.path("home"));
        let offline = [home.clone(), ("HF_HUB_OFFLINE", "yes".into())];
        // A port that nobody listens on.
        let nobody = ("HF_ENDPOINT", "http://127.0.0.1:9/".into());
        let proxy = ("NO_PROXY", "127.0.0.1".into());
        for (variables, expected) in [
            (&offline[..], ["not in the cache", "HF_HUB_OFFLINE"]),
            (
                &[home, nobody, proxy][..],
                ["cannot reach http://127.0.0.1:9 ", "network"],
            ),
        ] {
            let output = generate(&sandbox, "someone/small", variables);
            assert!(!output.status.success());
            let error = String::from_utf8(output.stderr).unwrap();
            assert_eq!(error.lines().count(), 1, "{error}");
            for part in expected {
                assert!(error.contains(part), "{error:?} should contain {part:?}");
            }
        }
        assert!(!sandbox.path("home").exists());
    }
}
