//! The random numbers of a batch.

use crate::random::TorchRng;
use crate::request::Content;

/// A generator for each picture or video of a batch, or one for all of them.
#[derive(Clone, Debug)]
pub(super) struct Generators(Vec<TorchRng>);

impl Generators {
    /// Those of the seeds of a batch with `num_images` of each content.
    pub fn of(contents: &[Content], num_images: usize) -> Self {
        let seeds = contents.iter().flat_map(|content| {
            let count = match content.batch_noise {
                true => 1,
                false => num_images,
            };
            (0..count).map(move |index| content.seed_of(index))
        });
        Self(seeds.map(TorchRng::new).collect())
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// `count` standard normal numbers from each generator, the first one's first.
    pub fn each(&mut self, count: usize) -> Vec<f32> {
        let drawn = self.0.iter_mut().map(|generator| generator.randn(count));
        drawn.flatten().collect()
    }

    /// `count` standard normal numbers, as many from each generator.
    pub fn together(&mut self, count: usize) -> Vec<f32> {
        self.each(count / self.count())
    }
}
