"""Samples clips with a motion adapter, measures whether they move as their prompts say, and draws a contact sheet.

Three numbers a motion, over prompts whose names the adapter never saw in training:

* follows: correlation over the frames between what was asked and what the pictures show. Slides and bounces: the middle of
  the ink; growing and shrinking: how far the ink spreads; fading: how much ink there is; spinning: share of the frames
  that fit the true drawing turned by the asked angle better than turned by any other multiple of 45 degrees.
* range: how far it goes, as a share of what was asked (1 is all of it).
* is it: share of frames that are closer to the true drawing on the asked path than to 99 other drawings on the same path.
"""

import argparse
import json
import math
import time

import numpy as np
import torch
from diffusers import AnimateDiffPipeline, AutoencoderKL, DDIMScheduler, MotionAdapter, UNet2DConditionModel
from PIL import Image, ImageDraw
from transformers import CLIPTextModel, CLIPTokenizer

from clips import held_out, load_drawings
from motions import FRAMES, MOTIONS, STILL, Path, draw, prompt
from train_motion_adapter import PlainAttention, add_low_rank, load_low_rank

MOVES = 0.8
"""A clip follows its prompt when its correlation is above this."""


def load_pipeline(model: str, adapter: str) -> AnimateDiffPipeline:
    """The image model with the adapter and its LoRA, as diffusers runs it (`load_lora_weights` does the same, with peft)."""
    load = lambda kind, folder: kind.from_pretrained(model, subfolder=folder, torch_dtype=torch.float32)
    pipeline = AnimateDiffPipeline(
        vae=load(AutoencoderKL, "vae"),
        text_encoder=load(CLIPTextModel, "text_encoder"),
        tokenizer=CLIPTokenizer.from_pretrained(model, subfolder="tokenizer"),
        unet=load(UNet2DConditionModel, "unet"),
        motion_adapter=MotionAdapter.from_pretrained(adapter, torch_dtype=torch.float32),
        scheduler=DDIMScheduler.from_pretrained(model, subfolder="scheduler"),
    )
    load_low_rank(add_low_rank(pipeline.unet), adapter)
    pipeline.unet.set_attn_processor(PlainAttention())
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@torch.no_grad()
def sample(pipeline: AnimateDiffPipeline, text: str, steps: int, guidance: float, seed: int) -> torch.Tensor:
    """The frames `[FRAMES, 3, 64, 64]` (-1 to 1) of one prompt."""
    generator = torch.Generator().manual_seed(seed)
    result = pipeline(
        text, num_frames=FRAMES, height=64, width=64, num_inference_steps=steps, guidance_scale=guidance, generator=generator, output_type="np"
    )
    return torch.from_numpy(np.asarray(result.frames[0])).permute(0, 3, 1, 2) * 2 - 1


def ink(frames: torch.Tensor) -> dict[str, torch.Tensor]:
    """What the pictures show, a value a frame: amount of ink, its middle (pixels from the picture's) and its spread."""
    dark = (1 - frames).clamp(min=0).mean(1)
    dark = torch.where(dark < 0.04, torch.zeros(()), dark)  # not the faint noise of white
    amount = dark.sum((1, 2)).clamp(min=1e-3)
    place = torch.arange(frames.shape[-1]) - (frames.shape[-1] - 1) / 2
    right = (dark.sum(1) * place).sum(1) / amount
    down = (dark.sum(2) * place).sum(1) / amount
    apart = (place[None, None, :] - right[:, None, None]) ** 2 + (place[None, :, None] - down[:, None, None]) ** 2
    return {"amount": amount, "right": right, "down": down, "spread": ((dark * apart).sum((1, 2)) / amount).sqrt()}


def turned_right(frames: torch.Tensor, drawing: torch.Tensor, path: Path) -> float:
    """Share of the frames for which the asked angle fits better than the seven others."""
    errors = []
    for eighth in range(8):
        other = Path(**{**vars(path), "turn": path.turn + eighth * math.pi / 4})
        errors.append((draw(drawing, other) - frames).square().mean((1, 2, 3)))
    return (torch.stack(errors).argmin(0) == 0).float().mean().item()


def follows(frames: torch.Tensor, drawing: torch.Tensor, motion: str) -> tuple[float, float]:
    """Correlation with the asked motion, and its range as a share of the asked one."""
    if motion == "spinning":
        return turned_right(frames, drawing, MOTIONS[motion]), float("nan")
    kind = {"sliding left": "right", "sliding right": "right", "growing": "spread", "shrinking": "spread"}
    kind |= {"fading in": "amount", "fading out": "amount"}
    shown, asked = (ink(clip)[kind.get(motion, "down")].numpy() for clip in (frames, draw(drawing, MOTIONS[motion])))
    if shown.std() < 1e-6:
        return 0.0, 0.0
    return float(np.corrcoef(shown, asked)[0, 1]), float(np.ptp(shown) / np.ptp(asked))


def is_it(frames: torch.Tensor, pictures: torch.Tensor, index: int, path: Path, chance: np.random.Generator) -> torch.Tensor:
    """For each frame, whether it is closest to its own drawing among 100."""
    others = [int(other) for other in chance.permutation(len(pictures)) if other != index][:99]
    errors = torch.stack([(draw(pictures[other], path) - frames).square().mean((1, 2, 3)) for other in [index, *others]])
    return errors.argmin(0) == 0


def contact_sheet(rows: list[tuple[str, torch.Tensor]]) -> Image.Image:
    """One row a clip, its prompt above it."""
    sheet = Image.new("RGB", (64 * FRAMES, 78 * len(rows)), "white")
    pen = ImageDraw.Draw(sheet)
    for number, (text, frames) in enumerate(rows):
        pen.text((2, 78 * number + 1), text, fill="black")
        strip = ((torch.cat(list(frames), -1).clamp(-1, 1) + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()
        sheet.paste(Image.fromarray(strip), (0, 78 * number + 14))
    return sheet


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="folder of the image model")
    parser.add_argument("--adapter", required=True, help="folder of the adapter")
    parser.add_argument("--drawings", required=True, help="file that prepare_drawings.py wrote")
    parser.add_argument("--prompts", type=int, default=4, help="prompts of each motion")
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--guidance", type=float, default=3.0)
    parser.add_argument("--seen", action="store_true", help="names that the adapter was trained with, instead of held-out ones")
    parser.add_argument("--sheet", default="motion_sheet.png")
    parser.add_argument("--out", help="file for the numbers (JSON)")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()

    torch.set_num_threads(arguments.threads)
    pipeline = load_pipeline(arguments.model, arguments.adapter)
    pictures, names, styles = load_drawings(arguments.drawings)
    unseen = held_out(names)
    candidates = [index for index, name in enumerate(names) if (name in unseen) != arguments.seen]
    chance = np.random.default_rng(1)
    rows, table, start = [], {}, time.time()
    for motion, path in [*MOTIONS.items(), (None, STILL)]:
        scores = []
        for index in chance.permutation(candidates)[: arguments.prompts]:
            text = prompt(names[index], styles[index], motion)
            frames = sample(pipeline, text, arguments.steps, arguments.guidance, seed=len(rows))
            rows.append((text, frames))
            moved = follows(frames, pictures[index], motion) if motion else (float("nan"), float("nan"))
            right = is_it(frames, pictures, index, path, chance).float()
            scores.append([*moved, right.mean().item(), right[0].item()])
        scores = np.array(scores)
        means = scores.mean(0)
        table[motion or "(no motion)"] = {
            "prompts": len(scores),
            "follows": float(means[0]),
            "follows_share_above_0.8": float((scores[:, 0] > MOVES).mean()),
            "range": float(means[1]),
            "is_it": float(means[2]),
            "is_it_first_frame": float(means[3]),
        }
        print(f"{motion or '(no motion)':14s} follows {means[0]:.2f} range {means[1]:.2f} is it {means[2]:.2f} first frame {means[3]:.2f}", flush=True)
        contact_sheet(rows).save(arguments.sheet)
    print(f"{len(rows)} clips in {time.time() - start:.0f} s", flush=True)
    if arguments.out:
        with open(arguments.out, "w") as file:
            json.dump(table, file, indent=1)


if __name__ == "__main__":
    main()
