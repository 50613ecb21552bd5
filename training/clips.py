"""The drawings that the image model knows, and random clips of them in its latent space."""

from pathlib import Path as File

import numpy as np
import torch
from diffusers import AutoencoderKL

from motions import ALSO_CALLED, MOTIONS, STILL, draw, prompt

KNOWN_NAMES = File(__file__).with_name("known_names.txt")
"""The names that the image model was trained on, one a line."""

HELD_OUT_EVERY = 20
"""Every so many names (in alphabetical order) are kept from training, to test the adapter on."""


def load_drawings(file: str) -> tuple[torch.Tensor, list[str], list[str]]:
    """Drawings `[count, 3, 64, 64]` (-1 to 1), their names and styles: those that the image model knows."""
    known = set(KNOWN_NAMES.read_text().splitlines())
    data = np.load(file)
    pairs = [(str(name), str(style)) for name, style in zip(data["names"], data["styles"])]
    keep = [index for index, (name, style) in enumerate(pairs) if name in known and style in ("fluent", "flat")]
    pictures = torch.from_numpy(data["images"][keep]).permute(0, 3, 1, 2).float() / 127.5 - 1
    return pictures, [pairs[index][0] for index in keep], [pairs[index][1] for index in keep]


def held_out(names: list[str]) -> set[str]:
    """The names that training never sees in motion."""
    return set(sorted(set(names))[HELD_OUT_EVERY // 2 :: HELD_OUT_EVERY])


class Clips:
    """Draws random clips for training."""

    def __init__(self, vae: AutoencoderKL, drawings: str):
        pictures, names, styles = load_drawings(drawings)
        unseen = held_out(names)
        keep = [index for index, name in enumerate(names) if name not in unseen]
        self.vae, self.pictures = vae, pictures[keep]
        self.names, self.styles = [names[index] for index in keep], [styles[index] for index in keep]

    def batch(
        self, chance: np.random.Generator, places: torch.Tensor, count: int
    ) -> tuple[torch.Tensor, list[str], torch.Tensor]:
        """The frames at `places` of some clips, as scaled latents `[count, 4, places, 16, 16]`, the clips' prompts, and the
        motions that these name: `[count]`, numbers in `MOTIONS`, one more for none, -1 for an empty prompt.

        The clips' motions differ as far as there are enough of them (one may be none at all), so that every step has to
        tell motion words apart.
        """
        words = [*MOTIONS, None]
        chosen = np.resize(chance.permutation(len(words)), count)
        latents, prompts = zip(*(self.sample(chance, places, words[number]) for number in chosen))
        named = [int(number) if text else -1 for number, text in zip(chosen, prompts)]
        return torch.stack(latents, 0).transpose(1, 2), list(prompts), torch.tensor(named)

    @torch.no_grad()
    def sample(self, chance: np.random.Generator, places: torch.Tensor, motion: str | None) -> tuple[torch.Tensor, str]:
        """The frames at `places` of a random drawing in motion, as latents `[places, 4, 16, 16]`, and the clip's prompt."""
        index = int(chance.integers(len(self.names)))
        frames = draw(self.pictures[index], (MOTIONS[motion] if motion else STILL).at(places))
        with torch.autocast("cpu", torch.bfloat16):
            latents = self.vae.encode(frames).latent_dist.mean.float() * self.vae.config.scaling_factor
        if motion in ALSO_CALLED and chance.random() < 0.5:
            motion = ALSO_CALLED[motion]
        luck = chance.random()
        if luck < 0.1:  # no prompt: the half that guidance subtracts
            return latents, ""
        return latents, prompt(self.names[index], self.styles[index] if luck < 0.9 else None, motion)
