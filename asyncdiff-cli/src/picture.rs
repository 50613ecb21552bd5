//! Pictures as PNG files.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use asyncdiff_models::image::Image;

/// Writes pictures as PNG files with `text` (keyword and content, such as `parameters` and the prompt) as text chunks: `tEXt`
/// where the content is Latin-1, which every reader knows, and `iTXt` (UTF-8) where it is not.
///
/// All pictures are made before the first is written, and every file appears whole or not at all.
///
/// # Errors
///
/// A sentence that names the file: its folder does not exist, the disk is full, the picture has no pixel, or a text is not
/// fit for PNG.
pub fn write_pngs(
    paths: &[PathBuf],
    images: &[Image],
    text: &[(&str, &str)],
) -> Result<(), String> {
    let encode = |(path, image): (&PathBuf, &Image)| {
        encode(image, text).map_err(|error| format!("cannot write {}: {error}", path.display()))
    };
    let files: Vec<_> = paths
        .iter()
        .zip(images)
        .map(encode)
        .collect::<Result<_, _>>()?;
    paths
        .iter()
        .zip(files)
        .try_for_each(|(path, bytes)| write_whole(path, &bytes))
}

/// Writes a file that appears whole or not at all: a temporary file beside it takes its name at the end. A file that is
/// already there is replaced.
///
/// # Errors
///
/// A sentence that names the file.
pub fn write_whole(path: &Path, bytes: &[u8]) -> Result<(), String> {
    let cannot = |error: io::Error| format!("cannot write {}: {error}", path.display());
    let (mut file, temporary) = create_beside(folder(path)).map_err(cannot)?;
    let written = file
        .write_all(bytes)
        // Without this a crash of the machine may leave the new name with nothing in it.
        .and_then(|()| file.sync_all())
        .and_then(|()| fs::rename(&temporary, path));
    if written.is_err() {
        // What went wrong first is worth telling; that the leftover cannot be removed either is not.
        let _ = fs::remove_file(&temporary);
    }
    written.map_err(cannot)
}

/// Whether [`write_pngs`] could write there, to be asked before a long computation.
///
/// # Errors
///
/// A sentence that names the file, if its folder does not exist or it is no PNG file by name.
pub fn check_path(path: &Path) -> Result<(), String> {
    let cannot = |reason: String| Err(format!("cannot write {}: {reason}", path.display()));
    if path.is_dir() || path.file_name().is_none() {
        return cannot("it names a folder, not a file".to_owned());
    }
    if !path
        .extension()
        .is_some_and(|extension| extension.eq_ignore_ascii_case("png"))
    {
        return cannot("pictures are written as PNG, give a name that ends in .png".to_owned());
    }
    let folder = folder(path);
    if !folder.is_dir() {
        let folder = folder.display();
        return cannot(format!(
            "the folder {folder} does not exist, create it first"
        ));
    }
    match create_beside(folder) {
        Ok((_, temporary)) => {
            let _ = fs::remove_file(temporary);
            Ok(())
        }
        Err(error) => cannot(format!("{error}; give a folder that can be written to")),
    }
}

fn folder(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    }
}

/// A new file in `folder`, hidden, under a name that nobody else uses.
fn create_beside(folder: &Path) -> io::Result<(File, PathBuf)> {
    let process = std::process::id();
    let mut attempt = 0_u32;
    loop {
        let path = folder.join(format!(".asyncdiff-{process}-{attempt}.tmp"));
        match File::create_new(&path) {
            Ok(file) => return Ok((file, path)),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && attempt < 1000 => {
                attempt += 1;
            }
            Err(error) => return Err(error),
        }
    }
}

/// The bytes of a PNG file.
fn encode(image: &Image, text: &[(&str, &str)]) -> Result<Vec<u8>, String> {
    let side = |pixels: usize| {
        u32::try_from(pixels).map_err(|_| format!("{pixels} pixels are too many for a PNG file"))
    };
    let mut output = Vec::new();
    let mut encoder = png::Encoder::new(&mut output, side(image.width)?, side(image.height)?);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    for &(keyword, content) in text {
        if content.contains('\0') {
            return Err(format!(
                "the text for {keyword:?} contains a NUL character, which PNG cannot hold"
            ));
        }
        let is_latin_1 = content
            .chars()
            .all(|character| u32::from(character) <= 0xff);
        let added = if is_latin_1 {
            encoder.add_text_chunk(keyword.to_owned(), content.to_owned())
        } else {
            encoder.add_itxt_chunk(keyword.to_owned(), content.to_owned())
        };
        added.map_err(|error| error.to_string())?;
    }
    let written = encoder.write_header().and_then(|mut writer| {
        writer.write_image_data(&image.rgb)?;
        writer.finish()
    });
    written.map_err(|error| error.to_string())?;
    Ok(output)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn picture() -> Image {
        Image {
            width: 3,
            height: 2,
            rgb: (0..18).collect(),
        }
    }

    fn write_png(path: &Path, image: &Image, text: &[(&str, &str)]) -> Result<(), String> {
        write_pngs(&[path.to_owned()], std::slice::from_ref(image), text)
    }

    fn read(path: &Path) -> (png::Info<'static>, Vec<u8>) {
        let file = io::BufReader::new(File::open(path).unwrap());
        let mut reader = png::Decoder::new(file).read_info().unwrap();
        let mut bytes = vec![0; reader.output_buffer_size().unwrap()];
        reader.next_frame(&mut bytes).unwrap();
        reader.finish().unwrap();
        (reader.info().clone(), bytes)
    }

    #[test]
    fn pixels_and_texts_come_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.png");
        fs::write(&path, "old").unwrap();
        write_png(
            &path,
            &picture(),
            &[("parameters", "café, seed 7"), ("prompt", "猫 🐈")],
        )
        .unwrap();
        let (info, bytes) = read(&path);
        assert_eq!(
            (info.width, info.height, info.color_type),
            (3, 2, png::ColorType::Rgb)
        );
        assert_eq!(bytes, picture().rgb);
        assert_eq!(info.uncompressed_latin1_text[0].keyword, "parameters");
        assert_eq!(info.uncompressed_latin1_text[0].text, "café, seed 7");
        assert_eq!(info.utf8_text[0].keyword, "prompt");
        assert_eq!(info.utf8_text[0].get_text().unwrap(), "猫 🐈");
        assert_eq!(
            fs::read_dir(folder.path()).unwrap().count(),
            1,
            "the temporary file is gone"
        );
    }

    #[test]
    fn a_folder_that_does_not_exist_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("missing").join("a.png");
        let error = check_path(&path).unwrap_err();
        assert!(error.contains("missing does not exist"), "{error}");
        assert!(write_png(&path, &picture(), &[]).is_err());
    }

    #[test]
    fn a_failure_leaves_nothing_behind_and_spares_the_old_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.png");
        fs::write(&path, "old").unwrap();
        let torn = Image {
            rgb: vec![0; 5],
            ..picture()
        };
        let empty = Image {
            width: 0,
            height: 0,
            rgb: Vec::new(),
        };
        let keyword = "k".repeat(80);
        for (image, text) in [
            (&torn, ("parameters", "a")),
            (&empty, ("parameters", "a")),
            (&picture(), ("parameters", "a\0b")),
            (&picture(), (keyword.as_str(), "a")),
            (&picture(), (keyword.as_str(), "猫")),
            (&picture(), ("", "a")),
        ] {
            let error = write_png(&path, image, &[text]).unwrap_err();
            assert!(error.contains("a.png: "), "{error}");
            assert_eq!(fs::read(&path).unwrap(), b"old");
            assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        }
        let directory = folder.path().join("d.png");
        fs::create_dir(&directory).unwrap();
        assert!(write_png(&directory, &picture(), &[]).is_err());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
    }
}
