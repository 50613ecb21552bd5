"""Writes the pictures beside this file, and `expected.json`: what Pillow makes of each.

    pip install pillow numpy && python make.py

`rgb` is ImageOps.exif_transpose(Image.open(file)).convert("RGB"), as diffusers' load_image; `grey` is that .convert("L").
Pillow's version is in expected.json.
"""

import json
import struct
import zlib
from pathlib import Path

import numpy as np
import PIL
from PIL import Image, ImageOps

HERE = Path(__file__).parent
RANDOM = np.random.default_rng(7)


def noise(*shape, kind=np.uint8):
    return RANDOM.integers(0, np.iinfo(kind).max, shape, kind, endpoint=True)


def smooth(height, width):
    """Soft enough that decoders which round differently stay close; no two corners are alike."""
    y, x = np.mgrid[0:height, 0:width].astype(float)
    red = 40 + 180 * x / (width - 1)
    green = 200 - 150 * y / (height - 1)
    blue = 60 + 120 * (x + y) / (width + height - 2)
    return np.stack([red, green, blue], -1).round().astype(np.uint8)


def chunk(name, data):
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(name, array, colour, depth, *more):
    """A PNG of a kind that Pillow reads but does not write."""
    height, width = array.shape[:2]
    width = width * 8 // min(depth, 8)  # several pixels in a byte
    array = array.astype(">u2") if depth == 16 else array
    rows = b"".join(b"\0" + row.tobytes() for row in array)
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    body = [chunk(b"IHDR", header), *more, chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")]
    (HERE / name).write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(body))


def save(name, array, mode=None, **options):
    image = Image.fromarray(array)
    (image.convert(mode) if mode else image).save(HERE / name, **options)


def turned(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif.tobytes()


# PNG
save("rgb.png", noise(3, 5, 3))
save("rgba.png", noise(3, 5, 4))
save("grey.png", noise(3, 5))
save("grey-alpha.png", noise(3, 5, 2))
save("bits.png", noise(3, 13) > 127)
save("palette.png", noise(6, 7, 3), "P", bits=4)
save("palette-transparent.png", noise(6, 7, 3), "P", transparency=bytes(range(256)))
save("turned.png", noise(3, 5, 3), exif=turned(6))
png("rgb-16.png", noise(3, 5, 3, kind=np.uint16), 2, 16)
png("rgba-16.png", noise(3, 5, 4, kind=np.uint16), 6, 16)
png("grey-alpha-16.png", noise(3, 5, 2, kind=np.uint16), 4, 16)
png("grey-4.png", noise(3, 5), 0, 4)
png("rgb-transparent.png", noise(3, 5, 3), 2, 8, chunk(b"tRNS", bytes(6)))

# JPEG
save("full.jpg", smooth(19, 27), quality=95, subsampling=0)
save("half.jpg", smooth(19, 27), quality=90, subsampling=2)
save("progressive.jpg", smooth(19, 27), quality=95, subsampling=0, progressive=True)
save("grey.jpg", smooth(19, 27), "L", quality=95)
save("cmyk.jpg", smooth(19, 27), "CMYK", quality=95)
for orientation in range(1, 9):
    save(f"turned-{orientation}.jpg", smooth(10, 16), quality=95, subsampling=0, exif=turned(orientation))

# WebP
save("lossless.webp", noise(3, 5, 3), lossless=True)
save("alpha.webp", noise(3, 5, 4), lossless=True, exact=True)
save("lossy.webp", smooth(19, 27), quality=90)
save("turned.webp", noise(3, 5, 3), lossless=True, exif=turned(8))
frames = [Image.fromarray(noise(3, 5, 3)) for _ in range(2)]
frames[0].save(HERE / "moving.webp", save_all=True, append_images=frames[1:], lossless=True)

expected = {}
for file in sorted(HERE.iterdir()):
    if file.suffix in (".png", ".jpg", ".webp"):
        rgb = ImageOps.exif_transpose(Image.open(file)).convert("RGB")
        grey = rgb.convert("L")
        expected[file.name] = {"width": rgb.width, "height": rgb.height, "rgb": rgb.tobytes().hex(), "grey": grey.tobytes().hex()}
(HERE / "expected.json").write_text(json.dumps({"pillow": PIL.__version__, "files": expected}, indent=1) + "\n")
