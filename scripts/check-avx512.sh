#!/usr/bin/env bash
# The kernels' tests with AVX-512 and avx512_bf16 on a machine whose processor has neither: Linux in the emulator Bochs, which knows
# these instructions. Its packages are Debian's, from apt, unpacked but not installed. Takes some ten minutes.
# Arguments are handed to the tests, such as a name of one.
set -euo pipefail
cd "$(dirname "$0")/.."
place=$PWD/target/avx512
root=$place/root
libraries=$root/usr/lib/x86_64-linux-gnu

if [ ! -e "$place/unpacked" ]; then
    # Of a suite that has Bochs 3, whatever suite this machine is.
    mkdir -p "$place"/apt/{lists,archives}/partial "$root"
    : > "$place/apt/status"
    mirror=$(apt-get indextargets --format '$(SITE)' 'Created-By: Packages' | grep -m1 debian)
    echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror trixie main" > "$place/apt/sources.list"
    apt=(apt-get -qq -o Dir::Etc::sourcelist="$place/apt/sources.list" -o Dir::Etc::sourceparts=/dev/null -o Dir::State="$place/apt"
        -o Dir::State::status="$place/apt/status" -o Dir::Cache="$place/apt" -o APT::Sandbox::User=root)
    "${apt[@]}" update
    "${apt[@]}" install --yes --download-only --no-install-recommends \
        bochs bochs-term busybox-static isolinux linux-image-cloud-amd64 syslinux-common xorriso
    for package in "$place"/apt/archives/*.deb; do
        dpkg-deb --extract "$package" "$root"
    done
    touch "$place/unpacked"
fi

RUSTFLAGS="-C target-feature=+crt-static" cargo test --release --locked -p asyncdiff-kernels --lib --test kernels --no-run \
    --target x86_64-unknown-linux-gnu --message-format json > "$place/built.json"
rm -rf "$place/disk" "$place/files"
mkdir -p "$place/disk" "$place"/files/{bin,proc}
cp "$root/usr/bin/busybox" "$place/files/bin"
for program in $(grep -o '"executable":"[^"]*"' "$place/built.json" | cut -d '"' -f 4); do
    cp "$program" "$place/files/bin/tests-${program##*/}"
done
cat > "$place/files/init" << END
#!/bin/busybox sh
busybox mount -t proc proc /proc
for level in avx512bf16 avx512; do
    for tests in /bin/tests-*; do
        ASYNCDIFF_KERNELS=\$level \$tests --test-threads 1 $* || echo "== failed at level \$level"
    done
done
echo "== through"
busybox poweroff -f
END
chmod +x "$place/files/init"
(cd "$place/files" && find . | "$root/usr/bin/busybox" cpio -o -H newc) | gzip -1 > "$place/disk/files"
cp "$root"/boot/vmlinuz-* "$place/disk/linux"
cp "$root/usr/lib/ISOLINUX/isolinux.bin" "$root/usr/lib/syslinux/modules/bios/ldlinux.c32" "$place/disk"
echo "default linux initrd=files console=ttyS0 mitigations=off quiet panic=-1" > "$place/disk/isolinux.cfg"
unpacked="$libraries/ld-linux-x86-64.so.2 --library-path $libraries:$libraries/pulseaudio $root/usr/bin"
$unpacked/xorriso -as mkisofs -quiet -o "$place/disk.iso" -b isolinux.bin -no-emul-boot -boot-load-size 4 -boot-info-table "$place/disk"

# Linux does not start on this processor with what is excluded, which no kernel uses. The emulator wants a terminal.
cat > "$place/bochsrc" << END
config_interface: textconfig
display_library: term
romimage: file=$root/usr/share/bochs/BIOS-bochs-latest
vgaromimage: file=$root/usr/share/vgabios/vgabios.bin
cpu: model=sapphire_rapids, ips=10000000, exclude_features="amx, amx_bf16, amx_int8, la57"
megs: 1024
ata0-master: type=cdrom, path=$place/disk.iso, status=inserted
boot: cdrom
com1: enabled=1, mode=file, dev=$place/serial
log: $place/log
panic: action=fatal
END
: > "$place/serial"
export LTDL_LIBRARY_PATH=$libraries/bochs/plugins BXSHARE=$root/usr/share/bochs TERM=vt100
script -qec "$unpacked/bochs-bin -q -f $place/bochsrc" /dev/null > /dev/null &
tail --pid $! -n +1 -f "$place/serial"
grep -q "== through" "$place/serial" && ! grep -q "== failed" "$place/serial"
