//! The picture or video that is wanted.

use serde::{Deserialize, Serialize};

use super::{Content, InitImage, Shape};

/// The picture or video that is wanted. [`StableDiffusion::request`](super::StableDiffusion::request) fills in the model's
/// defaults.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Request {
    /// What decides the plan.
    pub shape: Shape,
    /// What does not.
    pub content: Content,
}

impl Request {
    /// Lets the run start from a picture, whose size becomes that of the result, at the usual strength.
    pub fn start_from(&mut self, init: InitImage) {
        self.shape.start = init.start();
        (self.shape.width, self.shape.height) = (init.image.width, init.image.height);
        self.content.init_image = Some(init);
    }
}
