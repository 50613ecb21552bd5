//! The interface of AUTOMATIC1111's web UI.

use std::thread;
use std::time::{Duration, Instant};

use asyncdiff_models::InitImage;
use serde_json::{Value, json};

use super::client::{PROMPT, Service, base64, bytes, picture, png, settings, slants};
use super::openai::made;

#[test]
fn pictures_are_those_of_the_library_and_say_how_they_were_made() {
    let service = Service::start(settings());
    let body = json!({
        "prompt": PROMPT, "negative_prompt": "flat style", "seed": 11, "steps": 3, "cfg_scale": 2.5, "width": 64, "height": 64,
        "sampler_name": "DPM++ 2M Karras", "batch_size": 1, "n_iter": 2, "alwayson_scripts": {}, "restore_faces": false,
    });
    let answer = service.post("/sdapi/v1/txt2img", &body).json(200);
    let images = answer["images"].as_array().unwrap();
    assert_eq!(images.len(), 2);
    for (index, image) in images.iter().enumerate() {
        assert!(!image.as_str().unwrap().starts_with("data:"));
        let expected = made(|_, request| {
            request.content.seed = 11 + index as u64;
            request.content.negative_prompt = "flat style".to_owned();
            request.shape.guidance_scale = 2.5;
            request.shape.scheduler = Some("dpmpp-2m-karras".to_owned());
        });
        assert_eq!(picture(&bytes(image)), expected[0], "picture {index}");
    }
    assert_eq!(answer["parameters"]["steps"], 3);
    let info: Value = serde_json::from_str(answer["info"].as_str().unwrap()).unwrap();
    assert_eq!(info["all_seeds"], json!([11, 12]));
    assert_eq!(
        (&info["sampler_name"], &info["scheduler"]),
        (&json!("DPM++ 2M"), &json!("Karras"))
    );
    assert_eq!((&info["width"], &info["seed"]), (&json!(64), &json!(11)));
    let text = info["infotexts"][1].as_str().unwrap();
    assert!(
        text.starts_with(&format!(
            "{PROMPT}\nNegative prompt: flat style\nSteps: 3, "
        )),
        "{text}"
    );

    // The file says the same, and the service reads it back.
    let read = service
        .post("/sdapi/v1/png-info", &json!({ "image": images[1] }))
        .json(200);
    assert_eq!(read["info"], text);
    assert_eq!(read["parameters"]["Seed"], "12");
    assert_eq!(read["items"]["parameters"], text);
    let url = format!("data:image/png;base64,{}", images[0].as_str().unwrap());
    let read = service
        .post("/sdapi/v1/png-info", &json!({ "image": url }))
        .json(200);
    assert_eq!(read["parameters"]["CFG scale"], "2.5");
}

#[test]
fn batches_have_a_seed_for_each_picture() {
    let service = Service::shared();
    let make = |batch: usize, seed: i64| {
        let body = json!({ "prompt": PROMPT, "seed": seed, "steps": 2, "batch_size": batch, "plan": "one" });
        let answer = service.post("/sdapi/v1/txt2img", &body).json(200);
        let images = answer["images"].as_array().unwrap().clone();
        let info: Value = serde_json::from_str(answer["info"].as_str().unwrap()).unwrap();
        (
            images
                .iter()
                .map(|image| picture(&bytes(image)))
                .collect::<Vec<_>>(),
            info,
        )
    };
    let (both, info) = make(2, 20);
    assert_eq!(info["all_seeds"], json!([20, 21]));
    for (image, seed) in both.iter().zip([20, 21]) {
        // A batch is summed in another order.
        let (alone, _) = make(1, seed);
        let far = image
            .rgb
            .iter()
            .zip(&alone[0].rgb)
            .map(|(a, b)| a.abs_diff(*b))
            .max();
        assert!(far <= Some(2), "seed {seed}: {far:?}");
    }
    let (_, random) = make(1, -1);
    let (_, other) = make(1, -1);
    assert_ne!(random["seed"], other["seed"]);
}

#[test]
fn pictures_start_from_pictures() {
    let service = Service::start(settings());
    let image = slants(64, 64);
    let body = json!({
        "init_images": [format!("data:image/png;base64,{}", base64(&png(&image)))],
        "prompt": PROMPT, "seed": 3, "steps": 4,
    });
    let answer = service.post("/sdapi/v1/img2img", &body).json(200);
    let expected = made(|_, request| {
        request.start_from(InitImage::new(image.clone()));
        request.shape.start = request.shape.start.with_strength(0.75);
        request.shape.steps = 4;
        request.content.seed = 3;
    });
    assert_eq!(picture(&bytes(&answer["images"][0])), expected[0]);
    assert_eq!(answer["parameters"]["init_images"], Value::Null);

    // Another size than the picture's.
    let mut larger = body.clone();
    larger["width"] = 96.into();
    larger["height"] = 64.into();
    let answer = service.post("/sdapi/v1/img2img", &larger).json(200);
    assert_eq!(picture(&bytes(&answer["images"][0])).width, 96);
}

#[test]
fn what_a_mask_keeps_stays() {
    let service = Service::shared();
    let image = slants(96, 64);
    let mut mask = image.clone();
    for (index, pixel) in mask.rgb.chunks_mut(3).enumerate() {
        let (x, y) = (index % 96, index / 96);
        pixel.fill(if (60..80).contains(&x) && (20..40).contains(&y) {
            255
        } else {
            0
        });
    }
    let body = |more: Value| {
        let mut body = json!({
            "init_images": [base64(&png(&image))], "mask": base64(&png(&mask)), "prompt": PROMPT,
            "steps": 3, "seed": 1, "mask_blur": 0, "width": 64, "height": 64, "denoising_strength": 1,
        });
        body.as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        body
    };
    let make = |more: Value| {
        let answer = service.post("/sdapi/v1/img2img", &body(more)).json(200);
        picture(&bytes(&answer["images"][0]))
    };
    let is_painted = |index: usize| mask.rgb[index] == 255;
    // The part alone, at the whole size, and put back.
    let part = make(json!({ "inpaint_full_res": true }));
    assert_eq!((part.width, part.height), (96, 64));
    let all =
        (0..part.rgb.len()).all(|index| is_painted(index) || part.rgb[index] == image.rgb[index]);
    assert!(all, "something else was painted");
    let changed = (0..part.rgb.len()).filter(|index| part.rgb[*index] != image.rgb[*index]);
    assert!(changed.count() > 600, "nothing was painted");
    // The rest, in the picture's size.
    let rest = make(json!({ "inpaint_full_res": false, "inpainting_mask_invert": 1, "width": 96 }));
    let all =
        (0..rest.rgb.len()).all(|index| !is_painted(index) || rest.rgb[index] == image.rgb[index]);
    assert!(all, "what the mask is to keep was painted");
    assert_ne!(rest, image);
}

#[test]
fn progress_is_told_while_a_picture_is_made() {
    let service = Service::start(settings());
    let idle = service.get("/sdapi/v1/progress").json(200);
    assert_eq!(
        (&idle["progress"], &idle["state"]["job_count"]),
        (&json!(0.0), &json!(0))
    );
    let body = json!({ "prompt": PROMPT, "steps": 60, "seed": 1 });
    let seen = thread::scope(|scope| {
        let made = scope.spawn(|| service.post("/sdapi/v1/txt2img", &body).json(200));
        let mut seen = Vec::new();
        while !made.is_finished() {
            let progress = service
                .get("/sdapi/v1/progress?skip_current_image=false")
                .json(200);
            if progress["state"]["job_count"] == 1 {
                seen.push(progress);
            }
            thread::sleep(Duration::from_millis(20));
        }
        made.join().unwrap();
        seen
    });
    let share = |one: &Value| one["progress"].as_f64().unwrap();
    assert!(
        seen.iter().map(share).is_sorted(),
        "{:?}",
        seen.iter().map(share).collect::<Vec<_>>()
    );
    assert!(seen.iter().all(|one| one["state"]["sampling_steps"] == 60));
    let middle = seen
        .iter()
        .find(|one| (0.1..1.0).contains(&share(one)))
        .expect("it was looked at in its middle");
    assert!(middle["eta_relative"].as_f64().unwrap() > 0.0);
    let image = seen.iter().find_map(|one| one["current_image"].as_str());
    assert_eq!(picture(&bytes(&image.expect("a preview").into())).width, 64);
    assert_eq!(service.get("/sdapi/v1/progress").json(200)["progress"], 0.0);
}

#[test]
fn pictures_at_work_can_be_interrupted_and_skipped() {
    let service = Service::start(settings());
    let end = |path: &str, rounds: usize| {
        let body = json!({ "prompt": PROMPT, "steps": 100, "seed": 1, "n_iter": rounds });
        thread::scope(|scope| {
            let made = scope.spawn(|| service.post("/sdapi/v1/txt2img", &body).json(200));
            let start = Instant::now();
            while service.get("/sdapi/v1/progress").json(200)["state"]["sampling_step"].as_u64()
                < Some(2)
            {
                assert!(
                    start.elapsed() < Duration::from_secs(60),
                    "it does not begin"
                );
                thread::sleep(Duration::from_millis(5));
            }
            service.post(path, &json!({})).json(200);
            made.join().unwrap()
        })
    };
    let interrupted = end("/sdapi/v1/interrupt", 2);
    assert_eq!(interrupted["images"], json!([]));
    let skipped = end("/sdapi/v1/skip", 2);
    assert_eq!(skipped["images"].as_array().unwrap().len(), 1);
    let info: Value = serde_json::from_str(skipped["info"].as_str().unwrap()).unwrap();
    assert_eq!(info["all_seeds"], json!([2]));
}

#[test]
fn there_is_something_to_choose_from() {
    let service = Service::shared();
    let names = |path: &str, key: &str| {
        let list = service.get(path).json(200);
        let list = list.as_array().unwrap().iter();
        list.map(|one| one[key].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(
        names("/sdapi/v1/sd-models", "title"),
        ["embedded", "second"]
    );
    assert_eq!(names("/sdapi/v1/loras", "name"), ["motion"]);
    assert!(names("/sdapi/v1/samplers", "name").contains(&"DPM++ 2M SDE Karras".to_owned()));
    assert_eq!(
        names("/sdapi/v1/schedulers", "label"),
        ["Automatic", "Karras"]
    );
    for path in [
        "upscalers",
        "sd-vae",
        "hypernetworks",
        "prompt-styles",
        "face-restorers",
        "latent-upscale-modes",
    ] {
        assert_eq!(
            service.get(&format!("/sdapi/v1/{path}")).json(200),
            json!([])
        );
    }
    // Every sampler that is listed can be taken.
    for sampler in names("/sdapi/v1/samplers", "name") {
        let body = json!({ "prompt": PROMPT, "steps": 4, "seed": 1, "sampler_name": sampler });
        service.post("/sdapi/v1/txt2img", &body).json(200);
    }
}

#[test]
fn another_model_can_be_loaded() {
    let mut settings = settings();
    settings.models.push(super::client::source("second"));
    let service = Service::start(settings);
    let model = || service.get("/sdapi/v1/options").json(200)["sd_model_checkpoint"].clone();
    let of_picture = |more: Value| {
        let mut body = json!({ "prompt": PROMPT, "steps": 1, "seed": 1 });
        body.as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        let answer = service.post("/sdapi/v1/txt2img", &body).json(200);
        let info: Value = serde_json::from_str(answer["info"].as_str().unwrap()).unwrap();
        info["sd_model_name"].clone()
    };
    assert_eq!(
        (model(), of_picture(json!({}))),
        ("embedded".into(), "embedded".into())
    );
    let other = json!({ "override_settings": { "sd_model_checkpoint": "second" } });
    assert_eq!(
        (of_picture(other), model()),
        ("second".into(), "embedded".into())
    );
    let options = json!({ "sd_model_checkpoint": "second [0123abcd]", "something_else": 1 });
    service.post("/sdapi/v1/options", &options).json(200);
    assert_eq!(
        (model(), of_picture(json!({}))),
        ("second".into(), "second".into())
    );
    let error = service
        .post(
            "/sdapi/v1/options",
            &json!({ "sd_model_checkpoint": "../x" }),
        )
        .json(400);
    assert!(
        error["detail"]
            .as_str()
            .unwrap()
            .contains("it has embedded, second")
    );
}

#[test]
fn a_model_that_is_broken_is_not_taken_and_where_it_is_is_not_told() {
    let mut settings = settings();
    settings.models.push(asyncdiff_serve::ModelSource {
        name: "broken".to_owned(),
        open: std::sync::Arc::new(|| Err("there is nothing in /a/secret/place".into())),
    });
    let service = Service::start(settings);
    let body = json!({ "sd_model_checkpoint": "broken" });
    let taken = service.post("/sdapi/v1/options", &body).json(400);
    let body = json!({ "prompt": PROMPT, "override_settings": body });
    let made = service.post("/sdapi/v1/txt2img", &body).json(500);
    for error in [taken, made] {
        let detail = error["detail"].as_str().unwrap();
        assert!(
            detail.contains("broken") && !error.to_string().contains("secret"),
            "{error}"
        );
    }
    let options = service.get("/sdapi/v1/options").json(200);
    assert_eq!(options["sd_model_checkpoint"], "embedded");
}

#[test]
fn what_is_wrong_is_said_in_the_shape_of_the_interface() {
    let service = Service::shared();
    let image = base64(&png(&slants(64, 64)));
    for (path, body, status, words) in [
        (
            "txt2img",
            json!({ "prompt": "x", "enable_hr": true }),
            400,
            "enable_hr",
        ),
        (
            "txt2img",
            json!({ "prompt": "x", "sampler_name": "Restart" }),
            400,
            "DPM++ 2M",
        ),
        (
            "txt2img",
            json!({ "prompt": "x", "steps": 0 }),
            400,
            "1 or more",
        ),
        (
            "txt2img",
            json!({ "prompt": "x", "steps": 1.5 }),
            422,
            "steps is 1.5: use a whole number",
        ),
        (
            "txt2img",
            json!({ "prompt": "x", "override_settings": "second" }),
            422,
            "override_settings is \"second\": use an object",
        ),
        (
            "txt2img",
            json!({ "prompt": "x", "batch_size": 5, "n_iter": 3 }),
            400,
            "at most 10",
        ),
        ("img2img", json!({ "prompt": "x" }), 400, "init_images"),
        (
            "img2img",
            json!({ "prompt": "x", "init_images": ["http://example.org/a.png"] }),
            400,
            "base64",
        ),
        (
            "img2img",
            json!({ "prompt": "x", "init_images": [image.clone(), image.clone()] }),
            400,
            "one",
        ),
        (
            "img2img",
            json!({ "prompt": "x", "init_images": [image], "denoising_strength": 2 }),
            400,
            "strength",
        ),
        ("png-info", json!({ "image": "/etc/passwd" }), 400, "base64"),
    ] {
        let error = service
            .post(&format!("/sdapi/v1/{path}"), &body)
            .json(status);
        let detail = error["detail"].as_str().unwrap();
        assert!(detail.contains(words), "{body}: {detail}");
    }
    assert_eq!(service.get("/sdapi/v1/txt2img").status, 405);
    let missing = service.get("/sdapi/v1/nothing").json(404);
    assert!(missing["detail"].as_str().unwrap().contains("/docs"));
}
