#!/usr/bin/env python3
"""Writes a checkpoint whose denoiser has a real model's size and random weights in f16: its steps take as long as the real one's.

    scripts/random-checkpoint.py fixtures/configs/sd15_unet.json fixtures/sd15/checkpoint DIR

The encoders, the autoencoder and everything else are those of the second folder, so the denoiser's texts are as wide as they are
there. Needs nothing but Python.
"""

import json
import os
import shutil
import struct
import sys

config_file, base, target = sys.argv[1:]
with open(config_file) as file:
    config = json.load(file)
with open(os.path.join(base, "unet/config.json")) as file:
    small = json.load(file)
# What the denoiser is told comes from the encoders that there are.
for key in ["cross_attention_dim", "addition_time_embed_dim", "projection_class_embeddings_input_dim", "sample_size"]:
    if small.get(key) is not None:
        config[key] = small[key]

tensors = {}


def linear(name, inputs, outputs, bias=True):
    tensors[name + ".weight"] = [outputs, inputs]
    if bias:
        tensors[name + ".bias"] = [outputs]


def convolution(name, inputs, outputs, size=3):
    tensors[name + ".weight"] = [outputs, inputs, size, size]
    tensors[name + ".bias"] = [outputs]


def norm(name, channels):
    tensors[name + ".weight"] = [channels]
    tensors[name + ".bias"] = [channels]


def resnet(name, inputs, outputs):
    norm(name + ".norm1", inputs)
    convolution(name + ".conv1", inputs, outputs)
    linear(name + ".time_emb_proj", time, outputs)
    norm(name + ".norm2", outputs)
    convolution(name + ".conv2", outputs, outputs)
    if inputs != outputs:
        convolution(name + ".conv_shortcut", inputs, outputs, 1)


def attention(name, channels, layers):
    norm(name + ".norm", channels)
    for project in [".proj_in", ".proj_out"]:
        if config.get("use_linear_projection"):
            linear(name + project, channels, channels)
        else:
            convolution(name + project, channels, channels, 1)
    for layer in range(layers):
        block = f"{name}.transformer_blocks.{layer}"
        for index, source in [(1, channels), (2, config["cross_attention_dim"])]:
            norm(f"{block}.norm{index}", channels)
            linear(f"{block}.attn{index}.to_q", channels, channels, False)
            linear(f"{block}.attn{index}.to_k", source, channels, False)
            linear(f"{block}.attn{index}.to_v", source, channels, False)
            linear(f"{block}.attn{index}.to_out.0", channels, channels)
        norm(block + ".norm3", channels)
        linear(block + ".ff.net.0.proj", channels, 8 * channels)
        linear(block + ".ff.net.2", 4 * channels, channels)


widths = config["block_out_channels"]
levels = len(widths)
per_block = config["layers_per_block"]
depth = config.get("transformer_layers_per_block", 1)
depth = depth if isinstance(depth, list) else [depth] * levels
time = 4 * widths[0]
convolution("conv_in", config["in_channels"], widths[0])
linear("time_embedding.linear_1", widths[0], time)
linear("time_embedding.linear_2", time, time)
if config.get("addition_embed_type"):
    linear("add_embedding.linear_1", config["projection_class_embeddings_input_dim"], time)
    linear("add_embedding.linear_2", time, time)
before = widths[0]
for level, width in enumerate(widths):
    name = f"down_blocks.{level}"
    for index in range(per_block):
        resnet(f"{name}.resnets.{index}", before, width)
        before = width
        if "CrossAttn" in config["down_block_types"][level]:
            attention(f"{name}.attentions.{index}", width, depth[level])
    if level + 1 < levels:
        convolution(name + ".downsamplers.0.conv", width, width)
for index in range(2):
    resnet(f"mid_block.resnets.{index}", before, before)
attention("mid_block.attentions.0", before, depth[-1])
for level in range(levels):
    name = f"up_blocks.{level}"
    width = widths[-1 - level]
    below = widths[max(levels - 2 - level, 0)]
    for index in range(per_block + 1):
        skip = below if index == per_block else width
        resnet(f"{name}.resnets.{index}", before + skip, width)
        before = width
        if "CrossAttn" in config["up_block_types"][level]:
            attention(f"{name}.attentions.{index}", width, depth[-1 - level])
    if level + 1 < levels:
        convolution(name + ".upsamplers.0.conv", width, width)
norm("conv_norm_out", widths[0])
convolution("conv_out", widths[0], config["out_channels"])


def size(shape):
    count = 1
    for length in shape:
        count *= length
    return 2 * count


header, offset = {}, 0
for name, shape in tensors.items():
    header[name] = {"dtype": "F16", "shape": shape, "data_offsets": [offset, offset + size(shape)]}
    offset += size(shape)
text = json.dumps(header).encode()
text += b" " * (-len(text) % 8)

# Of both signs, from 1/64 to 1/32: what comes of them neither grows nor vanishes.
noise = bytearray(os.urandom(1 << 20))
noise[1::2] = noise[1::2].translate(bytes(byte & 0x83 | 9 << 2 for byte in range(256)))
noise = bytes(noise)
ones = struct.pack("<e", 1.0)

shutil.copytree(base, target)
shutil.rmtree(os.path.join(target, "unet"))
os.mkdir(os.path.join(target, "unet"))
with open(os.path.join(target, "unet/config.json"), "w") as file:
    json.dump(config, file)
with open(os.path.join(target, "unet/diffusion_pytorch_model.safetensors"), "wb") as file:
    file.write(struct.pack("<Q", len(text)))
    file.write(text)
    for name, shape in tensors.items():
        left = size(shape)
        if "norm" in name and name.endswith(".weight"):
            file.write(ones * (left // 2))
            continue
        while left:
            left -= file.write(noise[:left])
print(f"{target}: {offset // 2 / 1e6:.0f} million weights")
