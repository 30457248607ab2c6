# SPDX-License-Identifier: Apache-2.0
"""From the results of a build to what goes onto the card.

A folder of two trees: `boot`, the first partition's additions, and `root`, what is copied over the
root file system. Nothing is laid out unless image, configuration and packed model belong together:
mixed parts end on the board in wrong pictures or a refused program, and cost a trip each.
"""

from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from lutvar.files import make_folder, write_file
from lutvar.host.compile.packed import read_image
from lutvar.host.errors import BadInput, HostError

from .references import References
from .sysfs import BUFFER_NAME, UIO_MODULE, UIO_NAME

FORMAT = "lutvar-build-1"
#: Where things lie on the board.
FIRMWARE = "lib/firmware/lutvar"
MODELS = "usr/share/lutvar"
REFERENCE = "reference.safetensors"
_PIECE = 1 << 24
#: Path on the board -> content: names of modules and nodes are those of the device tree fragment.
SETTINGS = {
    "etc/udev/rules.d/60-lutvar.rules": f"""\
SUBSYSTEM=="uio", ATTR{{name}}=="{UIO_NAME}", GROUP="lutvar", MODE="0660"
SUBSYSTEM=="u-dma-buf", KERNEL=="{BUFFER_NAME}", GROUP="lutvar", MODE="0660", \\
  RUN+="/bin/sh /usr/local/sbin/lutvar-attributes"
""",
    "usr/local/sbin/lutvar-attributes": f"""\
cd /sys/class/u-dma-buf/{BUFFER_NAME} || exit
chgrp lutvar sync_for_cpu sync_for_device
chmod g+w sync_for_cpu sync_for_device
""",
    "etc/modprobe.d/lutvar.conf": f"options {UIO_MODULE} of_id=generic-uio\n",
    "etc/modules-load.d/lutvar.conf": f"{UIO_MODULE}\n",
}
_FULL, _BOOT, _FABRIC = "lutvar.pdi", "lutvar_boot.pdi", "lutvar_pld.pdi"
_TREE, MANIFEST = "lutvar.dtsi", "manifest.json"

#: Vivado's image brings its own loader; the three others come from whatever built Linux.
BOOT_IMAGE = """\
// bootgen -arch versal -image boot.bif -o BOOT.BIN -w on
// Beside it: system.dtb (with lutvar.dtsi in it), bl31.elf, u-boot.elf.
the_ROM_image:
{
    image {
        { type=bootimage, file=IMAGE }
    }
    image {
        id = 0x1c000000, name=apu_subsystem
        { type=raw, load=0x1000, file=system.dtb }
        { core=a72-0, exception_level=el-3, trustzone, file=bl31.elf }
        { core=a72-0, exception_level=el-2, load=0x8000000, file=u-boot.elf }
    }
}
"""


class InstallError(HostError):
    """Parts that are missing, altered, or do not belong together."""


@dataclass(frozen=True)
class Build:
    """The results of a build.

    Attributes:
        folder: where its manifest lies.
        name: of the accelerator's configuration; digest: its hash, 16 hexadecimal digits.
        segmented: the fabric has an image of its own.
        files: name -> SHA-256.
    """

    folder: Path
    name: str
    digest: str
    segmented: bool
    files: Mapping[str, str]

    @classmethod
    def read(cls, folder: Path) -> Build:
        """The results in a folder, every file compared with its SHA-256. Raises InstallError."""
        path = folder / MANIFEST
        again = "build it again (make in the folder of lutvar vivado)"
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            if data["format"] != FORMAT:
                raise InstallError(f"{path}: format {data['format']}, {FORMAT} is read; {again}")
            found = cls(folder, data["configuration"], data["accelerator_hash"],
                        data["segmented"] == "1", dict(data["files"]))  # fmt: skip
        except FileNotFoundError:
            raise InstallError(
                f"{path} does not exist; name the results folder of a build that ended well"
            ) from None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InstallError(f"{path} is no manifest of a build ({error!r}); {again}") from error
        for name in found.images:
            if name not in found.files:
                raise InstallError(f"{path} names no {name}; {again}")
        for name, digest in found.files.items():
            file = folder / name
            if not file.is_file():
                raise InstallError(f"{file} is missing; {again}")
            if _sha256(file) != digest:
                raise InstallError(f"{file} is not the file that {MANIFEST} describes; {again}")
        return found

    @property
    def images(self) -> tuple[str, ...]:
        """Names of its device images, the one that boots first."""
        return (_BOOT, _FABRIC) if self.segmented else (_FULL,)


@dataclass(frozen=True)
class Installation:
    """What was laid out.

    Attributes:
        folder: with `boot` and `root`.
        files: paths within it, in order.
        commands: what is left to do, for a person; the lines that begin with `#` say where.
    """

    folder: Path
    files: tuple[str, ...]
    commands: tuple[str, ...]


def install(
    results: Path, out: Path, models: tuple[Path, ...] = (), reference: Path | None = None
) -> Installation:
    """Lay out the files of a board.

    Args:
        results: folder that a build in Vivado left, with manifest.json.
        out: folder to write.
        models: files of `lutvar pack` for this accelerator.
        reference: of `lutvar selftest --record`, for this accelerator and one of the models.

    Raises:
        InstallError: a file is missing or altered, or a model is packed for another accelerator.
        BadInput: references that are none, or of another accelerator or model; two files that
            would have the same name on the board.
        ImageError: a model is cut or altered. OutputError: the folder cannot be written.
    """
    build = Build.read(results)
    taken = {MANIFEST, REFERENCE}
    for path in models:
        if path.name in taken:
            raise BadInput(
                f"{path}: another file goes to /{MODELS}/{path.name}; rename the model, the board "
                "finds it by its name"
            )
        taken.add(path.name)
    tested: Path | None = None  # the model that the references are of
    known = None if reference is None else References.load(reference)
    for path in models:
        meta = read_image(path)[0]
        packed_for = meta["accelerator"]
        if known is not None and known.model == meta.get("sha256"):
            tested = path
        if packed_for != build.digest:
            raise InstallError(
                f"{path} is packed for accelerator {packed_for}, the image in {results} is "
                f"{build.digest} ({build.name}); pack it with --config {shlex.quote(build.name)}"
            )
    if known is not None:
        known.check(build.digest, known.model)
        if known.model and tested is None:
            raise BadInput(
                f"{reference} is of the packed model {known.model[:16]}, which is not among the "
                "models; give that one with --image, or record without a model"
            )
    files: dict[str, Path | str] = {
        f"boot/{build.images[0]}": results / build.images[0],
        "boot/boot.bif": BOOT_IMAGE.replace("IMAGE", build.images[0]),
        f"root/{MODELS}/{MANIFEST}": results / MANIFEST,
    }
    if _TREE in build.files:
        files[f"boot/{_TREE}"] = results / _TREE
    if build.segmented:
        files[f"root/{FIRMWARE}/{_FABRIC}"] = results / _FABRIC
    if "lutvar.hwh" in build.files:
        files[f"root/{FIRMWARE}/lutvar.hwh"] = results / "lutvar.hwh"
    for path in models:
        files[f"root/{MODELS}/{path.name}"] = path
    if reference is not None:
        files[f"root/{MODELS}/{REFERENCE}"] = reference
    files |= {f"root/{name}": text for name, text in SETTINGS.items()}
    for name, content in files.items():
        make_folder((out / name).parent)
        write_file(out / name, content if isinstance(content, str) else _pieces(content))
    test = f"lutvar selftest uio:lutvar --config {shlex.quote(build.name)}"
    test += f" --image {_on_board(tested)}" if tested is not None else ""
    test += f" --reference /{MODELS}/{REFERENCE}" if reference is not None else ""
    return Installation(out, tuple(files), tuple(_commands(build, out, models, test)))


def _commands(build: Build, out: Path, models: tuple[Path, ...], test: str) -> Iterator[str]:
    yield "# here, with system.dtb (holding lutvar.dtsi), bl31.elf and u-boot.elf in boot:"
    boot, root = shlex.quote(f"{out}/boot"), shlex.quote(f"{out}/root/.")
    yield f"cd {boot} && bootgen -arch versal -image boot.bif -o BOOT.BIN -w on"
    yield "# the card, its two partitions mounted:"
    yield f"cp {boot}/BOOT.BIN /media/boot/ && sudo cp -r {root} /media/root/"
    yield "# on the board:"
    if build.segmented:
        yield f"sudo fpgautil -b /{FIRMWARE}/{_FABRIC}"
        yield "cat /sys/class/fpga_manager/fpga0/state   # must say operating"
    yield "sudo modprobe uio_pdrv_genirq of_id=generic-uio && sudo insmod u-dma-buf.ko"
    yield f"lutvar doctor --board --config {shlex.quote(build.name)}"
    yield test
    for path in models[:1]:
        yield (
            f"lutvar generate --device uio:lutvar --config {shlex.quote(build.name)} "
            f"--image {_on_board(path)} --class 3 -o three.png"
        )


def _on_board(model: Path) -> str:
    """A model's path on the board, for a shell."""
    return shlex.quote(f"/{MODELS}/{model.name}")


def _pieces(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while piece := file.read(_PIECE):
            yield piece


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    for piece in _pieces(path):
        digest.update(piece)
    return digest.hexdigest()
