//! LoRAs of a pipeline.

use std::sync::Arc;

use asyncdiff_burn::weights::WeightSet;

use super::StableDiffusion;
use crate::error::Error;
use crate::lora::{Fitted, Lora, Part};
use crate::text::TextEncoders;

impl StableDiffusion {
    /// Lets every session of this pipeline change the weights that it loads by each LoRA times its strength. 1 is the change
    /// as it was trained, 0 none, and less than 0 its opposite. Sessions of a pipeline and of its clone with LoRAs
    /// [share](crate::Session::beside) what these do not change.
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
            self.loras.push(Arc::new(fitted));
        }
        Ok(self)
    }

    /// Whether some modules of the denoiser have the same weights in this pipeline and another one: both are clones of one, and no
    /// LoRA of either changes them.
    pub(crate) fn shares_modules(&self, other: &Self, modules: &[&str]) -> bool {
        let mut loras = self.loras.iter().chain(&other.loras);
        std::ptr::eq(self, other)
            || (self.is_clone_of(other) && !loras.any(|fitted| fitted.changes(modules)))
    }

    /// The same for a whole part.
    pub(crate) fn shares_part(&self, other: &Self, part: Part) -> bool {
        let mut loras = self.loras.iter().chain(&other.loras);
        self.is_clone_of(other) && !loras.any(|fitted| fitted.has(part))
    }

    /// Whether both are the same but for their LoRAs and their noise schedulers.
    pub(crate) fn is_clone_of(&self, other: &Self) -> bool {
        let motion = match (&self.motion, &other.motion) {
            (Some(own), Some(others)) => Arc::ptr_eq(own, others),
            (None, None) => true,
            _ => false,
        };
        motion && self.dtype == other.dtype && Arc::ptr_eq(&self.checkpoint, &other.checkpoint)
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
