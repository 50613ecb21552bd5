//! Samplers and their noise levels, by the names of web UIs.

use crate::refusal::Refusal;

/// A sampler's name there, our scheduler, and our scheduler on Karras noise levels.
pub(crate) const SAMPLERS: [(&str, &str, Option<&str>); 11] = [
    ("DPM++ 2M", "dpmpp-2m", Some("dpmpp-2m-karras")),
    ("DPM++ 2M SDE", "dpmpp-2m-sde", Some("dpmpp-2m-sde-karras")),
    ("Euler a", "euler-ancestral", None),
    ("Euler", "euler", None),
    ("Heun", "heun", None),
    ("DDIM", "ddim", None),
    ("UniPC", "unipc", None),
    ("PLMS", "pndm", None),
    ("PNDM", "pndm", None),
    ("LCM", "lcm", None),
    ("Automatic", "", None),
];

const KARRAS: &str = "karras";
/// Noise levels as the scheduler has them.
const USUAL: [&str; 4] = ["", "automatic", "uniform", "normal"];

/// Our scheduler of a sampler such as `DPM++ 2M`, or `DPM++ 2M Karras` as one name, with noise levels such as `Karras`; `None` for
/// the model's own.
pub(crate) fn scheduler(
    sampler: Option<&str>,
    levels: Option<&str>,
) -> Result<Option<&'static str>, Refusal> {
    let Some(sampler) = sampler.map(str::trim).filter(|name| !name.is_empty()) else {
        return Ok(None);
    };
    let lower = sampler.to_ascii_lowercase();
    let (name, in_name) = match lower.strip_suffix(KARRAS) {
        Some(name) => (name.trim(), true),
        None => (lower.as_str(), false),
    };
    let found = SAMPLERS.iter().find(|(known, own, _)| {
        known.eq_ignore_ascii_case(name) || (!own.is_empty() && *own == name.trim_end_matches('-'))
    });
    let Some((known, usual, karras)) = found else {
        let names: Vec<_> = SAMPLERS.iter().map(|(name, ..)| *name).collect();
        return Err(Refusal::field(
            "sampler_name",
            format!(
                "there is no sampler {:?} here: use {}",
                asyncdiff_core::quoted(sampler).to_string(),
                names.join(", ")
            ),
        ));
    };
    if usual.is_empty() {
        return Ok(None);
    }
    let levels = levels.unwrap_or_default().trim().to_ascii_lowercase();
    let wants_karras = in_name || levels == KARRAS;
    if !wants_karras && !USUAL.contains(&levels.as_str()) {
        return Err(Refusal::field(
            "scheduler",
            format!(
                "there are no noise levels {:?} here: use Automatic or Karras",
                asyncdiff_core::quoted(&levels).to_string()
            ),
        ));
    }
    match (wants_karras, karras) {
        (false, _) => Ok(Some(usual)),
        (true, Some(karras)) => Ok(Some(karras)),
        (true, None) => Err(Refusal::field(
            "scheduler",
            format!("{known} has no Karras noise levels here: use Automatic, or DPM++ 2M"),
        )),
    }
}

/// The name there of one of our schedulers, and of its noise levels.
pub(crate) fn name(scheduler: &str) -> (&'static str, &'static str) {
    for (name, usual, karras) in SAMPLERS {
        if usual == scheduler {
            return (name, "Automatic");
        }
        if karras == Some(scheduler) {
            return (name, "Karras");
        }
    }
    ("Automatic", "Automatic")
}

#[cfg(test)]
mod tests {
    use asyncdiff_core::scheduler::SCHEDULERS;

    use super::*;

    #[test]
    fn names_of_web_uis_are_understood() {
        let found = |sampler, levels| scheduler(sampler, levels).ok().flatten();
        assert_eq!(found(None, None), None);
        assert_eq!(found(Some("Euler a"), None), Some("euler-ancestral"));
        assert_eq!(found(Some("euler"), Some("Automatic")), Some("euler"));
        assert_eq!(found(Some("DPM++ 2M"), None), Some("dpmpp-2m"));
        assert_eq!(
            found(Some("DPM++ 2M Karras"), None),
            Some("dpmpp-2m-karras")
        );
        assert_eq!(
            found(Some("DPM++ 2M"), Some("karras")),
            Some("dpmpp-2m-karras")
        );
        assert_eq!(
            found(Some("DPM++ 2M SDE Karras"), None),
            Some("dpmpp-2m-sde-karras")
        );
        assert_eq!(found(Some("Automatic"), None), None);
        for (sampler, levels) in [
            ("Restart", None),
            ("Euler Karras", None),
            ("Euler", Some("Exponential")),
        ] {
            assert!(scheduler(Some(sampler), levels).is_err(), "{sampler}");
        }
    }

    #[test]
    fn every_scheduler_has_a_name_there_that_leads_back() {
        for known in SCHEDULERS {
            let (sampler, levels) = name(known.name);
            let back = scheduler(Some(sampler), Some(levels)).unwrap();
            assert_eq!(back, Some(known.name));
        }
    }
}
