//! OpenAI's interface for pictures.

use asyncdiff_models::device::workers;
use asyncdiff_models::image::{Image, Mask};
use asyncdiff_models::{InitImage, Request, Session, StableDiffusion, Strategy};
use serde_json::json;
use std::sync::Arc;

use super::client::{
    PROMPT, Part, Service, bytes, picture, pipeline, png, settings, slants, transparent_right,
};

/// What the library itself makes of a request, on as many threads as the service has.
pub fn made(change: impl FnOnce(&StableDiffusion, &mut Request)) -> Vec<Image> {
    let pipeline = Arc::new(pipeline().unwrap());
    let mut request = pipeline.request(PROMPT);
    request.shape.frames = 1;
    request.shape.steps = 3;
    request.content.prompt_weighting = true;
    change(&pipeline, &mut request);
    let run = pipeline
        .plan(&request.shape, &Strategy::sequential())
        .unwrap();
    let mut session = Session::new(&pipeline, workers("cpu", Some(1)).unwrap()).unwrap();
    session
        .generate(&run, &request.content, &mut ())
        .unwrap()
        .images
}

fn one_thread() -> Service {
    Service::start(settings())
}

#[test]
fn pictures_are_those_of_the_library() {
    let service = one_thread();
    let body = json!({
        "prompt": PROMPT, "n": 2, "seed": 7, "num_inference_steps": 3, "negative_prompt": "flat style",
        "guidance_scale": 2.5, "scheduler": "dpmpp-2m", "size": "64x48",
        // Of clients that know more than we do.
        "quality": "hd", "style": "vivid", "background": "auto", "moderation": "low", "user": "me",
    });
    let answer = service.post("/v1/images/generations", &body).json(200);
    assert!(answer["created"].as_u64().unwrap() > 1_700_000_000);
    assert_eq!(answer["size"], "64x48");
    let data = answer["data"].as_array().unwrap();
    assert_eq!(data.len(), 2);
    for (index, one) in data.iter().enumerate() {
        let expected = made(|_, request| {
            request.content.seed = 7 + index as u64;
            request.content.negative_prompt = "flat style".to_owned();
            request.shape.guidance_scale = 2.5;
            request.shape.scheduler = Some("dpmpp-2m".to_owned());
            request.shape.height = 48;
        });
        assert_eq!(
            picture(&bytes(&one["b64_json"])),
            expected[0],
            "picture {index}"
        );
    }
}

#[test]
fn edits_start_from_the_picture_and_repaint_what_is_transparent() {
    let service = one_thread();
    let image = slants(64, 64);
    let fields: [Part<'_>; 4] = [
        ("prompt", None, PROMPT.as_bytes()),
        ("seed", None, b"3"),
        ("num_inference_steps", None, b"4"),
        ("strength", None, b"0.5"),
    ];
    let file = png(&image);
    let mut parts = fields.to_vec();
    parts.push(("image", Some("a.png"), &file));
    let edit = |parts: &[Part<'_>]| {
        let answer = service
            .request("POST", "/v1/images/edits")
            .form(parts)
            .send()
            .json(200);
        picture(&bytes(&answer["data"][0]["b64_json"]))
    };
    let expected = |mask: Option<Mask>| {
        let made = made(|_, request| {
            request.start_from(match mask {
                Some(mask) => InitImage::inpaint(image.clone(), mask),
                None => InitImage::new(image.clone()),
            });
            request.shape.start = request.shape.start.with_strength(0.5);
            request.shape.steps = 4;
            request.content.seed = 3;
        });
        made.into_iter().next().unwrap()
    };
    assert_eq!(edit(&parts), expected(None));

    let right = Mask {
        width: 64,
        height: 64,
        grey: (0..64 * 64)
            .map(|index| if index % 64 >= 32 { 255 } else { 0 })
            .collect(),
    };
    let masked = expected(Some(right));
    let mask = transparent_right(&image);
    parts.push(("mask", Some("mask.png"), &mask));
    assert_eq!(edit(&parts), masked);
    // Without a mask, the picture's own transparency is one.
    let mut parts = fields.to_vec();
    parts.push(("image[]", Some("a.png"), &mask));
    assert_eq!(edit(&parts), masked);
}

#[test]
fn streams_show_pictures_on_the_way() {
    let service = Service::shared();
    let body = json!({
        "prompt": PROMPT, "seed": 1, "num_inference_steps": 6, "stream": true, "partial_images": 3,
    });
    let request = service
        .request("POST", "/v1/images/generations")
        .json(&body);
    let events: Vec<_> = request.events().collect();
    let types: Vec<_> = events
        .iter()
        .map(|event| event["type"].as_str().unwrap())
        .collect();
    let partial = "image_generation.partial_image";
    assert_eq!(
        types,
        [partial, partial, partial, "image_generation.completed"]
    );
    for (index, event) in events[..3].iter().enumerate() {
        assert_eq!(event["partial_image_index"], index);
        assert_eq!(event["size"], "64x64");
    }
    let shown: Vec<_> = events
        .iter()
        .map(|event| picture(&bytes(&event["b64_json"])))
        .collect();
    // They come closer.
    let distance = |image: &Image| -> u64 {
        let pairs = image.rgb.iter().zip(&shown[3].rgb);
        pairs.map(|(a, b)| u64::from(a.abs_diff(*b))).sum()
    };
    let distances: Vec<_> = shown[..3].iter().map(distance).collect();
    assert!(distances.is_sorted_by(|a, b| a > b), "{distances:?}");
    // The same as without a stream.
    let mut body = body;
    body["stream"] = false.into();
    let answer = service.post("/v1/images/generations", &body).json(200);
    assert_eq!(picture(&bytes(&answer["data"][0]["b64_json"])), shown[3]);
}

#[test]
fn other_formats_and_addresses() {
    let service = Service::shared();
    for (format, start) in [
        ("png", &b"\x89PNG"[..]),
        ("jpeg", b"\xff\xd8\xff"),
        ("webp", b"RIFF"),
    ] {
        let body = json!({
            "prompt": PROMPT, "num_inference_steps": 2, "response_format": "url", "output_format": format,
            "output_compression": 60, "model": "dall-e-3",
        });
        let answer = service.post("/v1/images/generations", &body).json(200);
        let url = answer["data"][0]["url"].as_str().unwrap();
        let path = url
            .strip_prefix(&format!("http://{}", service.address))
            .unwrap();
        let file = service.get(path);
        assert_eq!(file.status, 200);
        assert_eq!(
            file.header("content-type"),
            Some(&*format!("image/{format}"))
        );
        assert!(file.body.starts_with(start), "{format}");
        assert_eq!(picture(&file.body).width, 64);
    }
    assert_eq!(
        service
            .get("/files/00000000000000000000000000000000")
            .status,
        404
    );
}

#[test]
fn models_are_listed() {
    let service = Service::shared();
    let list = service.get("/v1/models").json(200);
    let names: Vec<_> = list["data"]
        .as_array()
        .unwrap()
        .iter()
        .map(|model| &model["id"])
        .collect();
    assert_eq!(names, ["embedded", "second"]);
    assert_eq!(service.get("/v1/models/second").json(200)["id"], "second");
    assert_eq!(
        service.get("/v1/models/third").json(404)["error"]["code"],
        "model_not_found"
    );
}

#[test]
fn what_is_wrong_is_said_in_the_shape_of_the_interface() {
    let service = Service::shared();
    for (body, field, words) in [
        (json!({}), "prompt", "say what to draw"),
        (json!({ "prompt": "x", "n": 0 }), "n", "1 to 10"),
        (json!({ "prompt": "x", "n": 11 }), "n", "1 to 10"),
        (json!({ "prompt": "x", "size": "big" }), "size", "512x512"),
        (
            json!({ "prompt": "x", "model": "/etc/passwd" }),
            "model",
            "it has embedded, second",
        ),
        (
            json!({ "prompt": "x", "response_format": "xml" }),
            "response_format",
            "b64_json",
        ),
        (
            json!({ "prompt": "x", "output_format": "bmp" }),
            "output_format",
            "png, jpeg and webp",
        ),
        (
            json!({ "prompt": "x", "partial_images": 4 }),
            "partial_images",
            "0 to 3",
        ),
        (json!({ "prompt": "x", "seed": -2 }), "seed", "0 or more"),
        (
            json!({ "prompt": "x", "num_inference_steps": 0 }),
            "num_inference_steps",
            "at least 1",
        ),
        (
            json!({ "prompt": "x", "num_inference_steps": 1000 }),
            "num_inference_steps",
            "at most 150",
        ),
        (
            json!({ "prompt": "x", "n": "many" }),
            "n",
            "n is \"many\": use a whole number",
        ),
        (json!({ "prompt": 7 }), "prompt", "prompt is 7: use a text"),
        (
            json!({ "prompt": "x", "size": "63x64" }),
            "size",
            "multiple of",
        ),
        (
            json!({ "prompt": "x", "scheduler": "magic" }),
            "scheduler",
            "magic",
        ),
        (
            json!({ "prompt": "x", "plan": "warp" }),
            "plan",
            "guidance-split",
        ),
        (
            json!({ "prompt": "x <lora:/etc/passwd:1>" }),
            "prompt",
            "it has motion",
        ),
    ] {
        let error = service.post("/v1/images/generations", &body).json(400);
        let error = &error["error"];
        assert_eq!(error["param"], field, "{body}");
        assert_eq!(error["type"], "invalid_request_error");
        let message = error["message"].as_str().unwrap();
        assert!(message.contains(words), "{body}: {message}");
    }
    let image = slants(64, 64);
    let opaque = png(&image);
    let parts: &[&[Part<'_>]] = &[
        &[("prompt", None, b"x")],
        &[
            ("prompt", None, b"x"),
            ("image", Some("a.png"), b"no picture"),
        ],
        &[
            ("prompt", None, b"x"),
            ("image", Some("a"), &opaque),
            ("image", Some("b"), &opaque),
        ],
        &[
            ("prompt", None, b"x"),
            ("image", Some("a"), &opaque),
            ("mask", Some("b"), &opaque),
        ],
    ];
    for parts in parts {
        let response = service
            .request("POST", "/v1/images/edits")
            .form(parts)
            .send();
        let error = response.json(400);
        assert!(error["error"]["param"].is_string(), "{error}");
    }
    let response = service.post("/v1/images/edits", &json!({ "prompt": "x" }));
    assert_eq!(response.status, 415);
}

#[test]
fn plans_and_loras_change_what_is_made() {
    let service = Service::shared();
    let make = |prompt: &str, plan: &str| {
        let body = json!({ "prompt": prompt, "seed": 5, "num_inference_steps": 12, "plan": plan });
        let answer = service.post("/v1/images/generations", &body).json(200);
        picture(&bytes(&answer["data"][0]["b64_json"]))
    };
    let plain = make(PROMPT, "one");
    // Of an exact plan, rounding is all that may differ.
    let split = make(PROMPT, "guidance-split");
    let far = plain
        .rgb
        .iter()
        .zip(&split.rgb)
        .map(|(a, b)| a.abs_diff(*b))
        .max();
    assert!(far <= Some(2), "{far:?}");
    assert_ne!(make(PROMPT, "ring"), plain);
    let with = make(&format!("{PROMPT} <lora:motion:1>"), "one");
    assert_ne!(with, plain);
    assert_eq!(make(&format!("{PROMPT} <lora:motion:0>"), "one"), plain);
    // What was loaded for one prompt is not in the next.
    assert_eq!(make(PROMPT, "one"), plain);
    assert_eq!(make(&format!("{PROMPT} <lora:motion>"), "one"), with);
}
