//! The pictures that one command asks for: every prompt with every seed.

use std::fmt;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use asyncdiff_models::files::{self, MOST_BYTES_OF_TEXT};

/// More than anybody waits for, and few enough that a slip of the keyboard does not fill the memory.
const MOST: usize = 10_000;

/// What is typed for a seed that nobody has chosen.
const RANDOM: &str = "-1";

/// The seeds of a list such as `1,2,7-9`, in the order in which they are named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seeds {
    seeds: Vec<u64>,
    typed: String,
}

impl Seeds {
    /// The seeds; at least one.
    pub fn as_slice(&self) -> &[u64] {
        &self.seeds
    }
}

/// As it was typed; a random one as it was drawn.
impl fmt::Display for Seeds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.typed)
    }
}

impl FromStr for Seeds {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == RANDOM {
            let seed = parse_seed(text)?;
            return Ok(Self {
                seeds: vec![seed],
                typed: seed.to_string(),
            });
        }
        let mut seeds = Vec::new();
        for part in text.split(',') {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (first, last) = (seed(part, first)?, seed(part, last)?);
            if last < first {
                return Err(format!("{part} runs backwards, write {last}-{first}"));
            }
            if last - first >= (MOST - seeds.len()) as u64 {
                return Err(format!("these are more than {MOST} seeds, name fewer"));
            }
            seeds.extend(first..=last);
        }
        Ok(Self {
            seeds,
            typed: text.to_owned(),
        })
    }
}

/// One seed; -1 draws it.
pub fn parse_seed(text: &str) -> Result<u64, String> {
    match text {
        // Of a seed, the generator takes 32 bits.
        RANDOM => getrandom::u32()
            .map(u64::from)
            .map_err(|error| format!("the system has no random numbers ({error}), name a seed")),
        text => text.trim().parse().map_err(|_| {
            format!(
                "{text:?} is no seed, write a number from 0 to {}, or -1 for a random one",
                u64::MAX
            )
        }),
    }
}

fn seed(part: &str, number: &str) -> Result<u64, String> {
    number.trim().parse().map_err(|_| {
        format!("{part:?} is no seed, write a number from 0 to {}, several as in 1,2,7, a range as in 1-4, or -1 for a random one", u64::MAX)
    })
}

/// A prompt, and what to call it in messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prompt {
    pub text: String,
    pub name: String,
}

impl Prompt {
    /// The prompt of the command line.
    pub fn typed(text: &str) -> Self {
        Self {
            text: text.to_owned(),
            name: "prompt".to_owned(),
        }
    }
}

/// The prompts of a file, one on each line, without blank lines and lines that begin with `#`; `-` is standard input.
///
/// # Errors
///
/// A sentence that names the file.
pub fn read_prompts(path: &Path) -> Result<Vec<Prompt>, String> {
    let mut bytes = Vec::new();
    let (name, read) = if path == Path::new("-") {
        let read = io::stdin().lock().read_to_end(&mut bytes).map(drop);
        ("standard input".to_owned(), read)
    } else {
        let read = files::read(path, MOST_BYTES_OF_TEXT).map(|contents| bytes = contents);
        (path.display().to_string(), read)
    };
    read.map_err(|error| format!("cannot read the prompts in {name}: {error}"))?;
    let text = String::from_utf8(bytes).map_err(|error| {
        let line = 1 + error.as_bytes()[..error.utf8_error().valid_up_to()]
            .iter()
            .filter(|byte| **byte == b'\n')
            .count();
        format!("cannot read the prompts in {name}: line {line} is not UTF-8 text, save the file as UTF-8")
    })?;
    let prompts: Vec<_> = text
        // What some editors put before UTF-8.
        .trim_start_matches('\u{feff}')
        .lines()
        .map(str::trim)
        .enumerate()
        .filter(|(_, line)| !line.is_empty() && !line.starts_with('#'))
        .map(|(index, line)| Prompt {
            text: line.to_owned(),
            name: format!("prompt in line {} of {name}", index + 1),
        })
        .collect();
    if let Some(prompt) = prompts.iter().find(|prompt| prompt.text.contains('\0')) {
        return Err(format!(
            "the {} holds a NUL character: save the file as UTF-8 text",
            prompt.name
        ));
    }
    if prompts.is_empty() {
        return Err(format!(
            "there is no prompt in {name}: write one on each line; blank lines and lines that begin with # are skipped"
        ));
    }
    Ok(prompts)
}

/// One run of the denoiser, and where its pictures go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Job<'a> {
    pub prompt: &'a str,
    pub seed: u64,
    pub files: Vec<PathBuf>,
}

/// Every prompt with every seed. One picture is `name.png`, several are `name-0.png`, `name-1.png`, …; so are videos, and folders
/// of frames: `name-0/`, `name-1/`, …
///
/// # Errors
///
/// A sentence if there would be too many pictures.
pub fn jobs<'a>(
    prompts: &'a [Prompt],
    seeds: &Seeds,
    num_images: usize,
    output: &Path,
) -> Result<Vec<Job<'a>>, String> {
    let seeds = seeds.as_slice();
    let pictures = prompts
        .len()
        .saturating_mul(seeds.len())
        .saturating_mul(num_images);
    if pictures > MOST {
        return Err(format!(
            "{} prompts with {} seeds and {num_images} images of each are {pictures} pictures: ask for at most {MOST}",
            prompts.len(),
            seeds.len()
        ));
    }
    let mut numbers = 0..pictures;
    let mut next = || match numbers.next() {
        Some(number) if pictures > 1 => numbered(output, number),
        _ => output.to_owned(),
    };
    let runs = prompts
        .iter()
        .flat_map(|prompt| seeds.iter().map(move |seed| (&prompt.text, *seed)));
    Ok(runs
        .map(|(prompt, seed)| Job {
            prompt,
            seed,
            files: (0..num_images).map(|_| next()).collect(),
        })
        .collect())
}

fn numbered(output: &Path, number: usize) -> PathBuf {
    let mut name = output.file_stem().unwrap_or_default().to_owned();
    name.push(format!("-{number}"));
    if let Some(extension) = output.extension() {
        name.push(".");
        name.push(extension);
    }
    let is_folder = output.as_os_str().as_encoded_bytes().ends_with(b"/");
    let mut path = output.with_file_name(name).into_os_string();
    if is_folder {
        path.push("/");
    }
    path.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seeds(text: &str) -> Result<Vec<u64>, String> {
        Ok(text.parse::<Seeds>()?.seeds)
    }

    #[test]
    fn seeds_are_numbers_lists_and_ranges() {
        assert_eq!(seeds("7"), Ok(vec![7]));
        assert_eq!(seeds("3,1,1"), Ok(vec![3, 1, 1]));
        assert_eq!(seeds("1-4"), Ok(vec![1, 2, 3, 4]));
        assert_eq!(seeds("9, 2-2, 0-1"), Ok(vec![9, 2, 0, 1]));
        let last = u64::MAX;
        assert_eq!(seeds(&format!("{last}-{last}")), Ok(vec![last]));
        assert_eq!(seeds("1-10000").unwrap().len(), MOST);
        for (text, expected) in [
            ("", "no seed"),
            ("1,", "no seed"),
            ("-1,2", "no seed"),
            ("-2", "no seed"),
            ("1-", "no seed"),
            ("1-2-3", "no seed"),
            ("1.5", "no seed"),
            ("18446744073709551616", "no seed"),
            ("4-1", "write 1-4"),
            ("0-18446744073709551615", "more than 10000"),
            ("1-10000,3", "more than 10000"),
        ] {
            let error = seeds(text).unwrap_err();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }

    #[test]
    fn a_random_seed_is_told_as_drawn() {
        let [first, second] = [(); 2].map(|()| "-1".parse::<Seeds>().unwrap());
        assert_ne!(first, second);
        assert_eq!(first.to_string(), first.as_slice()[0].to_string());
        assert_eq!(parse_seed("7"), Ok(7));
        assert!(parse_seed("-2").unwrap_err().contains("or -1"));
    }

    #[test]
    fn prompts_come_first_then_seeds_then_images() {
        let prompts = ["a", "b"].map(Prompt::typed);
        let list: Seeds = "5,6".parse().unwrap();
        let all = jobs(&prompts, &list, 2, Path::new("out/x.y.png")).unwrap();
        let found: Vec<_> = all.iter().map(|job| (job.prompt, job.seed)).collect();
        assert_eq!(found, [("a", 5), ("a", 6), ("b", 5), ("b", 6)]);
        assert_eq!(
            all[2].files,
            ["out/x.y-4.png", "out/x.y-5.png"].map(PathBuf::from)
        );
        let one: Seeds = "5".parse().unwrap();
        let only = jobs(&prompts[..1], &one, 1, Path::new("x.png")).unwrap();
        assert_eq!(only[0].files, [PathBuf::from("x.png")]);
        assert!(jobs(&prompts, &list, usize::MAX, Path::new("x.png")).is_err());
    }

    #[test]
    fn numbers_come_before_the_extension_or_the_end_of_a_folder() {
        let name = |path: &str| numbered(Path::new(path), 3);
        assert_eq!(name("a.b/fox.png"), Path::new("a.b/fox-3.png"));
        assert_eq!(name("a.b/fox").as_os_str(), "a.b/fox-3");
        assert_eq!(name("a.b/fox/").as_os_str(), "a.b/fox-3/");
    }
}
