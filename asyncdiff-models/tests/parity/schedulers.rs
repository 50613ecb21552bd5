//! Noise schedules against diffusers: every case of the reference data, step by step.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use asyncdiff_core::plan::{Part, Value, Versioned};
use asyncdiff_core::scheduler::{SCHEDULERS, Schedule, SchedulerConfig};
use safetensors::{Dtype, SafeTensors};
use serde::Deserialize;
use serde_json::json;

use super::fixtures::folder;

#[derive(Deserialize)]
struct Manifest {
    files: HashMap<String, File>,
}

#[derive(Deserialize)]
struct File {
    params: Params,
    tolerance: Tolerance,
}

#[derive(Deserialize)]
struct Params {
    cases: BTreeMap<String, Case>,
}

#[derive(Deserialize)]
struct Case {
    class: String,
    config: serde_json::Map<String, serde_json::Value>,
    num_inference_steps: usize,
    eta: Option<f64>,
}

#[derive(Clone, Copy, Deserialize)]
struct Tolerance {
    atol: f64,
    rtol: f64,
}

impl Case {
    fn config(&self) -> SchedulerConfig {
        let mut config = self.config.clone();
        config.insert("_class_name".to_owned(), json!(self.class));
        config.insert("eta".to_owned(), json!(self.eta));
        serde_json::from_value(config.into()).expect("a scheduler config")
    }
}

impl Tolerance {
    /// The largest error over what is allowed for a tensor of this magnitude.
    fn excess(self, found: &[f64], expected: &[f64]) -> f64 {
        assert_eq!(found.len(), expected.len());
        let magnitude = expected
            .iter()
            .fold(0.0, |most: f64, value| most.max(value.abs()));
        let errors = found
            .iter()
            .zip(expected)
            .map(|(found, expected)| (found - expected).abs());
        // Not `max`, which would drop NaN.
        let error = errors.fold(0.0, |most, error| if error <= most { most } else { error });
        error / (self.atol + self.rtol * magnitude)
    }
}

fn read(folder: &Path, name: &str) -> Vec<u8> {
    let path = folder.join(name);
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The manifest, and the bytes of the reference tensors.
fn load() -> Option<(Manifest, Vec<u8>)> {
    let folder = folder("schedulers")?;
    let manifest = serde_json::from_slice(&read(&folder, "manifest.json")).expect("manifest.json");
    Some((manifest, read(&folder, "schedulers.safetensors")))
}

fn values(tensors: &SafeTensors, name: &str) -> Vec<f64> {
    let tensor = tensors
        .tensor(name)
        .unwrap_or_else(|error| panic!("{name}: {error}"));
    assert_eq!(tensor.dtype(), Dtype::F32, "{name}");
    let floats = tensor.data().chunks_exact(4);
    floats
        .map(|bytes| f64::from(f32::from_le_bytes(bytes.try_into().unwrap())))
        .collect()
}

/// Runs a schedule on recorded predictions, and compares everything that was recorded. Returns the largest error over the
/// tolerance, or the first deviation.
fn run(
    name: &str,
    case: &Case,
    tensors: &SafeTensors,
    tolerance: Tolerance,
) -> Result<f64, String> {
    let schedule = Schedule::new(&case.config(), case.num_inference_steps)
        .map_err(|error| error.to_string())?;
    let mut worst = 0.0_f64;
    let mut compare = |what: &str, found: &[f64], expected: &[f64]| {
        if found.len() != expected.len() {
            return Err(format!(
                "{what}: {} values, expected {}",
                found.len(),
                expected.len()
            ));
        }
        let excess = tolerance.excess(found, expected);
        worst = worst.max(excess);
        if excess <= 1.0 {
            return Ok(());
        }
        Err(format!(
            "{what}: error {excess:.1} times the tolerance, found {:?}, expected {:?}",
            &found[..found.len().min(8)],
            &expected[..found.len().min(8)]
        ))
    };
    let recorded = |what: &str| values(tensors, &format!("{name}/{what}"));

    let timesteps = recorded("timesteps");
    compare("timesteps", &schedule.timesteps, &timesteps)?;
    for (found, expected) in schedule.timesteps.iter().zip(&timesteps) {
        if (found - expected).abs() > 1e-3 {
            return Err(format!("timestep {found}, expected {expected}"));
        }
    }
    compare(
        "init_noise_sigma",
        &[schedule.init_noise_sigma],
        &recorded("init_noise_sigma"),
    )?;
    if tensors.tensor(&format!("{name}/sigmas")).is_ok() {
        let sigmas = schedule.sigmas.as_deref().unwrap_or_default();
        compare("sigmas", sigmas, &recorded("sigmas"))?;
    }

    let calls = timesteps.len();
    let inputs = format!("inputs.T{}", case.num_inference_steps);
    let given = |what: &str| values(tensors, &format!("{inputs}/{what}"));
    let x0 = given("x0");
    let predictions = given(&format!("model_output_len{calls}"));
    let noise = given(&format!("noise_len{calls}"));
    let model_inputs = recorded("model_input");
    let prev_samples = recorded("prev_sample");
    let at = |all: &[f64], call: usize| all[call * x0.len()..][..x0.len()].to_vec();

    let initial = x0
        .iter()
        .map(|value| value * schedule.init_noise_sigma)
        .collect();
    let mut known: HashMap<Versioned, Vec<f64>> = HashMap::from([(Value::Latents.at(0), initial)]);
    for (call, step) in schedule.steps.iter().enumerate() {
        let latents = &known[&Value::Latents.at(call)];
        let scaled: Vec<f64> = latents
            .iter()
            .map(|value| value * step.input_scale)
            .collect();
        compare(
            &format!("model_input[{call}]"),
            &scaled,
            &at(&model_inputs, call),
        )?;
        known.insert(Value::Prediction.at(call), at(&predictions, call));
        known.insert(Value::Noise.at(call), at(&noise, call));
        for combine in &step.combines {
            let mut out = vec![0.0; x0.len()];
            for (index, term) in combine.terms.iter().enumerate() {
                assert!(
                    term.weight != 0.0 && term.part == Part::Whole,
                    "{name}: {term:?}"
                );
                assert!(
                    combine.terms[..index]
                        .iter()
                        .all(|other| other.of != term.of),
                    "{name}: {term:?} twice"
                );
                let value = known
                    .get(&term.of)
                    .unwrap_or_else(|| panic!("{name}, call {call}: no {:?}", term.of));
                out.iter_mut()
                    .zip(value)
                    .for_each(|(out, value)| *out += term.weight * value);
            }
            assert!(
                known.insert(combine.out, out).is_none(),
                "{name}: {:?} is made twice",
                combine.out
            );
        }
        assert_eq!(
            step.combines.last().map(|combine| combine.out),
            Some(Value::Latents.at(call + 1)),
            "{name}"
        );
        let latents = &known[&Value::Latents.at(call + 1)];
        compare(
            &format!("prev_sample[{call}]"),
            latents,
            &at(&prev_samples, call),
        )?;
    }
    assert_eq!(schedule.calls(), calls, "{name}");
    Ok(worst)
}

#[test]
fn schedules_match_diffusers() {
    let Some((manifest, bytes)) = load() else {
        return;
    };
    let file = &manifest.files["schedulers.safetensors"];
    let tensors = SafeTensors::deserialize(&bytes).expect("schedulers.safetensors");

    let mut ran: BTreeMap<&str, (usize, f64)> = BTreeMap::new();
    let mut failures = Vec::new();
    for (name, case) in &file.params.cases {
        let (count, worst) = ran.entry(&case.class).or_default();
        *count += 1;
        match run(name, case, &tensors, file.tolerance) {
            Ok(excess) => *worst = worst.max(excess),
            Err(failure) => failures.push(format!("{name}: {failure}")),
        }
    }
    for (class, (count, worst)) in &ran {
        println!("{class}: {count} cases, largest error {worst:.3} of the tolerance");
    }
    assert!(!ran.is_empty(), "the manifest has no cases");
    assert!(
        failures.is_empty(),
        "{} of the cases fail:\n{}",
        failures.len(),
        failures.join("\n")
    );
}

/// Classes that diffusers' results are not recorded for, and what they are checked by in their place.
const WITHOUT_DATA: [(&str, &str); 1] = [(
    "HeunDiscreteScheduler",
    "properties: asyncdiff-core/src/scheduler/tests.rs",
)];

#[test]
fn every_class_has_reference_data_or_a_reason() {
    let Some((manifest, _)) = load() else {
        return;
    };
    let cases = &manifest.files["schedulers.safetensors"].params.cases;
    for scheduler in SCHEDULERS {
        let recorded = cases.values().any(|case| case.class == scheduler.class);
        let excused = WITHOUT_DATA
            .iter()
            .any(|(class, _)| *class == scheduler.class);
        assert!(recorded != excused, "{}", scheduler.class);
    }
}

/// Tables are named `alphas_cumprod.MODEL`; the model is a part of the names of the cases that use it.
#[test]
fn noise_tables_match_diffusers() {
    let Some((manifest, bytes)) = load() else {
        return;
    };
    let file = &manifest.files["schedulers.safetensors"];
    let tensors = SafeTensors::deserialize(&bytes).expect("schedulers.safetensors");

    let mut compared = 0;
    for tensor in tensors.names() {
        let Some(model) = tensor.strip_prefix("alphas_cumprod.") else {
            continue;
        };
        let expected = values(&tensors, tensor);
        for (name, case) in &file.params.cases {
            if name == model || name.split('.').any(|part| part == model) {
                let found = case.config().alphas_cumprod().expect(name);
                let excess = file.tolerance.excess(&found, &expected);
                assert!(
                    excess <= 1.0,
                    "{tensor} with the config of {name}: error {excess:.1} times the tolerance"
                );
                compared += 1;
            }
        }
    }
    println!("{compared} noise tables");
    assert!(
        compared > 0,
        "the reference data has no noise table of any case"
    );
}
