"""Trains a motion adapter (diffusers `MotionAdapter` layout) for the emoji image model.

The motion modules and a LoRA of the image model's UNet learn; the rest of that model stays as it is. The loss is the image model's
own: the error of the predicted noise, under the image model's own noise schedule. The schedule of the learning rate runs
over minutes, not steps, so that the run ends when it should on a machine that is shared.
"""

import argparse
import math
import time
from pathlib import Path as File

import numpy as np
import torch
import torch.distributed as distributed
import torch.multiprocessing as multiprocessing
import torch.nn.functional as F
from diffusers import AutoencoderKL, DDIMScheduler, MotionAdapter, UNet2DConditionModel, UNetMotionModel
from diffusers.models.unets.unet_motion_model import AnimateDiffTransformer3D
from safetensors.torch import load_file, save_file
from transformers import CLIPTextModel, CLIPTokenizer

from clips import Clips
from motions import FRAMES, MOTIONS

TRANSFORMER_LAYERS = [1, 1, 0, 0]
"""Transformer layers of the motion modules at each level of the UNet. Modules with one layer at every level take 5.6 MB, and the
LoRA another 1 MB; without layers at the last two levels (4x4 and 2x2 places) both keep below 4 MB. There a module
is left with its two projections, and each frame is by itself."""

SIGNAL_FLOOR = 0.05
"""Added to the ratio of signal to noise before the loss is divided by it. Where a thing is gets decided while there is almost
only noise, and there a wrong place costs hardly any error of the predicted noise: unweighted, training learns to
draw and not to move. Divided by the ratio, the error is that of the predicted picture; the floor keeps its size in bounds."""

NOISE_EXPONENT = 0.7
"""Noise levels are drawn evenly and then raised to this power (as shares of 1), so that high ones come more often."""

WORDS_UNTIL = 0.6
"""Share of the time after which the motion words' cross entropy counts nothing; its weight falls evenly until then."""

LORA_FILE = "pytorch_lora_weights.safetensors"
"""The file of the LoRA beside the adapter."""

LORA_RANKS = {
    "attn1.to_q": 8,
    "attn1.to_k": 8,
    "attn1.to_v": 8,
    "attn1.to_out.0": 8,
    "attn2.to_q": 8,
    "attn2.to_k": 16,
    "attn2.to_v": 16,
    "attn2.to_out.0": 8,
    ".conv1": 6,
    ".conv2": 6,
}
"""The image model's layers that learn a little too, by the ends of their paths, and the ranks of their LoRAs. Motion modules
see no text, and the picture model's features hardly tell one motion word from another: that is for the attention to the
prompt. And that model has only ever seen drawings in the middle, so that it cannot draw one elsewhere: that is for the
other layers."""


class PlainAttention:
    """Attention as two matrix products. For the small heads of this model on a CPU, PyTorch's fused attention takes
    twenty times as long in the backward pass."""

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, temb=None):
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        split = lambda x: x.unflatten(-1, (attn.heads, -1)).transpose(1, 2).flatten(0, 1)
        query, key, value = split(attn.to_q(hidden_states)), split(attn.to_k(context)), split(attn.to_v(context))
        weights = torch.bmm(query * query.shape[-1] ** -0.5, key.transpose(1, 2)).softmax(-1)
        merged = torch.bmm(weights, value).unflatten(0, (-1, attn.heads)).transpose(1, 2).flatten(2)
        return attn.to_out[0](merged)


def new_adapter(unet: UNet2DConditionModel) -> MotionAdapter:
    """An adapter that fits the image model's UNet and, as its last projections are zero, changes nothing yet."""
    adapter = MotionAdapter(
        block_out_channels=unet.config.block_out_channels,
        motion_layers_per_block=unet.config.layers_per_block,
        motion_transformer_layers_per_block=TRANSFORMER_LAYERS,
        motion_num_attention_heads=4,
        motion_norm_num_groups=unet.config.norm_num_groups,
        motion_max_seq_length=FRAMES,
        use_motion_mid_block=False,
    )
    for name, value in adapter.named_parameters():
        if "proj_out" in name:
            torch.nn.init.zeros_(value)
    return adapter


class Places:
    """Lets the UNet see some frames of a full clip: its position embeddings become those of these frames' places."""

    def __init__(self, unet: UNetMotionModel):
        self.embeddings = [module.pos_embed for module in unet.modules() if getattr(module, "pos_embed", None) is not None]
        self.full = [embedding.pe.clone() for embedding in self.embeddings]

    def show(self, places: torch.Tensor) -> None:
        for embedding, full in zip(self.embeddings, self.full):
            embedding.pe = full[:, places]


class LowRank(torch.nn.Module):
    """A frozen matrix or convolution plus a trained product of two thin ones (LoRA, with a scale of 1)."""

    def __init__(self, layer: torch.nn.Linear | torch.nn.Conv2d, rank: int):
        super().__init__()
        self.layer = layer
        outputs, *inputs = layer.weight.shape
        self.down = torch.nn.Parameter(torch.randn(rank, *inputs) / math.prod(inputs) ** 0.5)
        self.up = torch.nn.Parameter(torch.zeros(outputs, rank, *[1 for _ in inputs[1:]]))

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        if self.down.ndim == 2:
            return self.layer(hidden_states) + F.linear(F.linear(hidden_states, self.down), self.up)
        thin = F.conv2d(hidden_states, self.down, stride=self.layer.stride, padding=self.layer.padding)
        return self.layer(hidden_states) + F.conv2d(thin, self.up)


def add_low_rank(unet: UNetMotionModel) -> dict[str, LowRank]:
    """Puts trainable products beside the image model's layers that `LORA_RANKS` names; returns them by module path."""
    added = {}
    for path, module in list(unet.named_modules()):
        rank = next((rank for ending, rank in LORA_RANKS.items() if path.endswith(ending)), None)
        if rank and "motion_modules" not in path:
            parent, _, name = path.rpartition(".")
            added[path] = LowRank(module, rank)
            setattr(unet.get_submodule(parent), name, added[path])
    return added


def load_low_rank(low_rank: dict[str, LowRank], folder: str) -> None:
    """Fills the products with those of a saved adapter."""
    stored = load_file(File(folder) / LORA_FILE)
    for path, layer in low_rank.items():
        layer.down.data = stored[f"unet.{path}.lora_A.weight"].float()
        layer.up.data = stored[f"unet.{path}.lora_B.weight"].float()


class WordHeads(torch.nn.Module):
    """Names the motion from what enters each motion module with a temporal transformer, at every place of every frame by itself. Only training has them.

    A motion module can make the motion that a prompt names only if its input tells that motion from the others. The error of
    the predicted noise asks the LoRA for this only once the modules move things; these heads ask for it at once."""

    def __init__(self, unet: UNetMotionModel):
        super().__init__()
        modules = [module for module in unet.modules() if isinstance(module, AnimateDiffTransformer3D)]
        modules = [module for module in modules if len(module.transformer_blocks)]
        self.heads = torch.nn.ModuleList(torch.nn.Linear(module.in_channels, len(MOTIONS) + 1) for module in modules)
        self.groups, self.inputs = modules[0].norm.num_groups, [torch.empty(0)] * len(modules)
        for number, module in enumerate(modules):
            module.register_forward_pre_hook(lambda _, inputs, number=number: self.inputs.__setitem__(number, inputs[0]))

    def forward(self, motions: torch.Tensor, frames: int) -> torch.Tensor:
        """Cross entropy of each module's input in the UNet's last call; `motions` `[batch]` is -1 where nothing was named."""
        motions = motions.repeat_interleave(frames)
        losses = []
        for head, hidden_states in zip(self.heads, self.inputs):
            places = F.group_norm(hidden_states, self.groups).permute(0, 2, 3, 1).flatten(1, 2)
            wanted = motions[:, None].expand(-1, places.shape[1])
            loss = F.cross_entropy(head(places).float().transpose(1, 2), wanted, ignore_index=-1, reduction="sum")
            losses.append(loss / (wanted >= 0).sum().clamp(min=1))
        return torch.stack(losses)


class Average:
    """A moving average of the weights, which is what is saved: it is better than the last weights of a short run."""

    def __init__(self, weights: dict[str, torch.Tensor], decay: float):
        self.weights, self.decay, self.steps = weights, decay, 0
        self.values = {name: value.detach().clone() for name, value in weights.items()}

    @torch.no_grad()
    def update(self) -> None:
        self.steps += 1
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        for name, value in self.weights.items():
            self.values[name].lerp_(value, 1 - decay)

    def save(self, adapter: MotionAdapter, folder: str) -> None:
        """Writes the average in half precision: the adapter, and the LoRA beside it under diffusers' names."""
        motion = {name: value for name, value in self.values.items() if "motion_modules" in name}
        # The position embeddings are not trained: the adapter's own stay.
        shape = {name: value for name, value in adapter.config.items() if not name.startswith("_")}
        finished = MotionAdapter.from_config(shape)
        finished.load_state_dict(adapter.state_dict() | motion)
        finished.half().save_pretrained(folder)
        low_rank = {
            "unet." + name.replace(".down", ".lora_A.weight").replace(".up", ".lora_B.weight"): value.half().contiguous()
            for name, value in self.values.items()
            if name.endswith((".down", ".up"))
        }
        save_file(low_rank, File(folder) / LORA_FILE, metadata={"format": "pt"})


def learning_rate(progress: float) -> float:
    """Share of the full learning rate: up over the first 2 % of the time, then down along a cosine."""
    if progress < 0.02:
        return max(0.02, progress / 0.02)
    return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def average_over_processes(weights: list[torch.Tensor]) -> None:
    """Gives every process the mean of all processes' gradients."""
    gradients = torch.cat([value.grad.flatten() for value in weights])
    distributed.all_reduce(gradients)
    gradients /= distributed.get_world_size()
    for value, gradient in zip(weights, gradients.split([value.numel() for value in weights])):
        value.grad.copy_(gradient.view_as(value))


def train(process: int, arguments: argparse.Namespace) -> None:
    """One of the processes that train together; the first one reports and saves."""
    # Single threads: on a machine that others use too, threads of one process wait for each other at every operation.
    torch.set_num_threads(1)
    store = f"tcp://127.0.0.1:{arguments.port}"
    distributed.init_process_group("gloo", init_method=store, rank=process, world_size=arguments.processes)
    chance = np.random.default_rng(arguments.seed * 1000 + process)
    torch.manual_seed(arguments.seed * 1000 + process)
    load = lambda kind, folder: kind.from_pretrained(arguments.model, subfolder=folder, torch_dtype=torch.float32)
    text_encoder, image_unet = load(CLIPTextModel, "text_encoder"), load(UNet2DConditionModel, "unet")
    tokenizer = CLIPTokenizer.from_pretrained(arguments.model, subfolder="tokenizer")
    clips = Clips(load(AutoencoderKL, "vae"), arguments.drawings)
    scheduler = DDIMScheduler.from_pretrained(arguments.model, subfolder="scheduler")
    kept = scheduler.alphas_cumprod
    signal_to_noise = kept / (1 - kept)
    weight = 1 / (signal_to_noise + SIGNAL_FLOOR)

    if arguments.start_from:
        adapter = MotionAdapter.from_pretrained(arguments.start_from, torch_dtype=torch.float32)
    else:
        adapter = new_adapter(image_unet)
    unet = UNetMotionModel.from_unet2d(image_unet, adapter)
    unet.freeze_unet2d_params()
    unet.set_attn_processor(PlainAttention())
    places_seen = Places(unet)
    low_rank = add_low_rank(unet)
    if arguments.start_from:
        load_low_rank(low_rank, arguments.start_from)
    trained = {name: value for name, value in unet.named_parameters() if value.requires_grad}
    heads = WordHeads(unet)
    together = [*trained.values(), *heads.parameters()]
    for value in together:
        distributed.broadcast(value.data, 0)
    average = Average(trained, decay=0.98)
    matrices = [value for name, value in trained.items() if value.ndim == 2 and "motion_modules" in name]
    thin = [value for name, value in trained.items() if "motion_modules" not in name]
    vectors = [value for name, value in trained.items() if value.ndim != 2 and "motion_modules" in name]
    optimizers = [
        torch.optim.Muon(matrices, lr=arguments.rate, weight_decay=0.0),
        torch.optim.AdamW(thin, lr=arguments.rate_low_rank, betas=(0.9, 0.99), weight_decay=0.0),
        torch.optim.AdamW(vectors, lr=arguments.rate_vectors, betas=(0.9, 0.99), weight_decay=0.0),
        torch.optim.AdamW(heads.parameters(), lr=arguments.rate_low_rank, betas=(0.9, 0.99), weight_decay=0.0),
    ]
    full_rates = [optimizer.param_groups[0]["lr"] for optimizer in optimizers]
    if process == 0:
        print(f"{sum(map(torch.numel, trained.values())):,} weights, {len(clips.names)} drawings", flush=True)

    start, saved, step, losses = time.time(), time.time(), 0, []
    while True:
        # The first process's clock decides for all.
        clock = torch.tensor([(time.time() - start) / (arguments.minutes * 60)])
        distributed.broadcast(clock, 0)
        progress = clock.item()
        if progress >= 1:
            break
        frames, batch = arguments.frames, arguments.batch
        if progress > arguments.whole_clips_after:
            frames, batch = FRAMES, max(1, batch * frames // FRAMES)
        places = torch.from_numpy(np.sort(chance.permutation(FRAMES)[:frames]))
        places_seen.show(places)
        clean, texts, motions = clips.batch(chance, places, batch)
        tokens = tokenizer(texts, padding="max_length", truncation=True, return_tensors="pt").input_ids
        # One noise level a clip, spread evenly over the batch.
        levels = ((torch.randperm(batch) + torch.rand(batch)) / batch) ** NOISE_EXPONENT
        levels = (levels * len(kept)).long().clamp(max=len(kept) - 1)
        share = kept[levels].view(-1, 1, 1, 1, 1)
        noise = torch.randn(clean.shape)
        noisy = share.sqrt() * clean + (1 - share).sqrt() * noise
        with torch.autocast("cpu", torch.bfloat16):
            with torch.no_grad():
                context = text_encoder(tokens).last_hidden_state.repeat_interleave(frames, 0)
            predicted = unet(noisy, levels, context).sample
            words = heads(motions, frames)
        error = (predicted.float() - noise).square().mean((1, 2, 3, 4))
        loss = (error * weight[levels]).mean()
        word_weight = arguments.word_weight * max(0.0, 1 - progress / WORDS_UNTIL)
        (loss + word_weight * words.mean()).backward()
        average_over_processes(together)
        for optimizer, full_rate in zip(optimizers, full_rates):
            optimizer.param_groups[0]["lr"] = full_rate * learning_rate(progress)
            optimizer.step()
            optimizer.zero_grad()
        average.update()
        step += 1
        losses.append([loss.item(), words.mean().item(), words.max().item()])
        if process == 0 and step % 20 == 0:
            noise_loss, mean_words, worst_words = np.mean(losses, 0)
            text = f"loss {noise_loss:.4f}, words {mean_words:.3f} (worst module {worst_words:.3f})"
            print(f"step {step}, {time.time() - start:.0f} s, {text}", flush=True)
            losses.clear()
        if process == 0 and time.time() - saved > arguments.save_every * 60:
            average.save(adapter, arguments.out)
            saved = time.time()
    if process == 0:
        average.save(adapter, arguments.out)
        # Without it, programs take the one that AnimateDiff was published with.
        scheduler.save_pretrained(File(arguments.out) / "scheduler")
        print(f"{step} steps, saved to {arguments.out}", flush=True)
    distributed.destroy_process_group()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True, help="folder of the image model (diffusers layout)")
    parser.add_argument("--drawings", required=True, help="file that prepare_drawings.py wrote")
    parser.add_argument("--out", default="motion_adapter", help="folder for the adapter")
    parser.add_argument("--start-from", help="folder of an adapter to go on from")
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--save-every", type=float, default=4, help="minutes")
    parser.add_argument("--processes", type=int, default=2, help="one for each core")
    parser.add_argument("--batch", type=int, default=11, help="clips of one process in a step")
    parser.add_argument("--frames", type=int, default=3, help="frames seen of each clip, picked anew every step")
    parser.add_argument("--whole-clips-after", type=float, default=0.85, help="share of the time; then fewer clips, all frames")
    parser.add_argument("--rate", type=float, default=0.015, help="learning rate of the matrices (Muon)")
    parser.add_argument("--rate-low-rank", type=float, default=1e-2, help="learning rate of the LoRA (AdamW)")
    parser.add_argument("--word-weight", type=float, default=0.1, help="weight of the motion words' cross entropy, at first")
    parser.add_argument("--rate-vectors", type=float, default=1e-3, help="learning rate of biases and norms (AdamW)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--port", type=int, default=29541, help="where the processes meet, on this machine")
    arguments = parser.parse_args()
    multiprocessing.spawn(train, (arguments,), nprocs=arguments.processes)


if __name__ == "__main__":
    main()
