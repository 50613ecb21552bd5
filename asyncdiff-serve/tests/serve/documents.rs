//! What describes the service.

use serde_json::json;

use super::client::{PROMPT, Service, settings};

#[test]
fn the_interfaces_are_described() {
    // Not the shared one: what is at work there is not to be interrupted.
    let service = Service::start(settings());
    let description = service.get("/openapi.json").json(200);
    assert!(description["openapi"].as_str().unwrap().starts_with('3'));
    for path in [
        "/v1/images/generations",
        "/v1/images/edits",
        "/sdapi/v1/txt2img",
        "/sdapi/v1/img2img",
        "/api/jobs",
    ] {
        assert!(description["paths"][path]["post"].is_object(), "{path}");
    }
    // What is described is there.
    for (path, methods) in description["paths"].as_object().unwrap() {
        for method in methods.as_object().unwrap().keys() {
            let named = path.replace("{id}", "x").replace("{name}", "x");
            let status = service
                .request(&method.to_uppercase(), &named)
                .send()
                .status;
            let missing = status == 404 && named == *path;
            assert!(!missing && status != 405, "{method} {path}: {status}");
        }
    }
    // And what is there is described.
    for (method, path) in [
        ("get", "embeddings"),
        ("get", "hypernetworks"),
        ("get", "face-restorers"),
        ("get", "prompt-styles"),
        ("get", "latent-upscale-modes"),
        ("get", "upscalers"),
        ("get", "sd-vae"),
        ("get", "scripts"),
        ("get", "cmd-flags"),
        ("get", "memory"),
        ("post", "refresh-checkpoints"),
        ("post", "refresh-loras"),
    ] {
        let path = format!("/sdapi/v1/{path}");
        let summary = &description["paths"][&path][method]["summary"];
        assert!(summary.is_string(), "{method} {path}");
        let answer = service.request(&method.to_uppercase(), &path).send();
        assert_eq!(answer.status, 200, "{path}");
    }
    for path in ["/v1/models/{name}", "/files/{name}"] {
        assert!(description["paths"][path]["get"].is_object(), "{path}");
    }
    let fields = &description["components"]["schemas"];
    assert!(fields.to_string().contains("num_inference_steps"));
    let page = service.get("/docs").text();
    assert!(page.contains("/v1/images/generations") && page.contains("num_inference_steps"));
    assert!(!page.contains("http"), "it names a host");
}

#[test]
fn metrics_count() {
    let service = Service::shared();
    service
        .post(
            "/sdapi/v1/txt2img",
            &json!({ "prompt": PROMPT, "steps": 2, "seed": 1 }),
        )
        .json(200);
    service
        .post(
            "/sdapi/v1/txt2img",
            &json!({ "prompt": PROMPT, "steps": 100_000 }),
        )
        .json(400);
    let response = service.get("/metrics");
    assert!(
        response
            .header("content-type")
            .unwrap()
            .starts_with("application/openmetrics-text")
    );
    let text = response.text();
    for name in [
        "asyncdiff_pictures_total",
        "asyncdiff_denoiser_calls_total",
        "asyncdiff_denoising_seconds_total",
        "asyncdiff_waiting_seconds_bucket",
        "asyncdiff_requests_total{interface=\"automatic1111\",result=\"made\"}",
        "asyncdiff_requests_refused_total{interface=\"automatic1111\",status=\"400\"}",
    ] {
        let line = text.lines().find(|line| line.starts_with(name));
        let value = line.and_then(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
        assert!(value > Some(0.0), "{name}: {line:?}");
    }
    assert!(text.ends_with("# EOF\n"));
}

#[test]
fn what_is_not_there_is_said() {
    let service = Service::shared();
    assert_eq!(service.get("/health").json(200), json!({ "status": "ok" }));
    assert!(service.get("/nothing").json(404)["error"]["message"].is_string());
    assert!(service.get("/v1/nothing").json(404)["error"]["type"].is_string());
    assert_eq!(service.get("/api/jobs").status, 405);
}
