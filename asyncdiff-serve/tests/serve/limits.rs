//! How much a request may ask for.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use serde_json::{Value, json};

use super::client::{PROMPT, Service, settings};

#[test]
fn every_limit_is_a_refusal_that_names_it() {
    let mut settings = settings();
    settings.limits.pixels = 64 * 64;
    settings.limits.steps = 10;
    settings.limits.batch = 2;
    settings.limits.frames = 4;
    settings.limits.body_bytes = 20_000;
    let service = Service::start(settings);
    for (body, field, most) in [
        (
            json!({ "prompt": "x", "width": 64, "height": 72 }),
            "size",
            "4096",
        ),
        (
            json!({ "prompt": "x", "width": u64::MAX / 2, "height": 8 }),
            "size",
            "4096",
        ),
        (json!({ "prompt": "x", "steps": 11 }), "steps", "10"),
        (json!({ "prompt": "x", "count": 3, "steps": 1 }), "n", "2"),
        (
            json!({ "prompt": "x", "count": u64::MAX, "steps": 1 }),
            "n",
            "2",
        ),
        (
            json!({ "prompt": "x", "count": 0, "steps": 1 }),
            "n",
            "at least 1",
        ),
        (
            json!({ "prompt": ":".repeat(17_000), "steps": 1 }),
            "prompt",
            "16384",
        ),
        (
            json!({ "prompt": "x", "negative_prompt": "(".repeat(17_000), "steps": 1 }),
            "negative_prompt",
            "16384",
        ),
        (
            json!({ "prompt": "x", "frames": 5, "steps": 1 }),
            "frames",
            "4",
        ),
    ] {
        let error = service.post("/api/jobs", &body).json(400);
        assert_eq!(error["error"]["field"], field, "{body}: {error}");
        let message = error["error"]["message"].as_str().unwrap();
        assert!(message.contains(most), "{body}: {message}");
    }
    let long = json!({ "prompt": "x".repeat(40_000) });
    for path in ["/v1/images/generations", "/sdapi/v1/txt2img", "/api/jobs"] {
        let response = service.post(path, &long);
        assert_eq!(response.status, 413, "{path}: {}", response.text());
        assert!(response.text().contains("20000"), "{path}");
    }
    let file = vec![0; 40_000];
    let form = service
        .request("POST", "/v1/images/edits")
        .form(&[("image", Some("a"), &file)]);
    assert_eq!(form.send().status, 413);
}

#[test]
fn bodies_that_are_no_requests_are_refused() {
    let service = Service::shared();
    for (body, kind, status) in [
        (&b"{"[..], Some("application/json"), 400),
        (b"[1]", Some("application/json"), 400),
        (b"\xff\xfe", Some("application/json"), 400),
        (b"prompt=x", Some("application/x-www-form-urlencoded"), 415),
        (b"{}", Some("text/plain"), 415),
        (b"", None, 400),
    ] {
        for path in ["/v1/images/generations", "/sdapi/v1/txt2img", "/api/jobs"] {
            let request = service.request("POST", path).body(body.to_vec());
            let request = match kind {
                Some(kind) => request.header("Content-Type", kind),
                None => request,
            };
            let response = request.send();
            // A list is no request for web UIs either, which say so with another number.
            assert!(
                [status, 422].contains(&response.status),
                "{path}: {}",
                response.status
            );
            let error: Value = serde_json::from_slice(&response.body).unwrap();
            assert!(error.get("error").is_some(), "{path}: {error}");
        }
    }
    // Fields that are no fields, and more of them than anybody reads.
    let deep = format!("{}{}", "[".repeat(5000), "]".repeat(5000));
    let request = service
        .request("POST", "/api/jobs")
        .header("Content-Type", "application/json");
    assert_eq!(request.body(deep.into_bytes()).send().status, 400);
}

#[test]
fn whatever_is_no_http_is_no_harm() {
    let service = Service::shared();
    for sent in [
        &b"\0\0\0\0\r\n\r\n"[..],
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /\r\n",
        b"POST /api/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99\r\n\r\n{",
    ] {
        let mut stream = TcpStream::connect(service.address).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_millis(300)))
            .unwrap();
        stream.write_all(sent).unwrap();
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        assert!(
            !answer.starts_with(b"HTTP/1.1 200"),
            "{}",
            String::from_utf8_lossy(&answer)
        );
    }
    let body = json!({ "prompt": PROMPT, "steps": 1, "seed": 1 });
    service.post("/sdapi/v1/txt2img", &body).json(200);
}

#[test]
fn what_takes_too_long_is_ended() {
    let mut settings = settings();
    settings.limits.steps = 100_000;
    settings.limits.time = Duration::from_millis(500);
    let service = Service::start(settings);
    let body = json!({ "prompt": PROMPT, "num_inference_steps": 500, "seed": 1 });
    let error = service.post("/v1/images/generations", &body).json(504);
    assert_eq!(error["error"]["code"], "time_limit");
    // And the next one is made.
    let body = json!({ "prompt": PROMPT, "num_inference_steps": 1, "seed": 1 });
    service.post("/v1/images/generations", &body).json(200);
}
