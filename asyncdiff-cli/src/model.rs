//! From the name of a model to its files.

use std::error::Error;
use std::path::Path;

use asyncdiff_models::{
    Checkpoint, CheckpointError, HubId, Location, MotionAdapter, Shape, StableDiffusion,
};

use crate::args::{ModelFiles, Sample};
use crate::result::Result;

/// Opens the model of that name, or the embedded one; `quiet` hides how far a download is.
pub fn open(model: Option<&Path>, files: &ModelFiles, quiet: bool) -> Result<StableDiffusion> {
    Ok(StableDiffusion::open(checkpoint(model, files, quiet)?)?)
}

/// The files of the model of that name, or of the embedded one; `quiet` hides how far a download is.
pub fn checkpoint(model: Option<&Path>, files: &ModelFiles, quiet: bool) -> Result<Checkpoint> {
    let Some(model) = model else {
        let of_files = [
            ("--config", files.config.is_some()),
            ("--variant", files.variant.is_some()),
        ];
        if let Some((flag, _)) = of_files.into_iter().find(|(_, given)| *given) {
            return Err(format!(
                "{flag} is for a model's files, and the embedded model has none: name a --model, or leave it out"
            )
            .into());
        }
        return embedded();
    };
    let location = Location::find(model)?;
    if let (Location::Folder(_) | Location::Hub(_), Some(config)) = (&location, &files.config) {
        return Err(format!(
            "--config {} is for checkpoints in one file, and {} has its own configurations: leave it out",
            config.display(),
            model.display()
        )
        .into());
    }
    let variant = files.variant.as_deref();
    let checkpoint = match location {
        Location::Folder(folder) => with_variant(Checkpoint::folder(folder)?, variant)?,
        Location::File(file) => {
            let checkpoint = Checkpoint::single_file(file, files.config.as_deref())?;
            with_variant(checkpoint, variant)?
        }
        Location::Hub(id) => fetch(&id, variant, quiet)?,
    };
    if let Some(assumption) = checkpoint.assumption() {
        complain!("warning: {assumption}");
    }
    Ok(checkpoint)
}

/// Where a motion adapter comes from.
pub enum MotionSource<'a> {
    /// The program has it, for its embedded model.
    Embedded,
    /// A folder or a Hub id.
    Named(&'a Path),
}

/// The motion adapter that is named or, for a video of the embedded model, that model's own.
pub fn motion_source(sample: &Sample) -> Option<MotionSource<'_>> {
    let named = sample.video.motion_adapter.as_deref();
    let own = sample.model.is_none() && sample.video.frames.is_some_and(|frames| frames > 1);
    named
        .map(MotionSource::Named)
        .or(own.then_some(MotionSource::Embedded))
}

/// Opens a motion adapter; `quiet` hides how far a download is.
pub fn open_adapter(adapter: MotionSource<'_>, quiet: bool) -> Result<MotionAdapter> {
    Ok(MotionAdapter::open(adapter_files(adapter, quiet)?)?)
}

/// The files of a motion adapter; `quiet` hides how far a download is.
pub fn adapter_files(adapter: MotionSource<'_>, quiet: bool) -> Result<Checkpoint> {
    match adapter {
        MotionSource::Embedded => embedded_motion_adapter(),
        MotionSource::Named(named) => {
            match Location::find(named).map_err(|error| no_adapter(named, error))? {
                Location::Hub(id) => fetch_part(&id, quiet),
                Location::Folder(path) | Location::File(path) => Ok(Checkpoint::part(path)?),
            }
        }
    }
}

/// Says of a motion adapter what `error` says of a model.
fn no_adapter(named: &Path, error: CheckpointError) -> Box<dyn Error> {
    match error {
        CheckpointError::NotFound(_) => format!(
            "there is no motion adapter {}: give the folder of one, with its config.json, or a Hub id such as org/name (--motion-adapter)",
            named.display()
        )
        .into(),
        other => other.into(),
    }
}

/// What the model is called in reports.
pub fn name(model: Option<&Path>) -> String {
    match model {
        Some(model) => model.display().to_string(),
        None => "embedded".to_owned(),
    }
}

/// What the motion adapter of a video is called in reports.
pub fn adapter_name(sample: &Sample, shape: &Shape) -> Option<String> {
    let adapter = motion_source(sample).filter(|_| shape.frames > 1)?;
    Some(match adapter {
        MotionSource::Named(named) => name(Some(named)),
        MotionSource::Embedded => name(None),
    })
}

fn with_variant(checkpoint: Checkpoint, variant: Option<&str>) -> Result<Checkpoint> {
    Ok(match variant {
        Some(variant) => checkpoint.with_variant(variant)?,
        None => checkpoint,
    })
}

#[cfg(feature = "hub")]
fn fetch(id: &HubId, variant: Option<&str>, quiet: bool) -> Result<Checkpoint> {
    let hub = crate::hub::from_environment()?;
    let mut downloads = crate::hub::Downloads::new(!quiet);
    Ok(hub.fetch(id, variant, &mut downloads)?)
}

#[cfg(feature = "hub")]
fn fetch_part(id: &HubId, quiet: bool) -> Result<Checkpoint> {
    let hub = crate::hub::from_environment()?;
    Ok(hub.fetch_part(id, &mut crate::hub::Downloads::new(!quiet))?)
}

#[cfg(not(feature = "hub"))]
fn fetch_part(id: &HubId, quiet: bool) -> Result<Checkpoint> {
    fetch(id, None, quiet)
}

#[cfg(not(feature = "hub"))]
fn fetch(id: &HubId, _: Option<&str>, _: bool) -> Result<Checkpoint> {
    Err(format!("there is no folder or file {id}, and this program was built without downloads from the Hub: build it with --features hub").into())
}

#[cfg(feature = "embedded")]
fn embedded() -> Result<Checkpoint> {
    Ok(Checkpoint::embedded())
}

#[cfg(feature = "embedded")]
fn embedded_motion_adapter() -> Result<Checkpoint> {
    Ok(Checkpoint::embedded_motion_adapter())
}

#[cfg(not(feature = "embedded"))]
fn embedded() -> Result<Checkpoint> {
    Err("this program was built without the embedded model: name a model with --model, or build it with --features embedded".into())
}

#[cfg(not(feature = "embedded"))]
fn embedded_motion_adapter() -> Result<Checkpoint> {
    embedded()
}
