#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# A Python of Debian 12 for aarch64 with what a board's host needs, run by qemu-user on this machine.
#
#     sudo apt-get install qemu-user-static debootstrap
#     requirements/aarch64.sh build/aarch64
#     LUTVAR_AARCH64=build/aarch64/python python -m pytest tests/cli/test_generate_host.py
#
# Nothing is installed outside of the folder, and packages are unpacked, not configured: no root is
# needed but for debootstrap, which refuses to start without (fakeroot does).
set -eu
folder=${1:?usage: requirements/aarch64.sh FOLDER}
mkdir -p "$folder"
folder=$(cd "$folder" && pwd)
debootstrap --arch=arm64 --foreign --variant=minbase --include=python3,libstdc++6,libgomp1 \
    bookworm "$folder/root" http://deb.debian.org/debian
for package in "$folder"/root/var/cache/apt/archives/*.deb; do
    dpkg-deb --fsys-tarfile "$package" | tar -x --keep-directory-symlink -C "$folder/root"
done
# onnxruntime 1.32 ends in a segmentation fault under QEMU 7.2, while it looks for the processor's
# caches; 1.23 is the oldest that lutvar takes.
python3 -m pip install --quiet --target "$folder/packages" --only-binary=:all: \
    --python-version 3.11 --implementation cp --platform manylinux_2_28_aarch64 \
    --platform manylinux_2_27_aarch64 --platform manylinux_2_17_aarch64 \
    'numpy>=2,<2.4' safetensors pyyaml click 'pydantic>=2.6' tqdm typing_extensions filelock \
    pillow 'onnxruntime==1.23.*'
cat > "$folder/python" <<END
#!/bin/sh
export QEMU_CPU=\${QEMU_CPU:-cortex-a72} PYTHONPATH="\${PYTHONPATH:+\$PYTHONPATH:}$folder/packages"
exec qemu-aarch64-static -L "$folder/root" "$folder/root/usr/bin/python3.11" "\$@"
END
chmod +x "$folder/python"
"$folder/python" -c 'import onnxruntime, platform; print(platform.machine(), onnxruntime.__version__)'
