//! Whether a shape is one that the model can make, and a content one that a run of that shape can be made from.

use super::{MOST_FRAMES, StableDiffusion};
use crate::class::Class;
use crate::image::ImageError;
use crate::request::{Content, ImageToVideo, InitImage, RequestError, Shape, StartFrom};

fn out_of_range<T>(
    what: &'static str,
    found: String,
    supported: &'static str,
) -> Result<T, RequestError> {
    Err(RequestError::OutOfRange {
        what,
        found,
        supported,
    })
}

impl StableDiffusion {
    /// Whether the model can make the frames that are asked for, from what is given.
    pub(super) fn check_video(&self, shape: &Shape) -> Result<(), RequestError> {
        let makes_videos = self.class == Class::Video;
        if !(1..=MOST_FRAMES).contains(&shape.frames) {
            return out_of_range("number of frames", shape.frames.to_string(), "1 to 1024");
        }
        if !makes_videos {
            self.check_motion(shape)?;
        }
        match shape.start {
            StartFrom::Noise => {}
            _ if makes_videos => return Err(RequestError::StartsFromNoise),
            _ => {}
        }
        match shape.min_guidance_scale {
            Some(_) if !makes_videos => Err(RequestError::AnimatesNoPicture),
            _ => Ok(()),
        }
    }

    /// Whether a run of this shape can be made from this content. The picture that a run starts from, or that a video is made of,
    /// may still be missing.
    ///
    /// # Errors
    ///
    /// [`RequestError`] that says what does not fit.
    pub fn check(&self, shape: &Shape, content: &Content) -> Result<(), RequestError> {
        let makes_videos = self.class == Class::Video;
        if content.fps == 0 {
            return out_of_range("frames per second", "0".to_owned(), "1 or more");
        }
        if makes_videos {
            if !content.prompt.is_empty() || !content.negative_prompt.is_empty() {
                return Err(RequestError::ReadsNoText);
            }
            if content.init_image.is_some() {
                return Err(RequestError::StartsFromNoise);
            }
        }
        match &content.image_to_video {
            Some(_) if !makes_videos => return Err(RequestError::AnimatesNoPicture),
            Some(video) => check_image_to_video(video, shape)?,
            None => {}
        }
        let latents = self.latents_shape(shape)?;
        if let Some(given) = &content.latents
            && given.shape != latents
        {
            return Err(RequestError::Latents {
                found: given.shape.clone(),
                expected: latents.to_vec(),
            });
        }
        match &content.init_image {
            Some(init) => check_init_image(init, shape),
            None => Ok(()),
        }
    }

    /// [`StableDiffusion::check`], and whether nothing is missing.
    ///
    /// # Errors
    ///
    /// The same; [`RequestError::NeedsPicture`], [`RequestError::Start`].
    pub fn check_complete(&self, shape: &Shape, content: &Content) -> Result<(), RequestError> {
        self.check(shape, content)?;
        if self.class == Class::Video && content.image_to_video.is_none() {
            return Err(RequestError::NeedsPicture);
        }
        match content.init_image {
            None if shape.start != StartFrom::Noise => Err(RequestError::Start {
                planned: shape.start.name(),
                found: StartFrom::Noise.name(),
            }),
            _ => Ok(()),
        }
    }
}

fn check_init_image(init: &InitImage, shape: &Shape) -> Result<(), RequestError> {
    let found = init.start();
    if found.is_masked() != shape.start.is_masked() || shape.start == StartFrom::Noise {
        return Err(RequestError::Start {
            planned: shape.start.name(),
            found: found.name(),
        });
    }
    let mask = init.mask.as_ref();
    let sizes = [
        (
            "picture to start from",
            Some((init.image.width, init.image.height)),
        ),
        ("mask", mask.map(|mask| (mask.width, mask.height))),
    ];
    for (what, size) in sizes {
        let expected = (shape.width, shape.height);
        if let Some(found) = size.filter(|size| *size != expected) {
            return Err(RequestError::PictureSize {
                what,
                found,
                expected,
            });
        }
    }
    Ok(init.image.check()?)
}

fn check_image_to_video(video: &ImageToVideo, shape: &Shape) -> Result<(), RequestError> {
    video.image.check()?;
    if video.image.rgb.is_empty() {
        return Err(ImageError::NoPixels.into());
    }
    for (what, found) in [
        (
            "strength of the noise on the picture",
            video.noise_aug_strength,
        ),
        ("motion bucket", video.motion_bucket_id),
    ] {
        if !(found.is_finite() && found >= 0.0) {
            return out_of_range(what, found.to_string(), "a finite number, 0 or more");
        }
    }
    if video.decode_chunk_size == Some(0) {
        let what = "number of frames decoded at a time";
        return out_of_range(what, "0".to_owned(), "1 or more");
    }
    let shape = [1, 3, shape.height, shape.width];
    match &video.noise {
        Some(noise) if noise.shape != shape => Err(RequestError::PictureNoise {
            found: noise.shape.clone(),
            expected: shape.to_vec(),
        }),
        _ => Ok(()),
    }
}
