//! LoRAs of a pipeline.

use asyncdiff_burn::weights::WeightSet;

use super::StableDiffusion;
use crate::error::Error;
use crate::lora::{Fitted, Lora, Part};
use crate::text::TextEncoders;

impl StableDiffusion {
    /// Lets every session of this pipeline change the weights that it loads by each LoRA times its strength. 1 is the change
    /// as it was trained, 0 none, and less than 0 its opposite.
    ///
    /// Only the headers of the model's weight files are read here, to see that every layer of every LoRA fits.
    ///
    /// # Errors
    ///
    /// [`Error::Lora`] for one that was made for another architecture, or a strength that is not finite;
    /// [`Error::Weights`] where the model's weights cannot be opened.
    pub fn with_loras(mut self, loras: Vec<(Lora, f64)>) -> Result<Self, Error> {
        for (lora, strength) in loras {
            let fitted = Fitted::new(lora, strength, &self.unet, |part| self.weights(part))?;
            self.loras.push(fitted);
        }
        Ok(self)
    }

    /// The weights of a part, if this pipeline has it.
    pub(super) fn weights(&self, part: Part) -> Result<Option<WeightSet>, Error> {
        let stem = match part {
            Part::UNet => "diffusion_pytorch_model",
            Part::TextEncoder | Part::TextEncoder2 => "model",
        };
        let encoders = self.text_encoders().into_iter();
        let mut encoders = encoders.flat_map(TextEncoders::iter);
        if part != Part::UNet && !encoders.any(|encoder| encoder.folder == part.folder()) {
            return Ok(None);
        }
        Ok(Some(self.checkpoint.weights(part.folder(), stem)?))
    }
}
