"""What scripts/peers.py runs in the other programs' folder: writes checkpoints, and times PyTorch, OpenVINO and diffusers.

Arguments are those that peers.py gives. What is timed is as in benches/examples/step.rs, and the report has the same form.
"""

import json
import resource
import sys
import time
from pathlib import Path

START = time.perf_counter()


def report(load, seconds):
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"load": load, "seconds": seconds, "peak": peak}))


def repeated(repeats, once):
    load = time.perf_counter() - START
    result, seconds = once(), []
    for _ in range(repeats):
        start = time.perf_counter()
        result = once()
        seconds.append(time.perf_counter() - start)
    report(load, seconds)
    return result


def versions():
    import diffusers
    import openvino
    import torch

    openvino_version = openvino.get_version().split("-")[0]
    print(f"PyTorch {torch.__version__}, diffusers {diffusers.__version__}, OpenVINO {openvino_version}")


def network(kind, config):
    from diffusers import AutoencoderKL, UNet2DConditionModel

    kinds = {"unet": UNet2DConditionModel, "vae": AutoencoderKL}
    return kinds[kind].from_config(config).eval()


def checkpoint(work, config, folder):
    """A network as PyTorch initialises it, so that no activation explodes, and inputs for it."""
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(1)
    config = json.loads(Path(config).read_text())
    net = network("vae" if work == "vae" else "unet", config)
    # Standard norms and zero biases would hide a mistake.
    for name, parameter in net.named_parameters():
        if parameter.dim() == 1:
            torch.nn.init.normal_(parameter, 1.0 if "norm" in name and name.endswith("weight") else 0.0, 0.1)
    net.save_pretrained(folder, max_shard_size="100GB")
    if work == "vae":
        inputs = {"latents": torch.randn(1, 4, 64, 64)}
    else:
        inputs = {
            "sample": torch.randn(2, 4, 64, 64),
            "context": torch.randn(2, 77, config["cross_attention_dim"]),
            "timestep": torch.tensor([501.0]),
        }
        if config["addition_embed_type"] == "text_time":
            inputs["text_embeds"] = torch.randn(2, 1280)
            inputs["time_ids"] = torch.tensor([[512.0, 512.0, 0.0, 0.0, 512.0, 512.0]] * 2)
    save_file(inputs, Path(folder) / "inputs.safetensors")


def arguments(inputs):
    """The inputs in the order in which the traced network takes them."""
    return [inputs[name] for name in ("sample", "timestep", "context", "text_embeds", "time_ids") if name in inputs]


def traced(net):
    import torch

    class Step(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.net = net

        def forward(self, sample, timestep, context, text_embeds=None, time_ids=None):
            added = None if text_embeds is None else {"text_embeds": text_embeds, "time_ids": time_ids}
            return self.net(sample, timestep, context, added_cond_kwargs=added, return_dict=False)[0]

    return Step()


def convert(_, folder):
    import openvino
    import torch
    from diffusers import UNet2DConditionModel
    from safetensors.torch import load_file

    folder = Path(folder)
    inputs = load_file(folder / "inputs.safetensors")
    with torch.inference_mode():
        net = traced(UNet2DConditionModel.from_pretrained(folder).eval())
        shapes = [tuple(tensor.shape) for tensor in arguments(inputs)]
        model = openvino.convert_model(net, example_input=tuple(arguments(inputs)), input=shapes)
    openvino.save_model(model, folder / "openvino.xml", compress_to_fp16=False)


def pytorch(kind, folder, inputs, output, threads, repeats, dtype):
    import torch
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from safetensors.torch import load_file

    torch.set_num_threads(int(threads))
    of = {"f32": torch.float32, "bf16": torch.bfloat16}[dtype]
    inputs = load_file(inputs)
    with torch.inference_mode():
        if kind == "vae":
            net = AutoencoderKL.from_pretrained(folder, torch_dtype=of).eval()
            result = repeated(int(repeats), lambda: net.decode(inputs["latents"].to(of), return_dict=False)[0])
        else:
            net = traced(UNet2DConditionModel.from_pretrained(folder, torch_dtype=of).eval())
            given = [tensor if name == 1 else tensor.to(of) for name, tensor in enumerate(arguments(inputs))]
            result = repeated(int(repeats), lambda: net(*given))
    result.float().contiguous().numpy().tofile(output)


def openvino(_, folder, inputs, output, threads, repeats, dtype):
    import openvino
    from safetensors.numpy import load_file

    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": int(threads),
        "INFERENCE_PRECISION_HINT": dtype,
    }
    given = arguments(load_file(inputs))
    net = openvino.Core().compile_model(Path(folder) / "openvino.xml", "CPU", settings)
    result = repeated(int(repeats), lambda: net(given)[0])
    result.astype("float32").tofile(output)


def picture(folder, prompt, steps, output, threads, repeats):
    import numpy
    import torch
    from diffusers import StableDiffusionPipeline

    torch.set_num_threads(int(threads))
    pipeline = StableDiffusionPipeline.from_pretrained(
        folder, torch_dtype=torch.float32, safety_checker=None, requires_safety_checker=False
    )
    pipeline.set_progress_bar_config(disable=True)
    guidance = json.loads((Path(folder) / "generation_config.json").read_text())["guidance_scale"]

    def once():
        generator = torch.Generator().manual_seed(0)
        made = pipeline(prompt, num_inference_steps=int(steps), guidance_scale=guidance, generator=generator)
        return made.images[0]

    numpy.asarray(repeated(int(repeats), once)).tofile(output)


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
