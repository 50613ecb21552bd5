//! Many clients at once, of every kind.

use std::io::Write;
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::ALONE;
use super::client::{PROMPT, Response, Service, bytes, picture, settings};

const CLIENTS: usize = 20;
const REQUESTS: usize = 10;
/// How many times the memory of a warm service it may take after the load.
const GROWTH: f64 = 1.05;

/// Bytes of this process in memory.
fn resident() -> Option<u64> {
    let pages = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = pages.split(' ').nth(1)?.parse().ok()?;
    Some(pages * 4096)
}

/// What one request has come to: its status, and the seconds that a picture took.
type Answer = (u16, Option<f64>);

/// Request `number` of a client. Every fifth is of a kind of its own.
fn ask(service: &Service, client: usize, number: usize) -> Option<Answer> {
    let seed = client * REQUESTS + number;
    let body = json!({ "prompt": PROMPT, "steps": 2, "num_inference_steps": 2, "seed": seed });
    match (client + number) % 5 {
        // Goes away at once, or in the middle of what it sends.
        0 if number.is_multiple_of(2) => {
            drop(
                service
                    .request("POST", "/sdapi/v1/txt2img")
                    .json(&body)
                    .open(),
            );
            None
        }
        0 => {
            let mut stream = std::net::TcpStream::connect(service.address).unwrap();
            let head = b"POST /api/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n{\"prompt\": ";
            stream.write_all(head).unwrap();
            None
        }
        // Sends what is no request.
        1 => {
            let response = service
                .request("POST", "/v1/images/generations")
                .body(b"{\"n\": ".to_vec());
            let response = response.send();
            assert_eq!(response.status, 400);
            Some((response.status, None))
        }
        // Asks, and cancels.
        2 => {
            let response = service.post("/api/jobs", &body);
            if response.status == 202 {
                let told: Value = serde_json::from_slice(&response.body).unwrap();
                let path = format!("/api/jobs/{}", told["id"].as_str().unwrap());
                assert_eq!(service.request("DELETE", &path).send().status, 204);
            }
            Some((response.status, None))
        }
        kind => {
            let begin = Instant::now();
            let (response, image) = match kind {
                3 => {
                    let response = service.post("/v1/images/generations", &body);
                    let image = image(&response, |answer| answer["data"][0]["b64_json"].clone());
                    (response, image)
                }
                _ => {
                    let response = service.post("/sdapi/v1/txt2img", &body);
                    let image = image(&response, |answer| answer["images"][0].clone());
                    (response, image)
                }
            };
            if let Some((image, text)) = image {
                // Nobody is given what another has asked for.
                assert!(text.contains(&format!("Seed: {seed},")), "{seed}: {text}");
                assert_eq!(image.width, 64);
            }
            Some((response.status, Some(begin.elapsed().as_secs_f64())))
        }
    }
}

fn image(
    response: &Response,
    find: impl Fn(&Value) -> Value,
) -> Option<(asyncdiff_models::image::Image, String)> {
    if response.status != 200 {
        return None;
    }
    let bytes = bytes(&find(&response.json(200)));
    let text = asyncdiff_media::picture::text(&bytes).unwrap();
    Some((picture(&bytes), text))
}

#[test]
fn many_clients_are_answered_and_leave_nothing_behind() {
    let _alone = ALONE.lock();
    let mut settings = settings();
    settings.limits.queue = 16;
    let service = Service::start(settings);
    let load = || {
        let answers = Mutex::new(Vec::new());
        thread::scope(|scope| {
            for client in 0..CLIENTS {
                let (service, answers) = (&service, &answers);
                scope.spawn(move || {
                    for number in 0..REQUESTS {
                        let answer = ask(service, client, number);
                        answers.lock().unwrap().extend(answer);
                    }
                });
            }
        });
        answers.into_inner().unwrap()
    };
    let quiet = || {
        let start = Instant::now();
        loop {
            let text = service.get("/metrics").text();
            if text.contains("requests_running 0") && text.contains("requests_waiting 0") {
                return text;
            }
            assert!(start.elapsed() < Duration::from_secs(30), "{text}");
            thread::sleep(Duration::from_millis(50));
        }
    };
    load();
    quiet();
    let warm = resident();
    let answers = load();
    let metrics = quiet();
    let after = resident();

    let of = |wanted: u16| {
        answers
            .iter()
            .filter(|(status, _)| *status == wanted)
            .count()
    };
    assert!(
        answers
            .iter()
            .all(|(status, _)| [200, 202, 400, 429].contains(status)),
        "{answers:?}"
    );
    assert_eq!(of(400), CLIENTS * REQUESTS / 5);
    assert!(of(200) > 0);
    let mut seconds: Vec<_> = answers
        .iter()
        .filter(|(status, _)| *status == 200)
        .filter_map(|(_, seconds)| *seconds)
        .collect();
    seconds.sort_by(f64::total_cmp);
    println!(
        "{} made, {} refused because the queue was full; from request to picture: median {:.2} s, longest {:.2} s",
        of(200),
        of(429),
        seconds[seconds.len() / 2],
        seconds[seconds.len() - 1]
    );
    for line in metrics
        .lines()
        .filter(|line| line.starts_with("asyncdiff_waiting_seconds_"))
    {
        println!("{line}");
    }
    if let (Some(warm), Some(after)) = (warm, after) {
        println!(
            "resident: {} MiB warm, {} MiB after",
            warm >> 20,
            after >> 20
        );
        // Other tests share this process.
        if std::env::args().any(|argument| argument == "--exact") {
            assert!(
                after as f64 <= warm as f64 * GROWTH,
                "{warm} bytes became {after}"
            );
        }
    }
}
