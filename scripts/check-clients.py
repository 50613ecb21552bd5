"""What the Python packages openai and webuiapi make of a service: python check-clients.py ADDRESS KEY"""

import base64
import io
import sys
import threading
import time
import urllib.parse

import openai
import webuiapi
from PIL import Image

PROMPT = "red apple, fluent style"


def picture(coded):
    image = Image.open(io.BytesIO(base64.b64decode(coded)))
    image.load()
    return image


def file(image, name="picture.png"):
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    buffer.seek(0)
    buffer.name = name
    return buffer


def check(condition, what):
    if not condition:
        sys.exit(f"check-clients: {what}")
    print(f"ok: {what}")


def check_openai(address, key):
    client = openai.OpenAI(base_url=f"{address}/v1", api_key=key, max_retries=0)
    names = [model.id for model in client.models.list()]
    check(names == ["embedded"], "openai lists the models")

    extra = {"num_inference_steps": 3, "seed": 7}
    made = client.images.generate(prompt=PROMPT, model="embedded", n=2, size="64x64", extra_body=extra)
    images = [picture(one.b64_json) for one in made.data]
    check([image.size for image in images] == [(64, 64)] * 2, "openai generates two pictures")
    check(images[0].tobytes() != images[1].tobytes(), "which are not the same")
    extra["seed"] = 8
    again = client.images.generate(prompt=PROMPT, size="64x64", extra_body=extra)
    check(picture(again.data[0].b64_json).tobytes() == images[1].tobytes(), "the second has the next seed")

    stream = client.images.generate(
        prompt=PROMPT, size="64x64", stream=True, partial_images=2, extra_body={"num_inference_steps": 6}
    )
    events = list(stream)
    kinds = [event.type for event in events]
    partial = "image_generation.partial_image"
    check(kinds == [partial, partial, "image_generation.completed"], "openai streams pictures on the way")
    check([event.partial_image_index for event in events[:2]] == [0, 1], "in their order")
    check(picture(events[-1].b64_json).size == (64, 64), "and the last one")

    mask = images[0].convert("RGBA")
    mask.putalpha(Image.linear_gradient("L").resize((64, 64)).point(lambda grey: 255 if grey > 128 else 0))
    extra = {"num_inference_steps": 3, "seed": 7}
    edited = client.images.edit(image=file(images[0]), prompt=PROMPT, extra_body=extra)
    check(picture(edited.data[0].b64_json).size == (64, 64), "openai edits a picture")
    edited = client.images.edit(image=file(images[0]), mask=file(mask, "mask.png"), prompt=PROMPT, extra_body=extra)
    check(picture(edited.data[0].b64_json).size == (64, 64), "openai edits inside a mask")
    stream = client.images.edit(image=file(images[0]), prompt=PROMPT, stream=True, partial_images=1, extra_body=extra)
    kinds = [event.type for event in stream]
    check(kinds == ["image_edit.partial_image", "image_edit.completed"], "openai streams an edit")

    for problem, arguments in [
        (openai.BadRequestError, {"prompt": PROMPT, "size": "63x64"}),
        (openai.BadRequestError, {"prompt": PROMPT, "model": "nothing"}),
    ]:
        try:
            client.images.generate(**arguments)
            check(False, f"{arguments} is refused")
        except problem as error:
            check(error.type == "invalid_request_error", f"openai understands: {error.body['message']}")
    try:
        openai.OpenAI(base_url=f"{address}/v1", api_key="wrong", max_retries=0).models.list()
        check(False, "a wrong key is refused")
    except openai.AuthenticationError:
        check(True, "openai understands that the key is wrong")


def check_webuiapi(address, key):
    where = urllib.parse.urlparse(address)
    api = webuiapi.WebUIApi(host=where.hostname, port=where.port, username="anybody", password=key)
    check("Euler a" in [one["name"] for one in api.get_samplers()], "webuiapi lists samplers")
    check(api.util_get_model_names() == ["embedded"], "webuiapi lists models")
    check(api.util_get_current_model() == "embedded", "webuiapi asks for the model")
    api.util_set_model("embedded")
    check(api.get_progress()["progress"] == 0, "webuiapi asks for the progress of nothing")

    made = api.txt2img(
        prompt=PROMPT, seed=5, steps=3, cfg_scale=3, width=64, height=64, sampler_name="DPM++ 2M Karras", batch_size=2
    )
    check([image.size for image in made.images] == [(64, 64)] * 2, "webuiapi makes two pictures of a text")
    check(made.info["all_seeds"] == [5, 6], "and is told their seeds")
    check(made.info["infotexts"][1].startswith(f"{PROMPT}\nSteps: 3, "), "and how they were made")

    again = api.img2img(
        images=[made.images[0]], prompt=PROMPT, seed=5, steps=4, cfg_scale=3, width=64, height=64, denoising_strength=0.6
    )
    check(again.image.size == (64, 64), "webuiapi makes a picture of a picture")
    mask = Image.new("L", (64, 64))
    mask.paste(255, (32, 0, 64, 64))
    again = api.img2img(
        images=[made.images[0]], mask_image=mask, mask_blur=0, inpainting_fill=1, inpaint_full_res=False,
        prompt=PROMPT, seed=5, steps=4, cfg_scale=3, width=64, height=64,
    )
    left = (0, 0, 32, 64)
    kept = again.image.convert("RGB").crop(left).tobytes() == made.images[0].convert("RGB").crop(left).tobytes()
    check(kept, "what the mask keeps is kept")

    seen = []
    worker = threading.Thread(
        target=lambda: api.txt2img(prompt=PROMPT, seed=1, steps=100, cfg_scale=3, width=64, height=64)
    )
    worker.start()
    while worker.is_alive():
        seen.append(api.get_progress()["progress"])
        time.sleep(0.02)
    worker.join()
    check(any(0 < progress < 1 for progress in seen), "webuiapi sees how far a picture is")


if __name__ == "__main__":
    check_openai(*sys.argv[1:])
    check_webuiapi(*sys.argv[1:])
