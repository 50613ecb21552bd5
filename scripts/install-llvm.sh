#!/usr/bin/env bash
# Puts LLVM where the build of Burn's `cuda` feature looks for it, so that the build itself downloads nothing.
#
#   scripts/install-llvm.sh
#
# The build script of tracel-llvm-bundler takes the tree below the user's data folder if its marker file is there, and
# fetches a release archive otherwise. Two wheels from the Python package index hold the same libraries: the second adds
# the targets that the first leaves out, NVPTX among them. Needs python3 with pip, 400 MB of disk (and 100 MB more while
# it runs), and no root rights. Running it again does nothing. Building needs python3 too, because the tree's
# llvm-config is a Python program.
set -euo pipefail

# The release that tracel-llvm-bundler asks for by folder name, and the wheels of the same LLVM.
release=23.1.0-4
wheels=(mlc-llvm-static==23.1.1.post0 mlc-llvm-static-extra-targets==23.1.1.post0)

fail() {
    echo "install-llvm: $*" >&2
    exit 1
}

python=${PYTHON:-python3}
"$python" -m pip --version >/dev/null 2>&1 || fail "'$python' has no pip: install it, or name another Python in PYTHON"

case $(uname -s) in
    Darwin) data="$HOME/Library/Application Support" ;;
    # An empty or relative XDG_DATA_HOME counts as unset, for Cargo's build script as for us.
    *) case ${XDG_DATA_HOME:-} in /*) data=$XDG_DATA_HOME ;; *) data=$HOME/.local/share ;; esac ;;
esac
tree=$data/tracel/tracel-llvm-$release
marker=$tree/.tracel-llvm-installed

if [[ -e $marker ]]; then
    echo "install-llvm: LLVM is already in $tree"
    exit 0
fi
[[ ! -e $tree ]] || fail "$tree exists but is unfinished: remove it and run this again"

# Beside the target, so that the last step is a rename within one file system and never leaves half a tree.
mkdir -p "$data/tracel"
work=$(mktemp -d "$data/tracel/install-llvm.XXXXXX")
trap 'rm -rf "$work"' EXIT

echo "install-llvm: fetching ${wheels[*]}"
"$python" -m pip download --quiet --no-deps --only-binary=:all: --dest "$work/wheels" "${wheels[@]}" ||
    fail "pip could not fetch the wheels: see its message above"

echo "install-llvm: unpacking into $tree"
for wheel in "$work"/wheels/*.whl; do
    "$python" -m zipfile -e "$wheel" "$work/unpacked"
done
new=$work/unpacked/mlc_llvm_static/static
[[ -f $new/bin/llvm-config ]] || fail "the wheels hold no bin/llvm-config: their layout has changed"
# zipfile drops the executable bit.
chmod +x "$new"/bin/*
version=$("$new/bin/llvm-config" --version) || fail "the wheels' llvm-config does not run: see its message above"
ls "$new"/lib/libLLVMNVPTXCodeGen.* >/dev/null || fail "the wheels hold no NVPTX target, which CUDA needs"
touch "$new/${marker##*/}"
mv "$new" "$tree"
echo "install-llvm: LLVM $version is ready; now build with: cargo build --release --features cuda"
