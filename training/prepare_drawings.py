"""Renders the Fluent Emoji drawings to 64x64 pictures on white, the file that the other scripts read.

The drawings are Microsoft's (MIT licence), from the npm packages of the Iconify project: `npm install
@iconify-json/fluent-emoji @iconify-json/fluent-emoji-flat`. Skin-tone variants and other names that the image model does
not know are left out.
"""

import argparse
import io
import json
from pathlib import Path as File

import numpy as np
import resvg_py
from PIL import Image

from clips import KNOWN_NAMES

PACKAGES = {"fluent": "fluent-emoji", "flat": "fluent-emoji-flat"}
"""The npm package of each style."""

SIZE, FINER = 64, 3
"""Width of a picture, and how many times wider it is drawn before it is made smaller."""


def picture(icons: dict, name: str) -> np.ndarray:
    """One drawing as `[64, 64, 3]` bytes."""
    icon = icons["icons"][name]
    width = icon.get("width", icons.get("width", 16))
    height = icon.get("height", icons.get("height", 16))
    corner = f"{icon.get('left', 0)} {icon.get('top', 0)}"
    svg = (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="{corner} {width} {height}" width="{width}" height="{height}">{icon["body"]}</svg>'
    )
    drawn = resvg_py.svg_to_bytes(svg_string=svg, width=SIZE * FINER, height=SIZE * FINER)
    image = Image.open(io.BytesIO(bytes(drawn))).convert("RGBA")
    # A drawing that is not square goes in the middle.
    paper = Image.new("RGBA", (max(image.size),) * 2, "white")
    paper.alpha_composite(image, ((paper.width - image.width) // 2, (paper.height - image.height) // 2))
    return np.asarray(paper.convert("RGB").resize((SIZE, SIZE), Image.LANCZOS))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--packages", default="node_modules/@iconify-json", help="folder that holds the npm packages")
    parser.add_argument("--out", default="emoji64.npz")
    arguments = parser.parse_args()

    known = KNOWN_NAMES.read_text().splitlines()
    pictures, names, styles = [], [], []
    for style, package in PACKAGES.items():
        icons = json.loads((File(arguments.packages) / package / "icons.json").read_text())
        for name in known:
            # Names are written with hyphens there.
            if name.replace(" ", "-") in icons["icons"]:
                pictures.append(picture(icons, name.replace(" ", "-")))
                names.append(name)
                styles.append(style)
    np.savez_compressed(arguments.out, images=np.stack(pictures), names=np.array(names), styles=np.array(styles))
    print(f"{len(pictures)} drawings of {len(set(names))} names in {arguments.out}")


if __name__ == "__main__":
    main()
