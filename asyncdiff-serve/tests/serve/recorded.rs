//! Requests in the shapes that well-known clients send.

use serde_json::{Value, json};

use super::client::{PROMPT, Service, base64, bytes, picture, png, settings, slants};

/// Open WebUI, with OpenAI as its engine: `routers/images.py`.
#[test]
fn open_webui_by_openai() {
    let service = Service::shared();
    let list = service.get("/v1/models").json(200);
    let model = list["data"][0]["id"].clone();
    let body = json!({ "model": model, "prompt": PROMPT, "n": 1, "size": "64x64", "response_format": "b64_json" });
    let request = service
        .request("POST", "/v1/images/generations")
        .json(&body);
    let request = request
        .header("Authorization", "Bearer whatever")
        .header("X-OpenWebUI-User-Name", "me");
    let answer = request.send().json(200);
    for image in answer["data"].as_array().unwrap() {
        // It takes `url` where there is one, and `b64_json` otherwise.
        assert!(image.get("url").is_none());
        assert_eq!(picture(&bytes(&image["b64_json"])).width, 64);
    }
}

/// Open WebUI, with AUTOMATIC1111 as its engine.
#[test]
fn open_webui_by_web_ui() {
    let service = Service::shared();
    let options = service.get("/sdapi/v1/options").json(200);
    assert_eq!(options["sd_model_checkpoint"], "embedded");
    let models = service.get("/sdapi/v1/sd-models").json(200);
    assert!(models[0]["title"].is_string() && models[0]["model_name"].is_string());
    let mut changed = options;
    changed["sd_model_checkpoint"] = models[0]["title"].clone();
    service.post("/sdapi/v1/options", &changed).json(200);
    let body = json!({
        "prompt": PROMPT, "batch_size": 1, "width": 64, "height": 64, "steps": 2, "negative_prompt": "flat style",
        "cfg_scale": 3.0, "sampler_name": "Euler", "scheduler": "Automatic",
    });
    let answer = service.post("/sdapi/v1/txt2img", &body).json(200);
    assert_eq!(picture(&bytes(&answer["images"][0])).width, 64);
    assert!(answer["info"].is_string());
}

/// LibreChat: its tools `DALLE3.js`, `OpenAIImageTools.js` and `StableDiffusion.js`.
#[test]
fn libre_chat() {
    let service = Service::shared();
    let body = json!({ "model": "dall-e-3", "quality": "standard", "style": "vivid", "size": "64x64", "prompt": PROMPT, "n": 1 });
    let answer = service.post("/v1/images/generations", &body).json(200);
    assert!(answer["data"][0]["b64_json"].is_string());
    let body = json!({
        "model": "embedded", "prompt": PROMPT, "n": 1, "background": "auto", "output_format": "png", "output_compression": 100,
        "quality": "auto", "size": "auto",
    });
    let answer = service.post("/v1/images/generations", &body).json(200);
    assert_eq!(
        answer["data"][0]["b64_json"]
            .as_str()
            .map(|coded| picture(&bytes(&coded.into())).width),
        Some(64)
    );
    let body = json!({
        "prompt": PROMPT, "negative_prompt": "flat style", "cfg_scale": 4.5, "steps": 4, "width": 64, "height": 64,
        "sampler_index": "DPM++ 2M Karras",
    });
    let answer = service.post("/sdapi/v1/txt2img", &body).json(200);
    let info: Value = serde_json::from_str(answer["info"].as_str().unwrap()).unwrap();
    assert_eq!(
        (&info["sampler_name"], &info["scheduler"]),
        (&json!("DPM++ 2M"), &json!("Karras"))
    );
    assert!(info["seed"].is_u64());
}

/// SillyTavern: `src/endpoints/stable-diffusion.js`.
#[test]
fn silly_tavern() {
    // Not the shared one: what is at work there is not to be interrupted.
    let service = Service::start(settings());
    for path in [
        "/sdapi/v1/options",
        "/sdapi/v1/samplers",
        "/sdapi/v1/schedulers",
        "/sdapi/v1/sd-models",
        "/sdapi/v1/upscalers",
        "/sdapi/v1/latent-upscale-modes",
        "/sdapi/v1/sd-vae",
    ] {
        // With a user and a password, even where none is needed.
        let request = service
            .request("GET", path)
            .header("Authorization", "Basic OnBhc3M=");
        request.send().json(200);
    }
    let body = json!({
        "prompt": PROMPT, "negative_prompt": "", "sampler_name": "DPM++ 2M", "scheduler": "karras", "steps": 3, "cfg_scale": 7,
        "width": 64, "height": 64, "restore_faces": false, "enable_hr": false, "hr_upscaler": "Latent", "hr_scale": 1.5,
        "hr_additional_steps": 0, "denoising_strength": 0.7, "hr_second_pass_steps": 0, "seed": 12345,
        "override_settings": { "CLIP_stop_at_last_layers": 1, "forge_inference_memory": null },
        "override_settings_restore_afterwards": true, "clip_skip": 1, "save_images": true, "send_images": true,
        "do_not_save_grid": false, "do_not_save_samples": false, "user": "me", "auth": "", "url": "http://localhost:7860",
    });
    let answer = service.post("/sdapi/v1/txt2img", &body).json(200);
    assert_eq!(picture(&bytes(&answer["images"][0])).width, 64);
    let progress = service.get("/sdapi/v1/progress").json(200);
    assert!(progress["progress"].is_number());
    let body = json!({ "sd_model_checkpoint": "embedded" });
    service.post("/sdapi/v1/options", &body).json(200);
    service.post("/sdapi/v1/interrupt", &json!({})).json(200);
}

/// The Photoshop plug-in of Abdullah Alfaraj, and Krita's.
#[test]
fn plug_ins_of_painting_programs() {
    let service = Service::shared();
    let image = slants(64, 64);
    let mut mask = image.clone();
    mask.rgb.fill(255);
    let body = json!({
        "init_images": [format!("data:image/png;base64,{}", base64(&png(&image)))],
        "mask": format!("data:image/png;base64,{}", base64(&png(&mask))),
        "prompt": PROMPT, "negative_prompt": "", "steps": 2, "width": 64, "height": 64, "cfg_scale": "7", "seed": "-1",
        "denoising_strength": 0.5, "batch_size": 1, "sampler_index": "Euler a", "mask_blur": 1, "use_sharp_mask": false,
        "inpainting_fill": 1, "inpaint_full_res": true, "inpaint_full_res_padding": 0, "inpainting_mask_invert": 0,
        "include_init_images": true, "alwayson_scripts": { "ControlNet": { "args": [] } },
    });
    let answer = service.post("/sdapi/v1/img2img", &body);
    // A scale in quotation marks is theirs, and one that the web UI reads.
    let answer = answer.json(200);
    assert_eq!(picture(&bytes(&answer["images"][0])).width, 64);
}
