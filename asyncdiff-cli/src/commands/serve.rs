//! `asyncdiff serve`

use std::collections::BTreeSet;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use asyncdiff_models::files::{self, MOST_BYTES_OF_TEXT};
use asyncdiff_models::{Checkpoint, Dtype, MotionAdapter, StableDiffusion};
use asyncdiff_serve::{Devices, LoraSource, ModelSource, Planning, Server, Settings};

use crate::args::{ModelFiles, Serve};
use crate::interrupt;
use crate::model::{self, MotionSource};
use crate::setup::{self, Result};

pub fn run(args: &Serve) -> Result<()> {
    tracing_subscriber::fmt()
        .with_max_level(args.log)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        .init();
    let mut settings = Settings::new(models(args)?);
    settings.listen = args.listen;
    settings.aliases.clone_from(&args.model_alias);
    settings.loras = match &args.loras_dir {
        Some(folder) => {
            LoraSource::all_in(folder).map_err(|error| unread("--loras-dir", folder, &error))?
        }
        None => Vec::new(),
    };
    let devices = args.devices.iter().map(|names| Devices {
        names: names.clone(),
        threads: args.threads,
    });
    settings.devices = devices.collect();
    settings.loaded = args.loaded;
    settings.planning = Planning {
        prefer: args.choice.prefer,
        memory: args.choice.memory.map(|memory| memory.0),
        machine: setup::machine(args.choice.machine.as_deref())?,
    };
    settings.vae_tiling = args.vae_tiling;
    settings.key = args.access.api_key_file.as_deref().map(key).transpose()?;
    settings.no_auth = args.access.no_auth;
    settings.allow_hosts.clone_from(&args.access.allow_host);
    settings.allow_origins.clone_from(&args.access.allow_origin);
    settings.limits = args.limits.resolve();
    settings.drain = args.drain;

    let server = Server::start(settings)?;
    say!("listening at http://{}", server.address())?;
    let stopper = server.stopper();
    interrupt::once(move || stopper.stop())?;
    Ok(server.wait()?)
}

/// What is in the file, without the line's end.
fn key(file: &Path) -> Result<String> {
    let bytes = files::read(file, MOST_BYTES_OF_TEXT);
    let bytes =
        bytes.map_err(|error| format!("cannot read the key {}: {error}", file.display()))?;
    let text = String::from_utf8(bytes).map_err(|_| {
        format!(
            "the key in {} is no text: write letters and digits into the file",
            file.display()
        )
    })?;
    Ok(text.trim().to_owned())
}

/// What is to be said of a folder that cannot be read.
fn unread(flag: &str, path: &Path, error: &std::io::Error) -> String {
    format!(
        "cannot read the folder {}: {error}; give one that this user may read ({flag})",
        path.display()
    )
}

/// The models that requests may name. What is no model in a folder of them is left out.
fn models(args: &Serve) -> Result<Vec<ModelSource>> {
    let mut models = Vec::new();
    let mut names = BTreeSet::new();
    let mut add = |name: String, source: Source| {
        if !names.insert(name.clone()) {
            return Err(format!(
                "two models are called {name}: rename one of them, or leave it out"
            ));
        }
        models.push(source.named(name));
        Ok(())
    };
    let first = |named: Option<&Path>| -> Result<Source> {
        let motion = match &args.motion_adapter {
            Some(adapter) => Some(MotionSource::Named(adapter)),
            None if named.is_none() => Some(MotionSource::Embedded),
            None => None,
        };
        Ok(Source {
            checkpoint: model::checkpoint(named, &args.files, false)?,
            motion: motion
                .map(|motion| model::adapter_files(motion, false))
                .transpose()?,
            dtype: args.dtype,
        })
    };
    let alone = |path: &Path| -> Result<Source> {
        Ok(Source {
            checkpoint: model::checkpoint(Some(path), &NO_FILES, false)?,
            motion: None,
            dtype: args.dtype,
        })
    };
    for (index, path) in args.model.iter().enumerate() {
        let source = match index {
            0 => first(Some(path))?,
            _ => alone(path)?,
        };
        add(name_of(path), source)?;
    }
    if args.model.is_empty() && args.models_dir.is_none() {
        add(model::name(None), first(None)?)?;
    }
    if let Some(folder) = &args.models_dir {
        // The first model is loaded when the service starts.
        let mut needs_first = args.model.is_empty();
        for path in models_in(folder)? {
            let source = alone(&path).and_then(|source| {
                if needs_first {
                    source.open()?.check_weights()?;
                }
                Ok(source)
            });
            // A LoRA, an autoencoder or half of a model among them is no reason not to serve the others.
            match source {
                Ok(source) => {
                    add(name_of(&path), source)?;
                    needs_first = false;
                }
                Err(error) => complain!("warning: {} is left out: {error}", path.display()),
            }
        }
    }
    if models.is_empty() {
        let folder = args.models_dir.clone().unwrap_or_default();
        return Err(format!(
            "there is no model in {}: put folders in diffusers layout or .safetensors checkpoints there, or name a --model",
            folder.display()
        )
        .into());
    }
    Ok(models)
}

const NO_FILES: ModelFiles = ModelFiles {
    config: None,
    variant: None,
};

/// Folders in diffusers layout and checkpoints in one file, in alphabetical order.
fn models_in(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let unread = |error| unread("--models-dir", folder, &error);
    for entry in std::fs::read_dir(folder).map_err(unread)? {
        let path = entry.map_err(unread)?.path();
        let is_file = path.extension().is_some_and(|end| end == "safetensors") && path.is_file();
        if is_file || path.join("model_index.json").is_file() {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// The name of a file without its ending, or of a folder; a Hub id as it is.
fn name_of(path: &Path) -> String {
    let name = match path.exists() {
        true => match path.is_dir() {
            true => path.file_name(),
            false => path.file_stem(),
        },
        false => None,
    };
    let name = name.unwrap_or(path.as_os_str());
    name.to_string_lossy().into_owned()
}

/// A model's files.
struct Source {
    checkpoint: Checkpoint,
    motion: Option<Checkpoint>,
    dtype: Dtype,
}

impl Source {
    fn open(&self) -> std::result::Result<StableDiffusion, asyncdiff_models::Error> {
        let pipeline = StableDiffusion::open(self.checkpoint.clone())?;
        let pipeline = match &self.motion {
            Some(motion) => pipeline.with_motion(MotionAdapter::open(motion.clone())?)?,
            None => pipeline,
        };
        Ok(pipeline.with_dtype(self.dtype))
    }

    fn named(self, name: String) -> ModelSource {
        ModelSource {
            name,
            open: Arc::new(move || Ok(self.open()?)),
        }
    }
}
