//! The picture or video that is wanted.

mod content;
mod error;
mod shape;

use serde::{Deserialize, Serialize};

pub use content::{Content, ImageToVideo, InitImage};
pub use error::RequestError;
pub use shape::{Shape, StartFrom};

/// The picture or video that is wanted. [`StableDiffusion::request`](crate::StableDiffusion::request) fills in the model's
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
