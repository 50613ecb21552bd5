//! Pictures and videos as files; knows nothing of diffusion.
//!
//! [`picture`] reads PNG, JPEG and WebP files into an [`Image`](asyncdiff_models::image::Image) or a
//! [`Mask`](asyncdiff_models::image::Mask), and writes an image as the format that the file's name asks for.
//! [`video`] writes images one after the other as MP4, GIF, animated WebP or PNG, or as a folder of pictures. Whatever is
//! written appears whole or not at all. [`Parameters`] is the text that says how a picture was made. Everything that can go wrong is a [`MediaError`], a sentence that names the file.
//!
//! ```
//! use asyncdiff_media::{picture, video};
//! use asyncdiff_models::image::Image;
//!
//! let folder = tempfile::tempdir()?;
//! let path = folder.path().join("red.png");
//! let image = Image { width: 2, height: 1, rgb: vec![255, 0, 0, 250, 5, 5] };
//!
//! picture::check_path(&path)?; // before a long computation
//! picture::write(&path, &image, "red, seed 7")?;
//! assert_eq!(picture::read(&path)?, image);
//!
//! let path = folder.path().join("red.gif");
//! video::check_path(&path)?;
//! video::write(&path, &[image.clone(), image], 8, "red, seed 7")?; // 8 frames a second
//!
//! let error = picture::check_path(&folder.path().join("red.bmp")).unwrap_err();
//! assert!(error.to_string().ends_with("give a name that ends in .png, .jpg, .jpeg or .webp"));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

#![deny(missing_docs)]

mod error;
mod exif;
pub mod file;
mod limits;
mod parameters;
pub mod picture;
mod stale;
pub mod video;

pub use error::{MediaError, ReadProblem, WriteProblem};
pub use parameters::Parameters;
