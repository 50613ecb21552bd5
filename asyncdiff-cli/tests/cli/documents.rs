//! Lists that people read and that no compiler checks: help, README, features, and the walks of CONTRIBUTING.

use std::fs;
use std::path::{Path, PathBuf};

use asyncdiff_core::scheduler::SCHEDULERS;

use super::sandbox::{Sandbox, walk};

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn read(name: &str) -> String {
    fs::read_to_string(workspace().join(name)).unwrap()
}

/// What is between backticks, outside of code blocks.
fn quoted(text: &str) -> Vec<String> {
    let prose = text.split("```").step_by(2);
    prose
        .flat_map(|part| part.split('`').skip(1).step_by(2))
        .map(str::to_owned)
        .collect()
}

/// Help without its line breaks.
fn help(command: &str) -> String {
    let text = Sandbox::new().ok(&[command, "--help"]);
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[test]
fn help_and_readme_name_every_scheduler() {
    let readme = quoted(&read("README.md"));
    for command in ["generate", "compare", "plan"] {
        let help = help(command);
        let list = help.split("Noise scheduler: ").nth(1).unwrap();
        let list: Vec<_> = list.split([',', ' ']).collect();
        for scheduler in SCHEDULERS {
            assert!(
                list.contains(&scheduler.name),
                "{command} --help lacks {}",
                scheduler.name
            );
        }
    }
    for scheduler in SCHEDULERS {
        // `dpmpp-2m` (also `-karras`, …)
        let named = |name: &String| {
            let rest = scheduler.name.strip_prefix(name.as_str());
            rest.is_some_and(|rest| rest.is_empty() || readme.iter().any(|other| other == rest))
        };
        assert!(
            readme.iter().any(named),
            "README.md lacks {}",
            scheduler.name
        );
    }
}

#[test]
fn every_known_device_is_named_where_devices_are_told() {
    let sandbox = Sandbox::new();
    let error = sandbox.fails(&["generate", "x", "--devices", "abacus"]);
    let known: Vec<_> = quoted(&error)
        .into_iter()
        .filter(|name| name != "abacus")
        .collect();
    assert!(known.len() > 3, "{known:?}");
    let (help, readme) = (help("generate"), read("README.md"));
    for device in known {
        let family = device.split(':').next().unwrap();
        assert!(help.contains(family), "--help lacks {family}");
        assert!(
            readme.contains(&format!("`{family}")),
            "README.md lacks {family}"
        );
    }
}

/// The features of a crate, and what each turns on.
fn features(package: &str) -> Vec<(String, String)> {
    let text = read(&format!("{package}/Cargo.toml"));
    let section = text.split("[features]\n").nth(1).unwrap();
    let section = section.split("\n[").next().unwrap();
    let lines = section.lines().filter(|line| !line.starts_with('#'));
    lines
        .filter_map(|line| line.split_once(" = "))
        .map(|(name, on)| (name.to_owned(), on.to_owned()))
        .collect()
}

#[test]
fn every_backend_is_handed_up() {
    let readme = read("README.md");
    let backends = features("asyncdiff-burn");
    assert!(backends.len() > 3, "{backends:?}");
    for (backend, _) in backends.iter().filter(|(name, _)| name != "default") {
        for (package, below) in [
            ("asyncdiff-models", "asyncdiff-burn"),
            ("asyncdiff-cli", "asyncdiff-models"),
        ] {
            let handed = format!("\"{below}/{backend}\"");
            let found = features(package)
                .iter()
                .any(|(name, on)| name == backend && on.contains(&handed));
            assert!(found, "{package} hands up no {backend}");
        }
        assert!(
            readme.contains(&format!("| `{backend}`")),
            "README.md lacks {backend}"
        );
    }
}

#[test]
fn contributing_names_files_and_tests_that_exist() {
    let root = workspace();
    let folders = fs::read_dir(&root)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let sources: String = folders
        .flat_map(|folder| ["src", "tests"].map(|part| folder.join(part)))
        .filter(|folder| folder.is_dir())
        .flat_map(|folder| walk(&folder))
        .filter(|file| file.extension().is_some_and(|end| end == "rs"))
        .map(|file| fs::read_to_string(file).unwrap())
        .collect();
    let text = read("CONTRIBUTING.md");
    let (mut files, mut tests) = (0, 0);
    for name in quoted(&text) {
        // What stands for any name, as in TARGET-NAME.
        let last = name.rsplit('/').next().unwrap_or_default();
        if !last.contains(|letter: char| letter == '.' || letter.is_lowercase()) {
            continue;
        }
        if name.contains('/') && !name.contains(' ') {
            assert!(root.join(&name).exists(), "there is no {name}");
            files += 1;
        } else if name.matches('_').count() > 1 {
            let function = format!("#[test]\nfn {name}()");
            let indented = format!("#[test]\n    fn {name}()");
            assert!(
                sources.contains(&function) || sources.contains(&indented),
                "there is no test {name}"
            );
            tests += 1;
        }
    }
    assert!(files > 20 && tests > 8, "{files} files, {tests} tests");
}

/// Who is promised a Rust must find that the project is built with it: the toolchain of the gate is what is tried.
#[test]
fn the_least_rust_is_the_one_that_is_built_with() {
    let between = |name: &str, start: &str| {
        let text = read(name);
        let rest = text.split(start).nth(1).unwrap_or_default();
        rest.split('"').next().unwrap().to_owned()
    };
    let least = between("Cargo.toml", "\nrust-version = \"");
    assert_eq!(
        between("rust-toolchain.toml", "\nchannel = \""),
        format!("{least}.0")
    );
    assert!(read("README.md").contains(&format!("\nRust {least}, ")));
    for file in walk(&workspace().join("docker")) {
        let text = fs::read_to_string(&file).unwrap();
        assert!(text.contains(&format!("\nFROM rust:{least}-")), "{file:?}");
    }
    for entry in fs::read_dir(workspace()).unwrap() {
        let package = entry.unwrap().path().join("Cargo.toml");
        // Its compiler is a nightly one.
        if package.is_file() && !package.parent().unwrap().ends_with("fuzz") {
            let text = fs::read_to_string(&package).unwrap();
            assert!(
                text.contains("\nrust-version.workspace = true\n"),
                "{package:?}"
            );
        }
    }
}
