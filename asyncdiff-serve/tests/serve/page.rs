//! The page's own interface.

use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::client::{PROMPT, Service, base64, bytes, picture, png, settings, slants};

fn submit(service: &Service, body: &Value) -> String {
    let told = service.post("/api/jobs", body).json(202);
    told["id"].as_str().unwrap().to_owned()
}

fn events(service: &Service, id: &str) -> Vec<Value> {
    let request = service.request("GET", &format!("/api/jobs/{id}/events"));
    request.events().collect()
}

fn kinds(events: &[Value]) -> Vec<&str> {
    events
        .iter()
        .map(|event| event["type"].as_str().unwrap())
        .collect()
}

#[test]
fn the_page_asks_nobody_else() {
    let service = Service::shared();
    let page = service.get("/");
    assert_eq!(page.status, 200);
    assert!(
        page.header("content-type")
            .unwrap()
            .starts_with("text/html")
    );
    let policy = page.header("content-security-policy").unwrap();
    assert!(
        policy.starts_with("default-src 'none';") && !policy.contains("http"),
        "{policy}"
    );
    assert_eq!(page.header("x-content-type-options"), Some("nosniff"));
}

#[test]
fn options_are_those_of_the_model_and_the_devices() {
    let options = Service::shared().get("/api/options").json(200);
    assert_eq!(options["model"], "embedded");
    assert_eq!(
        options["models"][1],
        json!({ "name": "second", "kind": "picture" })
    );
    assert_eq!(options["defaults"]["width"], 64);
    assert_eq!(options["defaults"]["frames"], 1);
    assert_eq!(options["defaults"]["scheduler"], "ddim");
    assert_eq!(options["devices"], json!(["cpu:0", "cpu:1"]));
    assert_eq!(options["loras"], json!(["motion"]));
    let values: Vec<_> = options["plans"]
        .as_array()
        .unwrap()
        .iter()
        .map(|plan| plan["value"].as_str().unwrap())
        .collect();
    assert_eq!(&values[..2], ["auto", "one"]);
    for plan in ["guidance-split", "ring", "copies-2", "through-2"] {
        assert!(values.contains(&plan), "{values:?}");
    }
    assert_eq!(options["inputs"]["image_required"], false);
    assert_eq!(options["limits"]["queue"], 64);
    let second = Service::shared().get("/api/options?model=second").json(200);
    assert_eq!(second["model"], "second");
    assert_eq!(
        Service::shared().get("/api/options?model=third").status,
        400
    );
}

#[test]
fn events_tell_how_a_picture_comes() {
    let service = Service::shared();
    let body = json!({ "prompt": PROMPT, "steps": 20, "seed": 4, "plan": "ring", "width": 64, "height": 64, "init_image": null });
    let id = submit(service, &body);
    let all = events(service, &id);
    let kinds = self::kinds(&all);
    let begun = kinds.iter().position(|kind| *kind == "started").unwrap();
    assert!(
        kinds[..begun].iter().all(|kind| *kind == "queued"),
        "{kinds:?}"
    );
    let end = kinds.len() - 1;
    assert!(
        kinds[begun + 1..end].iter().all(|kind| *kind == "step"),
        "{kinds:?}"
    );
    assert!(end > begun + 3, "{kinds:?}");

    let started = &all[begun];
    assert_eq!(started["lanes"], json!(["cpu:0", "cpu:1"]));
    assert_eq!(
        (&started["steps"], &started["seed"]),
        (&json!(20), &json!(4))
    );
    assert_eq!(started["plan"], "ring, warm-up 2");

    let steps: Vec<_> = all[begun + 1..end]
        .iter()
        .map(|event| event["step"].as_u64().unwrap())
        .collect();
    assert!(steps.is_sorted_by(|a, b| a < b), "{steps:?}");
    let previews: Vec<_> = all
        .iter()
        .filter(|event| event["preview"].is_string())
        .collect();
    assert!(previews.len() >= 3, "{} previews", previews.len());
    assert_eq!(picture(&bytes(&previews[0]["preview"])).width, 64);

    let completed = &all[end];
    assert_eq!(completed["type"], "completed");
    let image = &completed["images"][0];
    assert_eq!(
        (&image["mime"], &image["seed"]),
        (&json!("image/png"), &json!(4))
    );
    assert_eq!(picture(&bytes(&image["data"])).width, 64);
    let (seconds, denoising) = (
        completed["seconds"].as_f64().unwrap(),
        completed["denoising"].as_f64().unwrap(),
    );
    assert!(0.0 < denoising && denoising <= seconds);

    // Bars of both devices, in order, none over another, and within the time.
    let spans: Vec<_> = all
        .iter()
        .filter_map(|event| event["spans"].as_array())
        .flatten()
        .collect();
    for lane in [0, 1] {
        let of_lane = spans.iter().filter(|span| span["lane"] == lane);
        let bars: Vec<_> = of_lane
            .map(|span| (span["from"].as_f64().unwrap(), span["to"].as_f64().unwrap()))
            .collect();
        assert!(bars.len() >= 10, "lane {lane} has {} bars", bars.len());
        assert!(bars.iter().all(|(from, to)| from <= to && *to <= seconds));
        assert!(
            bars.windows(2).all(|pair| pair[0].1 <= pair[1].0),
            "lane {lane}: {bars:?}"
        );
    }
    let calls: Vec<_> = spans.iter().filter(|span| span["kind"] == "call").collect();
    let computing: f64 = calls
        .iter()
        .map(|span| span["to"].as_f64().unwrap() - span["from"].as_f64().unwrap())
        .sum();
    // A ring computes some blocks twice, which is no gain.
    let speed_up = completed["speed_up"].as_f64().unwrap();
    let busy = computing / denoising;
    assert!(
        0.5 * busy < speed_up && speed_up < 0.95 * busy,
        "{speed_up} of {busy}"
    );

    // Whoever comes late is told the end, and the file says how it was made.
    let late = events(service, &id);
    assert_eq!(self::kinds(&late).last(), Some(&"completed"));
    let file = bytes(&image["data"]);
    let read = service
        .request("POST", "/api/settings")
        .body(file)
        .send()
        .json(200);
    let settings = &read["settings"];
    assert_eq!(
        (&settings["prompt"], &settings["seed"], &settings["steps"]),
        (&json!(PROMPT), &json!(4), &json!(20))
    );
    assert_eq!(read["infotext"], image["infotext"]);
    let none = service
        .request("POST", "/api/settings")
        .body(png(&slants(8, 8)))
        .send()
        .json(400);
    assert!(none["error"]["message"].is_string());
}

#[test]
fn pictures_start_from_pictures_and_masks() {
    let service = Service::shared();
    let url = |bytes: &[u8]| format!("data:image/png;base64,{}", base64(bytes));
    let mut mask = slants(64, 64);
    mask.rgb.fill(255);
    let body = json!({
        "prompt": PROMPT, "steps": 3, "seed": 1, "init_image": url(&png(&slants(64, 64))), "mask": url(&png(&mask)), "strength": 0.9,
    });
    let all = events(service, &submit(service, &body));
    assert_eq!(kinds(&all).last(), Some(&"completed"));
    let text = all.last().unwrap()["images"][0]["infotext"]
        .as_str()
        .unwrap();
    assert!(text.contains("Denoising strength: 0.9"), "{text}");
    let error = service
        .post(
            "/api/jobs",
            &json!({ "prompt": "x", "mask": url(&png(&mask)) }),
        )
        .json(400);
    assert_eq!(error["error"]["field"], "mask");
}

#[test]
fn videos_come_as_videos() {
    let service = Service::shared();
    let body = json!({ "prompt": "red apple, fluent style, sliding left", "steps": 2, "seed": 1, "frames": 4, "fps": 8 });
    let all = events(service, &submit(service, &body));
    let completed = all.last().unwrap();
    assert_eq!(
        completed["images"].as_array().unwrap().len(),
        1,
        "{completed}"
    );
    assert_eq!(completed["images"][0]["mime"], "video/mp4");
    assert_eq!(&bytes(&completed["images"][0]["data"])[4..8], b"ftyp");
}

#[test]
fn a_picture_that_nobody_wants_is_not_made() {
    let mut settings = settings();
    settings.limits.steps = 1000;
    let service = Service::start(settings);
    let long = json!({ "prompt": PROMPT, "steps": 500, "seed": 1 });
    let quiet = |what: &str| {
        let start = Instant::now();
        while service
            .get("/metrics")
            .text()
            .contains("asyncdiff_requests_running 1")
        {
            assert!(
                start.elapsed() < Duration::from_secs(20),
                "{what}: it goes on"
            );
            thread::sleep(Duration::from_millis(50));
        }
    };
    // Cancelled by the page.
    let id = submit(&service, &long);
    let request = service.request("GET", &format!("/api/jobs/{id}/events"));
    let mut stream = request.events();
    assert!(stream.any(|event| event["type"] == "step"));
    assert_eq!(
        service
            .request("DELETE", &format!("/api/jobs/{id}"))
            .send()
            .status,
        204
    );
    assert_eq!(stream.last().unwrap()["type"], "cancelled");
    quiet("cancelled");
    // The reader goes away.
    let id = submit(&service, &long);
    let request = service.request("GET", &format!("/api/jobs/{id}/events"));
    let mut stream = request.events();
    assert!(stream.any(|event| event["type"] == "step"));
    drop(stream);
    quiet("left");
    // One that comes back in time finds it still at work.
    let id = submit(&service, &long);
    let request = service.request("GET", &format!("/api/jobs/{id}/events"));
    let mut stream = request.events();
    assert!(stream.any(|event| event["type"] == "step"));
    drop(stream);
    thread::sleep(Duration::from_millis(500));
    let mut back = request.events();
    assert_eq!(back.next().unwrap()["type"], "started");
    assert!(back.any(|event| event["type"] == "step"));
    service.request("DELETE", &format!("/api/jobs/{id}")).send();
    assert_eq!(
        service.request("DELETE", "/api/jobs/nothing").send().status,
        404
    );
}
