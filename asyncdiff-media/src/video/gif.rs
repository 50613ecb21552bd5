//! GIF.

mod palette;

use std::borrow::Cow;

use asyncdiff_models::image::Image;

use self::palette::{Palette, colors};
use super::duration;
use crate::error::WriteProblem;

pub(super) fn encode(
    frames: &[Image],
    frames_per_second: u32,
    text: &str,
) -> Result<Vec<u8>, WriteProblem> {
    let (width, height) = (frames[0].width as u16, frames[0].height as u16);
    // One palette for all frames if all their colours fit in.
    let shared = colors(frames).map(Palette::exact);
    let global = shared.as_ref().map_or(&[][..], Palette::rgb);
    let mut output = Vec::new();
    let mut write = || {
        let mut encoder = gif::Encoder::new(&mut output, width, height, global)?;
        encoder.set_repeat(gif::Repeat::Infinite)?;
        if !text.is_empty() {
            encoder.write_raw_extension(gif::Extension::Comment.into(), &[text.as_bytes()])?;
        }
        for (index, frame) in frames.iter().enumerate() {
            let (palette, indices) = match &shared {
                Some(shared) => (None, shared.indices(frame)),
                None => {
                    let own = Palette::of(frame);
                    (Some(own.rgb().to_owned()), own.indices(frame))
                }
            };
            encoder.write_frame(&gif::Frame {
                delay: duration(index, 100, frames_per_second) as u16,
                width,
                height,
                palette,
                buffer: Cow::Owned(indices),
                ..gif::Frame::default()
            })?;
        }
        Ok(())
    };
    write().map_err(|error: gif::EncodingError| WriteProblem::Encoder(error.to_string()))?;
    Ok(output)
}
