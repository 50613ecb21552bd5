//! LoRAs against diffusers with the same files fused.

use std::fs;
use std::sync::Arc;

use asyncdiff_core::AsyncDiff;
use asyncdiff_models::device::workers;
use asyncdiff_models::lora::Lora;
use asyncdiff_models::{
    Checkpoint, NamedTensor, PartitionChoice, Session, Spread, StableDiffusion, Strategy,
};
use burn::tensor::Tensor;
use serde_json::Value;

use super::fixtures::{Reference, folder, root};

fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().try_into_vec().unwrap()
}

#[test]
fn loras_change_what_diffusers_changes() {
    let Some(folder) = folder("lora") else {
        return;
    };
    let manifest: Value =
        serde_json::from_slice(&fs::read(folder.join("manifest.json")).unwrap()).unwrap();
    let text = Reference::of_folder(&folder, "text");
    let latents = Reference::of_folder(&folder, "latents");
    let params = &manifest["params"];
    let number = |key: &str| params[key].as_u64().unwrap() as usize;
    for (name, case) in params["cases"].as_object().unwrap() {
        let checkpoint = root()
            .join(case["model"].as_str().unwrap())
            .join("checkpoint");
        let loras = case["loras"].as_array().unwrap().iter().map(|lora| {
            let file = Lora::open(&folder.join(lora["file"].as_str().unwrap())).unwrap();
            (file, lora["strength"].as_f64().unwrap())
        });
        let pipeline = StableDiffusion::open(Checkpoint::folder(checkpoint).unwrap())
            .unwrap()
            .with_loras(loras.collect())
            .unwrap();
        let pipeline = Arc::new(pipeline);
        let mut request = pipeline.request(params["prompt"].as_str().unwrap());
        request.content.negative_prompt = params["negative_prompt"].as_str().unwrap().to_owned();
        request.shape.steps = number("steps");
        request.shape.guidance_scale = params["guidance"].as_f64().unwrap();
        (request.shape.width, request.shape.height) = (number("width"), number("height"));
        request.content.latents = Some(NamedTensor {
            name: "noise".to_owned(),
            shape: latents.shape("noise").to_vec(),
            values: latents.values("noise").to_vec(),
        });

        let mut session = Session::new(&pipeline, workers("cpu:3", Some(3)).unwrap()).unwrap();
        let conditioning = session.encode(&request.shape, &request.content).unwrap();
        text.check(
            name,
            &format!("{name}/context"),
            &values(conditioning.context),
        );
        if let Some(added) = conditioning.added {
            text.check(
                name,
                &format!("{name}/pooled"),
                &values(added.text_embeds.unwrap()),
            );
        }
        let run = pipeline
            .plan(&request.shape, &Strategy::sequential())
            .unwrap();
        let sequential = session
            .generate(&run, &request.content, &mut ())
            .unwrap()
            .latents;
        latents.check(name, &format!("{name}/latents"), &sequential);

        // Each rank changes its own blocks only; all warm-up is the sequential computation.
        let distributed = Strategy::from(Spread::AsyncDiff {
            partition: PartitionChoice::Published(3),
            parameters: AsyncDiff {
                warm_up: run.plan.calls,
                ..AsyncDiff::default()
            },
        });
        let run = pipeline.plan(&request.shape, &distributed).unwrap();
        let distributed = session
            .generate(&run, &request.content, &mut ())
            .unwrap()
            .latents;
        assert_eq!(distributed, sequential, "{name} on three ranks");
    }
}
