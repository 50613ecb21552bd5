"""The motions that the adapter learns: their words, their paths, and clips drawn along those paths.

A clip is made from one still drawing on white. Every frame is an affine transform of the drawing (shift, scale,
rotation) blended towards white; what the transform uncovers is white too, which is what the image model was
trained on, so no transparency has to be known.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F

FRAMES = 16
"""Frames of a full clip, and the longest clip that the adapter can make (its `motion_max_seq_length`)."""

SLIDE_PIXELS = 16.0
"""A sliding drawing starts and ends this far from the middle of the 64-pixel picture."""

SCALE_MOVING = 0.8
"""Size of a drawing that slides, spins or bounces: with less white around it, its edge would leave the picture."""

SCALE_SMALL = 0.35
"""Size at which growing starts and shrinking ends; the other end is the drawing as it is, 1.0."""

BOUNCE_GROUND, BOUNCE_TOP = 8.0, -14.0
"""Vertical shift of a bouncing drawing when it touches the ground and at the top of a bounce (pixels, down is positive)."""

FADED = 0.06
"""How much of a drawing is left at the faint end of fading."""


@dataclass
class Path:
    """What happens to the drawing over `FRAMES` frames: one value a frame, each tensor of shape `[FRAMES]`."""

    right: torch.Tensor
    """Shift to the right, in pixels of a 64-pixel picture."""
    down: torch.Tensor
    """Shift downwards, in the same pixels."""
    scale: torch.Tensor
    """Size, 1 for the drawing as it is."""
    turn: torch.Tensor
    """Clockwise rotation, in radians."""
    strength: torch.Tensor
    """1 for the full colours, 0 for white."""

    def at(self, places: torch.Tensor) -> "Path":
        """Only the frames at these places."""
        return Path(*(value[places] for value in vars(self).values()))

    def backwards(self) -> "Path":
        """The same path from its end to its start."""
        return Path(*(value.flip(0) for value in vars(self).values()))


def _path(right=None, down=None, scale=1.0, turn=None, strength=None) -> Path:
    still = torch.zeros(FRAMES)
    pick = lambda value, default: default if value is None else value
    scale = scale if torch.is_tensor(scale) else torch.full((FRAMES,), scale)
    return Path(pick(right, still), pick(down, still), scale, pick(turn, still), pick(strength, torch.ones(FRAMES)))


def _paths() -> dict[str, Path]:
    # Slides, growing and fading end somewhere else than they start; spinning and bouncing are loops, so their last frame
    # is one step short of the first.
    along = torch.linspace(0, 1, FRAMES)
    around = torch.arange(FRAMES) / FRAMES
    rightwards = _path(right=SLIDE_PIXELS * (2 * along - 1), scale=SCALE_MOVING)
    downwards = _path(down=SLIDE_PIXELS * (2 * along - 1), scale=SCALE_MOVING)
    growing = _path(scale=SCALE_SMALL + (1 - SCALE_SMALL) * along)
    fading = _path(strength=1 + (FADED - 1) * along)
    height = (2 * math.pi * around).sin().abs()  # two bounces a clip, starting on the ground
    return {
        "sliding left": rightwards.backwards(),
        "sliding right": rightwards,
        "sliding up": downwards.backwards(),
        "sliding down": downwards,
        "growing": growing,
        "shrinking": growing.backwards(),
        "spinning": _path(turn=2 * math.pi * around, scale=SCALE_MOVING),
        "bouncing": _path(down=BOUNCE_GROUND + (BOUNCE_TOP - BOUNCE_GROUND) * height, scale=SCALE_MOVING),
        "fading out": fading,
        "fading in": fading.backwards(),
    }


MOTIONS: dict[str, Path] = _paths()
"""The path of every motion, by the words that name it in a prompt."""

STILL = _path()
"""What a prompt without a motion means: the drawing as it is, in every frame."""

ALSO_CALLED = {"fading out": "fading"}
"""A second way to name a motion."""


def prompt(name: str, style: str | None, motion: str | None) -> str:
    """The caption of a clip, for example `red apple, fluent style, sliding left`."""
    parts = [name, f"{style} style" if style else None, motion]
    return ", ".join(part for part in parts if part)


def draw(drawing: torch.Tensor, path: Path) -> torch.Tensor:
    """The frames `[frames, 3, height, width]` of one drawing `[3, height, width]` (-1 to 1, on white) along a path."""
    frames, height = len(path.scale), drawing.shape[-1]
    cosine, sine = path.turn.cos() / path.scale, path.turn.sin() / path.scale
    # `affine_grid` maps places of the frame to places of the drawing, so this is the inverse of the motion.
    right, down = path.right * 2 / height, path.down * 2 / height
    matrix = torch.stack(
        [
            torch.stack([cosine, sine, -(cosine * right + sine * down)], -1),
            torch.stack([-sine, cosine, -(cosine * down - sine * right)], -1),
        ],
        1,
    )
    # Shrinking by sampling alone would leave jagged edges: sample at twice the size and average.
    fine = height * 2
    grid = F.affine_grid(matrix, (frames, 3, fine, fine), align_corners=False)
    # Padding is zero, so draw the difference from white.
    ink = F.grid_sample((1 - drawing).expand(frames, -1, -1, -1), grid, mode="bilinear", align_corners=False)
    ink = F.avg_pool2d(ink, 2) * path.strength.view(-1, 1, 1, 1)
    return 1 - ink
