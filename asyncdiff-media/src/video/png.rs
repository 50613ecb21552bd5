//! Animated PNG.

use asyncdiff_models::image::Image;

use crate::error::WriteProblem;
use crate::picture::encode::{add_png_text, check_png_text};

pub(super) fn encode(
    frames: &[Image],
    frames_per_second: u32,
    text: &str,
) -> Result<Vec<u8>, WriteProblem> {
    check_png_text(text)?;
    let mut output = Vec::new();
    let first = &frames[0];
    let mut encoder = png::Encoder::new(&mut output, first.width as u32, first.height as u32);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    // Five times slower, the default saves a tenth.
    encoder.set_compression(png::Compression::Fast);
    let write = || {
        add_png_text(&mut encoder, text)?;
        // 0 plays is forever.
        encoder.set_animated(frames.len() as u32, 0)?;
        encoder.set_frame_delay(1, frames_per_second as u16)?;
        let mut writer = encoder.write_header()?;
        for frame in frames {
            writer.write_image_data(&frame.rgb)?;
        }
        writer.finish()
    };
    write().map_err(|error: png::EncodingError| WriteProblem::Encoder(error.to_string()))?;
    Ok(output)
}
