//! Previews of a checkpoint whose decoder is broken.

use std::ops::ControlFlow;
use std::sync::Arc;

use asyncdiff_models::device::workers;
use asyncdiff_models::{
    Checkpoint, Clean, Error, Latents, Previewer, Progress, Session, StableDiffusion, Strategy,
};
use safetensors::tensor::Dtype;

use super::files::{checkpoint, copy, read, write};

struct Count(Previewer, usize);

impl Progress for Count {
    fn step(&mut self, _: usize, _: usize, _: &Latents) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }

    fn predicted(&mut self, _: usize, _: usize, clean: &Clean<'_>) -> ControlFlow<()> {
        self.1 += self.0.pictures(clean).unwrap().len();
        ControlFlow::Continue(())
    }
}

#[test]
fn previews_do_without_the_decoder() {
    let folder = tempfile::tempdir().unwrap();
    copy(&checkpoint(), folder.path());
    let file = folder
        .path()
        .join("vae/diffusion_pytorch_model.safetensors");
    let mut tensors = read(&file);
    for (_, tensor) in tensors
        .iter_mut()
        .filter(|(name, _)| name.starts_with("decoder."))
    {
        // Whatever they are multiplied with overflows.
        tensor.dtype = Dtype::F32;
        tensor.bytes = f32::MAX.to_le_bytes().repeat(tensor.shape.iter().product());
    }
    write(&file, &tensors, &[("format", "pt")]);
    let pipeline = StableDiffusion::open(Checkpoint::folder(folder.path()).unwrap());
    let pipeline = Arc::new(pipeline.unwrap());
    let mut request = pipeline.request("a small test");
    request.shape.steps = 3;
    let run = pipeline
        .plan(&request.shape, &Strategy::sequential())
        .unwrap();
    let mut session = Session::new(&pipeline, workers("cpu", None).unwrap()).unwrap();
    let mut count = Count(session.previewer(), 0);
    let made = session.generate(&run, &request.content, &mut count);
    assert!(matches!(made, Err(Error::NotFinite)), "{made:?}");
    assert_eq!(count.1, run.plan.calls);
}
