//! Models of the Hub: against a small server that speaks as the Hub does, and in a prepared cache.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use asyncdiff_models::hub::{DownloadProgress, Hub, HubError};
use asyncdiff_models::{Checkpoint, CheckpointError, HubId};
use serde_json::json;

use super::files::{checkpoint, copy, every_file, json, latents};
use super::folder::{UNET, shard};
use super::server::{ID, Server, etag};

pub const WEIGHTS: &str = "unet/diffusion_pytorch_model.safetensors";

pub struct Setting {
    pub folder: tempfile::TempDir,
    pub server: Server,
    pub hub: Hub,
}

impl Setting {
    /// A Hub with a fixture, changed by `change`, and an empty cache.
    pub fn new(change: impl FnOnce(&Path)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let model = folder.path().join("served");
        copy(&checkpoint(), &model);
        change(&model);
        let server = Server::start(&model);
        let hub = Hub {
            endpoint: server.address.clone(),
            ..Hub::new(folder.path().join("cache"))
        };
        Self {
            folder,
            server,
            hub,
        }
    }

    pub fn fetch(&self) -> Result<Checkpoint, HubError> {
        self.hub.fetch(&id(), None, &mut ())
    }

    pub fn refusal(&self) -> HubError {
        self.fetch().expect_err("this should have failed")
    }

    pub fn repository(&self) -> PathBuf {
        self.hub.cache.join("models--someone--some-model")
    }

    pub fn snapshot(&self) -> PathBuf {
        let commit = "0123456789abcdef0123456789abcdef01234567";
        self.repository().join("snapshots").join(commit)
    }

    fn asked_for(&self) -> Vec<String> {
        let downloads = self.server.downloads().into_iter();
        downloads.map(|(name, _)| name).collect()
    }
}

#[test]
fn a_part_is_fetched_without_the_rest() {
    let setting = Setting::new(|model| {
        // A motion adapter's repository: its files are those of one model, and others are beside them.
        for file in ["config.json", "diffusion_pytorch_model.safetensors"] {
            fs::copy(model.join("unet").join(file), model.join(file)).unwrap();
        }
        fs::remove_file(model.join("model_index.json")).unwrap();
    });
    let part = setting.hub.fetch_part(&id(), &mut ()).unwrap();
    let weights = part.weights("", "diffusion_pytorch_model").unwrap();
    assert!(weights.read().unwrap().shapes().count() > 100);
    let mut files = setting.asked_for();
    files.sort();
    assert_eq!(
        files,
        [
            "config.json",
            "diffusion_pytorch_model.safetensors",
            "scheduler/scheduler_config.json"
        ]
    );
    // What is in the cache needs no network.
    let offline = Hub {
        offline: true,
        ..setting.hub.clone()
    };
    assert_eq!(offline.fetch_part(&id(), &mut ()).unwrap(), part);
    let error = setting.refusal();
    assert!(
        error.to_string().contains("has no model_index.json"),
        "{error}"
    );
}

fn id() -> HubId {
    ID.parse().unwrap()
}

/// Adds what a repository has beside the files that are read.
fn add_decoys(model: &Path) {
    fs::create_dir(model.join("safety_checker")).unwrap();
    for name in [
        "README.md",
        "model.ckpt",
        "model.safetensors",
        "unet/diffusion_pytorch_model.bin",
        "unet/diffusion_pytorch_model.fp16.safetensors",
        "unet/model.onnx",
        "vae/diffusion_flax_model.msgpack",
        "text_encoder/pytorch_model.bin",
        "tokenizer/tokenizer.json",
        "safety_checker/config.json",
        "safety_checker/model.safetensors",
    ] {
        fs::write(model.join(name), "decoy").unwrap();
    }
    let index = model.join("model_index.json");
    let mut content = json(&index);
    content["safety_checker"] = json!(["stable_diffusion", "StableDiffusionSafetyChecker"]);
    fs::write(index, content.to_string()).unwrap();
}

#[derive(Default)]
struct Log {
    open: Option<(String, u64, u64)>,
    whole: BTreeMap<String, u64>,
    cached: usize,
}

impl DownloadProgress for Log {
    fn start(&mut self, name: &str, bytes: u64) {
        assert_eq!(self.open, None);
        self.open = Some((name.to_owned(), bytes, 0));
    }

    fn advance(&mut self, bytes: u64) {
        self.open.as_mut().unwrap().2 += bytes;
    }

    fn finish(&mut self) {
        let (name, size, done) = self.open.take().unwrap();
        assert_eq!(size, done, "{name}");
        self.whole.insert(name, size);
    }

    fn cached(&mut self, _: &HubError) {
        self.cached += 1;
    }
}

#[test]
fn only_the_files_that_are_read_are_downloaded_and_only_once() {
    let setting = Setting::new(add_decoys);
    let expected = every_file(&checkpoint());
    let mut log = Log::default();
    let model = setting.hub.fetch(&id(), None, &mut log).unwrap();
    let names: Vec<_> = expected.keys().cloned().collect();
    let mut downloads = setting.asked_for();
    downloads.sort();
    assert_eq!(downloads, names);
    let sizes: BTreeMap<_, _> = setting
        .snapshot_files()
        .into_iter()
        .map(|(name, bytes)| (name, bytes.len() as u64))
        .collect();
    assert_eq!(log.whole, sizes);
    assert_eq!(sizes.into_keys().collect::<Vec<_>>(), names);
    assert_eq!(
        latents(model),
        latents(Checkpoint::folder(checkpoint()).unwrap())
    );
    // The cache's layout is the Hub's.
    let reference = fs::read_to_string(setting.repository().join("refs/main")).unwrap();
    assert_eq!(setting.snapshot().file_name().unwrap(), &*reference);
    let blob = setting
        .repository()
        .join("blobs")
        .join(etag(&expected[WEIGHTS]));
    assert_eq!(fs::read(blob).unwrap(), expected[WEIGHTS]);
    // All there: nothing is downloaded.
    setting.fetch().unwrap();
    assert_eq!(setting.asked_for(), [""; 0]);
}

impl Setting {
    fn snapshot_files(&self) -> BTreeMap<String, Vec<u8>> {
        every_file(&self.snapshot())
    }
}

#[test]
fn shards_and_variants_are_chosen_before_they_are_downloaded() {
    let setting = Setting::new(|model| {
        let unet = model.join("unet");
        let whole = unet.join(format!("{UNET}.safetensors"));
        let kept = fs::read(&whole).unwrap();
        shard(&unet, UNET, 2, "fp16");
        fs::write(whole, kept).unwrap();
    });
    let unet = |files: &BTreeMap<String, Vec<u8>>| {
        let names = files.keys().filter(|name| name.starts_with("unet/"));
        names.cloned().collect::<Vec<_>>()
    };
    let model = setting.hub.fetch(&id(), Some("fp16"), &mut ()).unwrap();
    assert_eq!(
        unet(&setting.snapshot_files()),
        [
            "unet/config.json",
            "unet/diffusion_pytorch_model.fp16-00001-of-00002.safetensors",
            "unet/diffusion_pytorch_model.fp16-00002-of-00002.safetensors",
            "unet/diffusion_pytorch_model.safetensors.index.fp16.json",
        ]
    );
    let expected = latents(Checkpoint::folder(checkpoint()).unwrap());
    assert_eq!(latents(model), expected);
    // And now the plain one, which nothing has asked for so far.
    setting.fetch().unwrap();
    let names = setting.snapshot_files();
    assert!(names.contains_key(WEIGHTS));
    let error = setting.hub.fetch(&id(), Some("bf16"), &mut ()).unwrap_err();
    assert!(matches!(
        error,
        HubError::Checkpoint(CheckpointError::NoVariant { .. })
    ));
}

#[test]
fn a_new_commit_with_the_same_weights_does_not_download_them_again() {
    let setting = Setting::new(|_| {});
    setting.fetch().unwrap();
    setting.asked_for();
    setting.server.change(|model| {
        model.commit = "f".repeat(40);
        model
            .files
            .insert("generation_config.json".to_owned(), b"{}".to_vec());
    });
    let model = setting.fetch().unwrap();
    let downloads = setting.asked_for();
    assert!(downloads.contains(&"generation_config.json".to_owned()));
    assert!(downloads.iter().all(|name| !name.ends_with(".safetensors")));
    let expected = latents(Checkpoint::folder(checkpoint()).unwrap());
    assert_eq!(latents(model), expected);
}

#[test]
fn what_the_hub_refuses_is_one_sentence() {
    let setting = Setting::new(|_| {});
    let contains = |error: &dyn std::fmt::Display, expected: &[&str]| {
        let error = error.to_string();
        for part in expected {
            assert!(error.contains(part), "{error:?} should contain {part:?}");
        }
    };
    for other in ["someone/another-model", "someone/some-model@v2"] {
        let error = setting.hub.fetch(&other.parse().unwrap(), None, &mut ());
        let error = error.unwrap_err();
        assert!(matches!(error, HubError::NoModel { .. }));
        contains(&error, &[other, "check the spelling"]);
    }
    // A gated model, without a token, with a wrong one, and with the right one.
    setting
        .server
        .change(|model| model.token = Some("right".to_owned()));
    let error = setting.refusal();
    let page = format!("{}/{ID}", setting.server.address);
    contains(&error, &["401", "HF_TOKEN", &page]);
    let with = |token: &str| Hub {
        token: Some(token.to_owned()),
        ..setting.hub.clone()
    };
    let error = with("wrong").fetch(&id(), None, &mut ()).unwrap_err();
    contains(&error, &["403", "HF_TOKEN", &page]);
    assert!(!format!("{:?}", with("secret")).contains("secret"));
    with("right").fetch(&id(), None, &mut ()).unwrap();

    let setting = Setting::new(|model| fs::remove_file(model.join("model_index.json")).unwrap());
    contains(&setting.refusal(), &[ID, "no model_index.json"]);
    let setting = Setting::new(|model| {
        fs::rename(
            model.join(WEIGHTS),
            model.join("unet/diffusion_pytorch_model.bin"),
        )
        .unwrap();
    });
    contains(
        &setting.fetch().unwrap_err(),
        &["pickle", "someone/some-model/unet"],
    );
    // Nothing of the model is downloaded when a part of it is of no use.
    assert!(
        setting
            .asked_for()
            .iter()
            .all(|name| !name.ends_with(".safetensors"))
    );
    let setting = Setting::new(|model| {
        let index = json!({"_class_name": "FluxPipeline", "vae": ["diffusers", "AutoencoderKL"]});
        fs::write(model.join("model_index.json"), index.to_string()).unwrap();
    });
    contains(&setting.fetch().unwrap_err(), &["FluxPipeline"]);
    assert_eq!(setting.asked_for(), ["model_index.json"]);
}

#[test]
fn without_network_the_cache_is_used_or_the_reason_given() {
    let setting = Setting::new(|_| {});
    // A port that nobody listens on.
    let port = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap().port()
    };
    let cut_off = Hub {
        endpoint: format!("http://127.0.0.1:{port}"),
        ..setting.hub.clone()
    };
    let offline = Hub {
        offline: true,
        ..cut_off.clone()
    };
    let error = cut_off.fetch(&id(), None, &mut ()).unwrap_err();
    assert!(matches!(error, HubError::NoNetwork { .. }), "{error}");
    let error = offline.fetch(&id(), None, &mut ()).unwrap_err();
    assert!(
        matches!(&error, HubError::NotCached { missing, .. } if missing == "model_index.json"),
        "{error}"
    );
    assert!(!setting.hub.cache.exists());
    let downloaded = setting.fetch().unwrap();
    assert_eq!(offline.fetch(&id(), None, &mut ()).unwrap(), downloaded);
    let mut log = Log::default();
    assert_eq!(cut_off.fetch(&id(), None, &mut log).unwrap(), downloaded);
    assert_eq!(log.cached, 1);
    // Not whole.
    fs::remove_file(setting.snapshot().join(WEIGHTS)).unwrap();
    let error = offline.fetch(&id(), None, &mut ()).unwrap_err();
    assert!(matches!(error, HubError::NotCached { .. }), "{error}");
    let error = cut_off.fetch(&id(), None, &mut ()).unwrap_err();
    assert!(matches!(error, HubError::NoNetwork { .. }), "{error}");
}

/// As Python's `huggingface_hub` leaves it.
#[test]
fn a_prepared_cache_serves_branches_and_commits() {
    let setting = Setting::new(|_| {});
    copy(&checkpoint(), &setting.snapshot());
    fs::create_dir_all(setting.repository().join("refs")).unwrap();
    let commit = setting.snapshot().file_name().unwrap().to_owned();
    let commit = commit.to_str().unwrap();
    fs::write(setting.repository().join("refs/main"), commit).unwrap();
    let offline = Hub {
        offline: true,
        ..setting.hub.clone()
    };
    let main = offline.fetch(&id(), None, &mut ()).unwrap();
    let pinned: HubId = format!("{ID}@{commit}").parse().unwrap();
    assert_eq!(offline.fetch(&pinned, None, &mut ()).unwrap(), main);
    let other: HubId = format!("{ID}@v2").parse().unwrap();
    assert!(offline.fetch(&other, None, &mut ()).is_err());
    // Online too: every file is there.
    setting.fetch().unwrap();
    let weights = |name: &String| name.ends_with(".safetensors");
    assert!(!setting.asked_for().iter().any(weights));
}

#[test]
fn a_download_that_breaks_off_leaves_no_file_and_is_continued() {
    let setting = Setting::new(|_| {});
    let size = every_file(&checkpoint())[WEIGHTS].len();
    let cut = size / 3;
    setting
        .server
        .change(|model| model.cut = Some((WEIGHTS.to_owned(), cut)));
    let error = setting.refusal();
    assert!(
        matches!(&error, HubError::BrokenOff { name, .. } if name == WEIGHTS),
        "{error}"
    );
    assert!(!setting.snapshot().join(WEIGHTS).exists());
    assert!(!setting.repository().join("refs/main").exists());
    setting.server.change(|model| model.cut = None);
    setting.asked_for();
    let mut log = Log::default();
    let model = setting.hub.fetch(&id(), None, &mut log).unwrap();
    assert_eq!(log.whole[WEIGHTS], size as u64);
    let expected = latents(Checkpoint::folder(checkpoint()).unwrap());
    assert_eq!(latents(model), expected);
}

#[test]
fn what_an_earlier_try_has_left_is_continued_or_thrown_away() {
    let whole = every_file(&checkpoint())[WEIGHTS].clone();
    let expected = latents(Checkpoint::folder(checkpoint()).unwrap());
    let half = whole.len() / 2;
    for (remains, ignores_ranges, first_bytes) in [
        (whole[..half].to_vec(), false, vec![half]),
        // As its SHA-256 says.
        (whole.clone(), false, vec![]),
        (vec![0; whole.len()], false, vec![0]),
        (vec![0; whole.len() + 1], false, vec![0]),
        (vec![0; half], false, vec![half, 0]),
        // The server sends all of it again.
        (whole[..half].to_vec(), true, vec![half]),
    ] {
        let setting = Setting::new(|_| {});
        setting
            .server
            .change(|model| model.ignores_ranges = ignores_ranges);
        let blobs = setting.repository().join("blobs");
        fs::create_dir_all(&blobs).unwrap();
        let incomplete = blobs.join(format!("{}.incomplete", etag(&whole)));
        fs::write(incomplete, remains).unwrap();
        let model = setting.fetch().unwrap();
        let downloads = setting.server.downloads().into_iter();
        let starts: Vec<_> = downloads
            .filter_map(|(name, start)| (name == WEIGHTS).then_some(start))
            .collect();
        assert_eq!(starts, first_bytes);
        assert_eq!(latents(model), expected);
    }
}

#[test]
fn names_that_lead_out_of_the_cache_are_not_files_of_a_model() {
    let setting = Setting::new(|_| {});
    setting.server.change(|model| {
        for name in [
            "unet/../../../../escaped.json",
            "/escaped.json",
            "unet/..\\escaped.json",
        ] {
            model.files.insert(name.to_owned(), b"{}".to_vec());
        }
    });
    setting.fetch().unwrap();
    assert!(
        setting
            .asked_for()
            .iter()
            .all(|name| !name.contains("escaped"))
    );
    assert_eq!(fs::read_dir(setting.folder.path()).unwrap().count(), 2);
}
