#!/usr/bin/env bash
# Unpacks the LibTorch that the `tch` feature links to, from the torch wheel of the Python package index.
#
#   scripts/install-libtorch.sh [--cuda] [FOLDER]
#
# FOLDER is by default asyncdiff/libtorch-VERSION in the user's data folder (with -cuda at the end for --cuda). Without
# --cuda it holds what `tch:cpu` needs: 500 MB, and a gigabyte more while this runs. With --cuda it also holds NVIDIA's
# libraries, 6 GB and 3 more, and `tch:cuda:0` works where the machine has a GPU and its driver. Needs python3 with pip,
# and no root rights. Running it again fetches nothing. Its output is the variables to export, for building and for
# running; without the first, the build script of torch-sys would fetch a release archive by itself. To set them:
#
#   eval "$(scripts/install-libtorch.sh)"
set -euo pipefail

# The one version that tch 0.22, which Burn 0.22.1 uses, builds with. The C++ libraries in the wheels do not differ by
# Python version; naming one lets any python3 fetch them.
version=2.9.0
wheel_python=3.11

say() {
    echo "install-libtorch: $*" >&2
}

fail() {
    say "$*"
    exit 1
}

cuda=
folder=
for argument in "$@"; do
    case $argument in
        --cuda) cuda=-cuda ;;
        -*) fail "unknown option $argument: the only one is --cuda" ;;
        *) [[ -z $folder ]] || fail "two folders were given, $folder and $argument: give one"
           folder=$argument ;;
    esac
done
folder=${folder:-${XDG_DATA_HOME:-$HOME/.local/share}/asyncdiff/libtorch-$version$cuda}
if [[ -n $cuda && $(uname -sm) != "Linux x86_64" ]]; then
    fail "--cuda is for Linux on x86_64: only there does the torch wheel hold CUDA libraries"
fi
python=${PYTHON:-python3}
"$python" -m pip --version >/dev/null 2>&1 || fail "'$python' has no pip: install it, or name another Python in PYTHON"

# Fetches the named packages' wheels into $work/wheels.
fetch() {
    say "fetching $*"
    "$python" -m pip download --quiet --no-deps --only-binary=:all: --python-version "$wheel_python" \
        --dest "$work/wheels" "$@" || fail "pip could not fetch $*: see its message above"
}

# unpack WHEEL: the libraries and headers in it. Without --cuda the GPU's part of torch stays out, a gigabyte; its absence
# is also how torch-sys and burn-tch know that they build for the CPU alone.
unpack() {
    CUDA=$cuda "$python" - "$1" "$work/new" <<'PYTHON'
import os, re, sys, zipfile

wheel, folder = sys.argv[1:]
wanted = re.compile(r"(torch/(lib|include)|torch\.libs|nvidia/[^/]+/lib)/")
# Bindings for Python, and with them the ones of a GPU where none is asked for.
unwanted = re.compile(r"torch/lib/libtorch_python" if os.environ["CUDA"] else
                      r"torch/lib/lib(torch_python|torch_cuda|torch_nvshmem|c10_cuda|caffe2_nvrtc)")
with zipfile.ZipFile(wheel) as archive:
    for name in archive.namelist():
        if wanted.match(name) and not unwanted.match(name):
            archive.extract(name, folder)
PYTHON
}

# The NVIDIA packages that this torch wheel names, each with its exact version: NAME==VERSION, one a line.
nvidia_packages() {
    "$python" - "$work"/wheels/torch-*.whl <<'PYTHON'
import re, sys, zipfile

with zipfile.ZipFile(sys.argv[1]) as archive:
    metadata = next(name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
    for package in re.findall(r"^Requires-Dist: (nvidia-[^ ;]+)", archive.read(metadata).decode(), re.MULTILINE):
        print(package)
PYTHON
}

if [[ -e $folder ]]; then
    [[ -e $folder/torch/build-version ]] || fail "$folder exists and is not LibTorch: remove it, or name another folder"
    found=$(<"$folder/torch/build-version")
    [[ $found == "$version" ]] || fail "$folder holds LibTorch $found, and $version is needed: name another folder"
    if [[ -n $cuda && ! -e $folder/torch/lib/libtorch_cuda.so ]]; then
        fail "$folder holds LibTorch for the CPU alone: name another folder for --cuda"
    fi
    say "LibTorch $version is already in $folder"
else
    # Beside the target, so that the last step is a rename within one file system and never leaves half a tree.
    mkdir -p "$(dirname "$folder")"
    work=$(mktemp -d "$folder.XXXXXX")
    trap 'rm -rf "$work"' EXIT

    fetch "torch==$version"
    # libtorch_cpu of the x86_64 Linux wheel is linked to CUDA's runtime and profiler even where no GPU is used.
    needed='^nvidia-cuda-(runtime|cupti)-'
    [[ -z $cuda ]] || needed='^nvidia-'
    if [[ $(uname -sm) == "Linux x86_64" ]]; then
        mapfile -t packages < <(nvidia_packages | grep -E "$needed")
        fetch "${packages[@]}"
    fi

    say "unpacking into $folder"
    for wheel in "$work"/wheels/*.whl; do
        unpack "$wheel"
    done
    [[ -d $work/new/torch/lib ]] || fail "the torch wheel holds no torch/lib: its layout has changed"
    # torch-sys reads this file to refuse another version.
    echo "$version" >"$work/new/torch/build-version"
    mv "$work/new" "$folder"
fi

folder=$(cd "$folder" && pwd)
library_path=LD_LIBRARY_PATH
[[ $(uname -s) != Darwin ]] || library_path=DYLD_LIBRARY_PATH
say "ready; with the variables below set, build with: cargo build --release --features tch"
cat <<EXPORTS
export LIBTORCH='$folder/torch'
export $library_path='$folder/torch/lib'\${$library_path:+:\$$library_path}
EXPORTS
