//! What the service adds to a picture's time.

use std::time::Instant;

use serde_json::json;

use super::ALONE;
use super::client::{PROMPT, Service, settings};

/// Printed, not judged: the machine may be busy.
#[test]
fn from_request_to_picture() {
    let _alone = ALONE.lock();
    let service = Service::start(settings());
    let body = json!({ "prompt": PROMPT, "num_inference_steps": 20, "seed": 1 });
    let denoising = || {
        let text = service.get("/metrics").text();
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix("asyncdiff_denoising_seconds_total "));
        line.unwrap().parse::<f64>().unwrap()
    };
    // The first one loads the denoiser.
    service.post("/v1/images/generations", &body).json(200);
    let before = denoising();
    let begin = Instant::now();
    for _ in 0..5 {
        service.post("/v1/images/generations", &body).json(200);
    }
    let (whole, denoising) = (begin.elapsed().as_secs_f64(), denoising() - before);
    println!(
        "from request to picture {:.3} s, of which denoising {:.3} s: {:.1} % more",
        whole / 5.0,
        denoising / 5.0,
        100.0 * (whole / denoising - 1.0)
    );
    // Far from what an idle machine shows, and near enough to see a model that is loaded anew for each.
    assert!(whole < 2.0 * denoising + 2.5, "{whole} {denoising}");
}
