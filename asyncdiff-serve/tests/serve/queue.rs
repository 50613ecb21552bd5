//! Who waits, who goes, and the end of the service.

use std::net::{Shutdown, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use asyncdiff_serve::Settings;
use serde_json::{Value, json};

use super::client::{PROMPT, Response, Service, base64, bytes, picture, png, settings, slants};

/// One that makes long pictures.
fn patient() -> Settings {
    let mut settings = settings();
    settings.limits.steps = 10_000;
    settings
}

fn long() -> Value {
    json!({ "prompt": PROMPT, "steps": 500, "seed": 1 })
}

/// Waits until the metrics say so.
fn until(service: &Service, line: &str) {
    let start = Instant::now();
    while !service
        .get("/metrics")
        .text()
        .lines()
        .any(|found| found == line)
    {
        assert!(
            start.elapsed() < Duration::from_secs(30),
            "not {line}:\n{}",
            service.get("/metrics").text()
        );
        thread::sleep(Duration::from_millis(20));
    }
}

fn start(service: &Service, body: &Value) -> TcpStream {
    service
        .request("POST", "/sdapi/v1/txt2img")
        .json(body)
        .open()
}

#[test]
fn whoever_goes_away_frees_the_place() {
    let service = Service::start(patient());
    let first = start(&service, &long());
    until(&service, "asyncdiff_requests_running 1");
    let second = start(&service, &long());
    until(&service, "asyncdiff_requests_waiting 1");
    // One that waits, then the one at work.
    drop(second);
    until(&service, "asyncdiff_requests_waiting 0");
    first.shutdown(Shutdown::Both).unwrap();
    until(&service, "asyncdiff_requests_running 0");
    // A stream that nobody reads on.
    let body = json!({ "prompt": PROMPT, "num_inference_steps": 500, "stream": true, "partial_images": 3 });
    let stream = service
        .request("POST", "/v1/images/generations")
        .json(&body)
        .open();
    until(&service, "asyncdiff_requests_running 1");
    drop(stream);
    until(&service, "asyncdiff_requests_running 0");
    until(
        &service,
        "asyncdiff_requests_total{interface=\"automatic1111\",result=\"cancelled\"} 2",
    );
    until(
        &service,
        "asyncdiff_requests_total{interface=\"openai\",result=\"cancelled\"} 1",
    );
}

#[test]
fn a_full_queue_refuses_and_tells_places() {
    let mut settings = patient();
    settings.limits.queue = 2;
    let service = Service::start(settings);
    let at_work = start(&service, &long());
    until(&service, "asyncdiff_requests_running 1");
    let place = |body: &Value| service.post("/api/jobs", body).json(202);
    let (first, second) = (place(&long()), place(&long()));
    assert_eq!((&first["place"], &second["place"]), (&json!(1), &json!(2)));
    let refused = service.post("/v1/images/generations", &json!({ "prompt": PROMPT }));
    assert_eq!(refused.header("retry-after"), Some("5"));
    let error = refused.json(429);
    assert_eq!(error["error"]["code"], "rate_limit_exceeded");
    // The one behind moves up.
    let path = |job: &Value| format!("/api/jobs/{}", job["id"].as_str().unwrap());
    let request = service.request("GET", &format!("{}/events", path(&second)));
    let mut events = request.events();
    assert_eq!(
        events.next().unwrap(),
        json!({ "type": "queued", "place": 2 })
    );
    assert_eq!(service.request("DELETE", &path(&first)).send().status, 204);
    assert_eq!(
        events.next().unwrap(),
        json!({ "type": "queued", "place": 1 })
    );
    drop(at_work);
    assert_eq!(events.next().unwrap()["type"], "started");
    service.request("DELETE", &path(&second)).send();
    until(&service, "asyncdiff_requests_running 0");
}

/// The value of a metric.
fn count(service: &Service, name: &str) -> u64 {
    let text = service.get("/metrics").text();
    let mut lines = text.lines();
    let value = lines.find_map(|line| line.strip_prefix(name)?.trim().parse().ok());
    value.unwrap_or_else(|| panic!("no {name}: {text}"))
}

#[test]
fn prompts_that_wait_are_made_together_and_one_that_leaves_disturbs_no_other() {
    const CALLS: &str = "asyncdiff_denoiser_calls_total";
    const STEPS: u64 = 60;
    let mut settings = patient();
    settings.limits.together = 2;
    let service = Service::start(settings);
    let body = |prompt: &str, seed: u64| json!({ "prompt": prompt, "steps": STEPS, "seed": seed });
    let bodies = [body(PROMPT, 7), body("rocket (flat style:1.3)", 20)];
    let made = |answer: &Value| {
        let bytes = bytes(&answer["images"][0]);
        (
            asyncdiff_media::picture::text(&bytes).unwrap(),
            picture(&bytes),
        )
    };
    // Which is measured, too.
    let alone = bodies
        .each_ref()
        .map(|body| made(&service.post("/sdapi/v1/txt2img", body).json(200)));
    let same = |answer: &Value, index: usize| {
        let (text, image) = made(answer);
        let (expected, picture) = &alone[index];
        assert_eq!(text, *expected);
        let pairs = image.rgb.iter().zip(&picture.rgb);
        let far = pairs.map(|(a, b)| a.abs_diff(*b)).max();
        // Sums of a larger batch come in another order.
        assert!(far <= Some(1), "{far:?}");
    };
    let both_wait = || {
        let at_work = start(&service, &long());
        until(&service, "asyncdiff_requests_running 1");
        let first = start(&service, &bodies[0]);
        until(&service, "asyncdiff_requests_waiting 1");
        let second = start(&service, &bodies[1]);
        until(&service, "asyncdiff_requests_waiting 2");
        drop(at_work);
        until(&service, "asyncdiff_requests_running 2");
        [first, second]
    };
    let before = count(&service, CALLS);
    for (index, stream) in both_wait().into_iter().enumerate() {
        same(&Response::read(stream).json(200), index);
    }
    assert_eq!(count(&service, CALLS), before + STEPS);
    // Nobody wants it any more.
    drop(both_wait());
    until(&service, "asyncdiff_requests_running 0");
    assert_eq!(count(&service, CALLS), before + STEPS);
    // One does not.
    let [first, second] = both_wait();
    drop(first);
    until(&service, "asyncdiff_requests_running 1");
    same(&Response::read(second).json(200), 1);
    assert_eq!(count(&service, CALLS), before + 2 * STEPS);
}

#[test]
fn what_waits_takes_no_more_memory_than_it_may() {
    let mut settings = patient();
    settings.limits.body_bytes = 40_000;
    settings.limits.held_bytes = 100_000;
    let service = Service::start(settings);
    let at_work = start(&service, &long());
    until(&service, "asyncdiff_requests_running 1");
    let url = format!("data:image/png;base64,{}", base64(&png(&slants(64, 64))));
    let body = json!({ "prompt": PROMPT, "steps": 500, "init_image": url });
    let mut waiting = Vec::new();
    let refused = loop {
        let answer = service.post("/api/jobs", &body);
        if answer.status != 202 {
            break answer;
        }
        waiting.push(answer.json(202)["id"].clone());
        // Each has a picture of 64 x 64 x 3 bytes.
        assert!(waiting.len() < 9, "all are let in");
    };
    assert!(waiting.len() > 3, "{}", waiting.len());
    let error = refused.json(429);
    let message = error["error"]["message"].as_str().unwrap();
    assert!(message.contains("100000 bytes"), "{message}");
    // A text still fits, and so does a picture where one has gone.
    let text = service.post("/api/jobs", &long()).json(202);
    let path = |id: &Value| format!("/api/jobs/{}", id.as_str().unwrap());
    service.request("DELETE", &path(&text["id"])).send();
    for id in &waiting {
        service.request("DELETE", &path(id)).send();
    }
    drop(at_work);
    until(&service, "asyncdiff_requests_running 0");
}

#[test]
fn several_sets_of_devices_work_at_the_same_time() {
    let mut settings = patient();
    let set = settings.devices[0].clone();
    settings.devices.push(set);
    let service = Service::start(settings);
    let both = [start(&service, &long()), start(&service, &long())];
    until(&service, "asyncdiff_requests_running 2");
    drop(both);
    until(&service, "asyncdiff_requests_running 0");
}

#[test]
fn a_service_that_is_stopped_ends_what_is_at_work() {
    let service = Service::start(patient());
    let at_work = start(&service, &long());
    until(&service, "asyncdiff_requests_running 1");
    let waits = start(&service, &long());
    until(&service, "asyncdiff_requests_waiting 1");
    let begin = Instant::now();
    service.server().stopper().stop();
    for stream in [at_work, waits] {
        let response = Response::read(stream);
        assert_eq!(response.status, 503, "{}", response.text());
        assert_eq!(response.header("retry-after"), Some("5"));
    }
    service.wait();
    assert!(
        begin.elapsed() < Duration::from_secs(10),
        "{:?}",
        begin.elapsed()
    );
}

#[test]
fn a_service_that_drains_finishes_what_is_at_work() {
    let mut settings = patient();
    settings.drain = true;
    let service = Service::start(settings);
    let body = json!({ "prompt": PROMPT, "steps": 100, "seed": 1 });
    let at_work = start(&service, &body);
    until(&service, "asyncdiff_requests_running 1");
    let waits = start(&service, &long());
    until(&service, "asyncdiff_requests_waiting 1");
    service.server().stopper().stop();
    assert_eq!(Response::read(waits).status, 503);
    // Until then, who comes is told so.
    let late = service.post("/sdapi/v1/txt2img", &body);
    assert_eq!(late.status, 503, "{}", late.text());
    assert_eq!(service.get("/health").status, 503);
    let made = Response::read(at_work).json(200);
    assert_eq!(picture(&bytes(&made["images"][0])).width, 64);
    service.wait();
}

#[test]
fn models_make_room_for_each_other() {
    let mut settings = settings();
    settings.loaded = 1;
    settings.loras = vec![super::client::lora()];
    settings.loras.push(asyncdiff_serve::LoraSource {
        name: "broken".to_owned(),
        // No LoRA, but a file.
        path: concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml").into(),
    });
    let service = Service::start(settings);
    let broken = json!({ "prompt": format!("{PROMPT} <lora:broken>"), "steps": 2 });
    let error = service.post("/sdapi/v1/txt2img", &broken).json(400);
    let detail = error["detail"].as_str().unwrap();
    assert!(
        detail.contains("broken") && !detail.contains(env!("CARGO_MANIFEST_DIR")),
        "{detail}"
    );
    let make = |prompt: &str| {
        let body = json!({ "prompt": prompt, "steps": 2, "seed": 1 });
        service.post("/sdapi/v1/txt2img", &body).json(200)["images"][0].clone()
    };
    let tagged = format!("{PROMPT} <lora:motion:0.5>");
    let (plain, with) = (make(PROMPT), make(&tagged));
    let pixels = |image: &Value| picture(&bytes(image));
    assert_ne!(pixels(&plain), pixels(&with));
    assert_eq!(pixels(&plain), pixels(&make(PROMPT)));
    assert_eq!(pixels(&with), pixels(&make(&tagged)));
}
