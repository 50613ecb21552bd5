#!/usr/bin/env python3
"""Times AsyncDiff beside PyTorch (diffusers) and OpenVINO on this machine's CPU, and prints a Markdown table.

    scripts/peers.py [--folder target/peers] [--works sd15,sdxl,vae,embedded,start] [--cores 1,2] [--rounds 3]

The first run installs the other programs into FOLDER with pip (8 GB with what PyTorch brings along for GPUs) and writes
checkpoints of real size with random weights there (16 GB). Every time is of a process of its own that loads the network, runs it
once to warm up and then --repeats times, as the steps of a picture follow each other: the first of ours also makes the keys and
values of the text, which are the same in all. The programs take turns, --rounds times, pinned to the same cores, and medians of
all their times are compared. A result that is not PyTorch's within rounding gets no ratio. What others did on the machine meanwhile
stands beside the times, in cores: a table of a busy machine means little.
"""

import argparse
import array
import json
import math
import os
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import time
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SIDE = Path(__file__).resolve().with_name("peers_side.py")
CONFIGS = Path(__file__).resolve().with_name("configs")
UNETS = ROOT / "fixtures" / "configs"
# Those that this was tried with; newer ones may have other requirements.
PACKAGES = ["torch==2.15.*", "diffusers==0.42.*", "transformers==5.*", "openvino==2026.4.*", "safetensors", "numpy", "pillow"]
PROMPT = "red apple, fluent style"
# How far a result may be from PyTorch's, relative: rounding, of f32 and of bf16.
ALIKE = {"f32": 1e-3, "bf16": 0.1}
# The same for a picture, as PSNR in dB.
ALIKE_PICTURE = 40.0


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=ROOT / "target" / "peers")
    parser.add_argument("--works", default="sd15,sdxl,vae,embedded,start")
    parser.add_argument("--cores", default="1,2")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=2)
    options = parser.parse_args()
    works = options.works.split(",")
    unknown = set(works) - {"sd15", "sdxl", "vae", "embedded", "start"}
    if unknown:
        sys.exit(f"no such works: {', '.join(sorted(unknown))}")
    cores = [int(number) for number in options.cores.split(",")]
    cores = [number for number in cores if number <= len(os.sched_getaffinity(0))]
    peers = Peers(options.folder.resolve(), options.rounds, options.repeats)
    peers.install()
    peers.prepare(works)
    print(f"{machine()}; {peers.versions()}\n", flush=True)
    table = Table()
    dtypes = ["f32"] + ["bf16"] * ("avx512_bf16" in flags())
    for work in [work for work in ("sd15", "sdxl") if work in works]:
        for dtype in dtypes:
            for number in cores:
                peers.network(table, work, dtype, number)
    if "vae" in works:
        for number in cores:
            peers.network(table, "vae", "f32", number)
    if "embedded" in works:
        for number in cores:
            peers.embedded(table, number)
    if "start" in works:
        peers.start(table, max(cores))
    table.threads()


def flags():
    cpuinfo = Path("/proc/cpuinfo").read_text().splitlines()
    return next(line for line in cpuinfo if line.startswith("flags")).split()


def machine():
    cpuinfo = Path("/proc/cpuinfo").read_text().splitlines()
    name = next(line for line in cpuinfo if line.startswith("model name")).split(":", 1)[1].strip()
    best = next((flag for flag in ("avx512_bf16", "avx512f", "avx2") if flag in flags()), "no AVX2")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{name} ({best}), {len(os.sched_getaffinity(0))} cores, {memory:.0f} GiB, {platform.system()}"


def busy():
    """Seconds that all cores have computed since the system started."""
    fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
    user, nice, system, _, _, interrupt, soft, steal = (int(field) for field in fields[:8])
    return (user + nice + system + interrupt + soft + steal) / os.sysconf("SC_CLK_TCK")


def of_children():
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


class Side:
    """One program's times for one work."""

    def __init__(self, name, command, output):
        self.name, self.command, self.output = name, command, output
        self.seconds, self.loads, self.peaks, self.others = [], [], [], []

    def run(self, cores):
        pin = ["taskset", "-c", ",".join(str(core) for core in sorted(os.sched_getaffinity(0))[:cores])]
        environment = dict(os.environ, OMP_NUM_THREADS=str(cores), HF_HUB_OFFLINE="1")
        before, ours, start = busy(), of_children(), time.monotonic()
        done = subprocess.run(pin + self.command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        wall = time.monotonic() - start
        self.others.append(max(0.0, (busy() - before - (of_children() - ours)) / wall))
        if done.returncode != 0:
            sys.exit(f"{self.name} failed:\n{done.stderr[-4000:]}")
        last = [line for line in done.stdout.splitlines() if line.startswith("{")]
        report = json.loads(last[-1]) if last else {"seconds": [wall]}
        self.seconds += report["seconds"]
        self.loads.append(report.get("load"))
        self.peaks.append(report.get("peak"))
        return report

    def median(self):
        return statistics.median(self.seconds)

    def read(self, of):
        numbers = array.array(of)
        numbers.frombytes(self.output.read_bytes())
        return numbers


def distance(found, expected):
    """The relative error in the mean square."""
    if len(found) != len(expected):
        return math.inf
    error = sum((a - b) ** 2 for a, b in zip(found, expected))
    return math.sqrt(error / sum(b * b for b in expected))


def psnr(found, expected):
    if len(found) != len(expected):
        return 0.0
    error = sum((a - b) ** 2 for a, b in zip(found, expected)) / len(expected)
    return math.inf if error == 0 else 10 * math.log10(255**2 / error)


class Peers:
    def __init__(self, folder, rounds, repeats):
        self.folder, self.rounds, self.repeats = folder, rounds, repeats
        self.python = folder / "venv" / "bin" / "python"
        self.step = ROOT / "target" / "release" / "examples" / "step"
        self.program = ROOT / "target" / "release" / "asyncdiff"

    def install(self):
        subprocess.run(
            ["cargo", "build", "--release", "--locked", "--workspace", "--bins", "--example", "step"], cwd=ROOT, check=True
        )
        done = self.folder / "venv" / "installed.json"
        if done.exists() and json.loads(done.read_text()) == PACKAGES:
            return
        venv.create(self.folder / "venv", with_pip=True)
        subprocess.run([self.python, "-m", "pip", "install", "--quiet", *PACKAGES], check=True)
        done.write_text(json.dumps(PACKAGES))

    def side(self, *arguments):
        return [str(self.python), str(SIDE), *(str(argument) for argument in arguments)]

    def versions(self):
        return subprocess.run(self.side("versions"), check=True, stdout=subprocess.PIPE, text=True).stdout.strip()

    def prepare(self, works):
        """Checkpoints with random weights, inputs, and networks as OpenVINO reads them."""
        for work in works:
            if work in ("sd15", "sdxl", "vae") and not (self.folder / work / "done").exists():
                config = CONFIGS / "vae.json" if work == "vae" else UNETS / f"{work}_unet.json"
                subprocess.run(self.side("checkpoint", work, config, self.folder / work), check=True)
                if work != "vae":
                    subprocess.run(self.side("convert", work, self.folder / work), check=True)
                (self.folder / work / "done").touch()
        if "embedded" in works and not (self.folder / "embedded" / "done").exists():
            folder = self.folder / "embedded"
            shutil.rmtree(folder, ignore_errors=True)
            shutil.copytree(ROOT / "asyncdiff-models" / "embedded", folder)
            for shard in (folder / "unet" / "weights").glob("*.safetensors"):
                shard.rename(folder / "unet" / shard.name)
            (folder / "done").touch()

    def turns(self, sides, cores):
        reports = {}
        for number in range(self.rounds):
            for side in sides:
                reports[side.name] = side.run(cores)
                print(f"  {number + 1}/{self.rounds} {side.name}: {side.seconds[-self.repeats:]}", file=sys.stderr, flush=True)
        return reports

    def network(self, table, work, dtype, cores):
        folder, kind = self.folder / work, "vae" if work == "vae" else "unet"
        inputs = folder / "inputs.safetensors"
        output = {name: folder / f"{name}.{dtype}.out" for name in ("ours", "PyTorch", "OpenVINO")}
        ours = [str(self.step), kind, str(folder), str(inputs), str(output["ours"]), str(cores), str(self.repeats), dtype]
        sides = [Side("ours", ours, output["ours"])]
        for name in ("PyTorch", "OpenVINO")[: 1 if work == "vae" else 2]:
            command = self.side(name.lower(), kind, folder, inputs, output[name], cores, self.repeats, dtype)
            sides.append(Side(name, command, output[name]))
        self.turns(sides, cores)
        reference = sides[1].read("f")
        for side in sides:
            side.distance = distance(side.read("f"), reference)
            side.alike = side.distance < ALIKE[dtype]
        name = {
            "sd15": "SD1.5-size UNet step, batch 2, 64x64 latents",
            "sdxl": "SDXL-size UNet step, batch 2, 64x64 latents",
            "vae": "VAE decode, 512x512",
        }[work]
        table.row(f"{name}, {dtype}", cores, sides, f"{sides[0].distance:.0e}")

    def embedded(self, table, cores):
        steps, folder = 50, self.folder / "embedded"
        ours = [str(self.step), "picture", PROMPT, str(steps), str(folder / "ours.out"), str(cores), str(self.repeats)]
        sides = [Side("ours", ours, folder / "ours.out")]
        command = self.side("picture", folder, PROMPT, steps, folder / "PyTorch.out", cores, self.repeats)
        sides.append(Side("PyTorch", command, folder / "PyTorch.out"))
        self.turns(sides, cores)
        decibel = psnr(sides[0].read("B"), sides[1].read("B"))
        sides[0].alike, sides[1].alike = decibel > ALIKE_PICTURE, True
        table.row(f"embedded model, a picture of {steps} steps", cores, sides, f"{decibel:.0f} dB")

    def start(self, table, cores):
        picture = self.folder / "start.png"
        command = [str(self.program), "generate", PROMPT, "--steps", "20", "--force", "-o", str(picture)]
        side = Side("ours", command, picture)
        for _ in range(max(5, self.rounds)):
            side.run(cores)
        side.alike = True
        table.row("process start to picture, embedded model, 20 steps", cores, [side], "")


class Table:
    HEAD = ["work", "cores", "ours", "PyTorch", "ratio", "OpenVINO", "ratio", "from PyTorch's", "load, peak", "others"]

    def __init__(self):
        self.ours = {}
        print("| " + " | ".join(self.HEAD) + " |\n|" + "---|" * len(self.HEAD), flush=True)

    def row(self, work, cores, sides, likeness):
        ours, rest = sides[0], {side.name: side for side in sides[1:]}
        cells = [work, str(cores), seconds(ours.median())]
        for name in ("PyTorch", "OpenVINO"):
            if name not in rest:
                cells += ["", ""]
                continue
            right = ours.alike and rest[name].alike
            ratio = f"**{ours.median() / rest[name].median():.2f}**" if right else "mismatch"
            cells += [seconds(rest[name].median()), ratio]
        load = statistics.median(ours.loads) if ours.loads[0] is not None else None
        peak = max(ours.peaks) if ours.peaks[0] is not None else None
        cells += [likeness, f"{seconds(load)}, {peak / 2**30:.2f} GiB" if load is not None and peak else ""]
        cells.append(f"{statistics.mean(load for side in sides for load in side.others):.2f}")
        print("| " + " | ".join(cells) + " |", flush=True)
        self.ours.setdefault(work, {})[cores] = ours.median()

    def threads(self):
        print()
        for work, times in self.ours.items():
            if 1 in times and 2 in times:
                print(f"From 1 to 2 threads, {work}: {times[1] / times[2]:.2f} times sooner.")


def seconds(number):
    return f"{number:.2f} s" if number < 100 else f"{number:.0f} s"


if __name__ == "__main__":
    main()
