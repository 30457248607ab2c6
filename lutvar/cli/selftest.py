# SPDX-License-Identifier: Apache-2.0
"""`lutvar selftest`: whether an accelerator works, with a verdict as JSON."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import click
from click import ClickException

from lutvar.files import json_text, prepare_output, write_file

from .common import OutputFile, command, emit, json_option, note
from .errors import FAILED, OK

if TYPE_CHECKING:
    from lutvar.contract.accelerator import AcceleratorConfig
    from lutvar.host.board.references import References
    from lutvar.host.compile.packed import PackedTransformer


@command("selftest")
@click.argument("url")
@click.option(
    "--config",
    metavar="NAME|FILE",
    help="What the device must be. Default: the shipped size with the device's hash.",
)
@click.option(
    "--image",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="A packed model, for the passes of one image.",
)
@click.option(
    "--reference",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="What results must be, recorded on golden:CONFIG. Default: computed here if the golden "
    "model is installed.",
)
@click.option(
    "--record",
    type=OutputFile(".safetensors"),
    metavar="FILE",
    help="Write the results as a reference.",
)
@click.option("--rounds", type=click.IntRange(1, 100), default=4, help="Times, with other data.")
@click.option("--full", is_flag=True, help="Test every byte of the memory, not samples.")
@click.option(
    "-o", "--out", type=OutputFile(".json"), metavar="FILE", help="Write the verdict to a file."
)
@json_option
def selftest(
    url: str,
    config: str | None,
    image: Path | None,
    reference: Path | None,
    record: Path | None,
    rounds: int,
    full: bool,
    out: Path | None,
    as_json: bool,
) -> int:
    """Test the accelerator at URL: uio:NAME, sim:CONFIG, golden:CONFIG and so on.

    Registers, interrupt, memory with patterns that depend on the address, one tile through every
    unit, the passes of one image. The device's memory loses its contents. Exit code 1 when a check
    failed; the verdict says what was not checked.
    """
    from lutvar.contract.accelerator import load_accelerator
    from lutvar.host.board.references import References
    from lutvar.host.board.selftest import SelfTest, identify
    from lutvar.host.compile.packed import PackedTransformer
    from lutvar.host.open import open_transport

    for target in (record, out):
        if target is not None:
            prepare_output(target)
    accelerator = None if config is None else load_accelerator(config)
    known = None if reference is None else References.load(reference)
    transport = open_transport(url, accelerator, note)
    try:
        accelerator = accelerator or identify(transport)
        packed = None if image is None else PackedTransformer.load(image, accelerator)
        if known is None and not url.startswith("golden"):
            known = _golden(accelerator, packed, rounds)
        test = SelfTest(
            transport, accelerator, packed=packed, references=known, full=full, say=note
        )
        verdict = test.run(rounds)
    finally:
        transport.close()
    if record is not None and verdict.passed:
        test.recorded.save(record)
        note(f"written: {record}")
    elif record is not None:
        note(f"not written: {record}; a check failed, and its results are no reference")
    data = verdict.as_dict()
    if out is not None:
        write_file(out, json_text(data, indent=2) + "\n")
    failed = [f"{o.check}, round {o.round + 1}: {o.what}" for o in verdict.outcomes
              if o.result == "failed"]  # fmt: skip
    lines = [*failed, *(f"not checked: {what}" for what in verdict.not_checked)]
    count = f"{len(verdict.outcomes)} checks in {verdict.rounds} rounds"
    lines.append(f"{verdict.device}: {'FAILED' if failed else 'passed'}, {count}")
    emit(as_json, data, "\n".join(lines))
    return OK if verdict.passed else FAILED


def _golden(
    accelerator: AcceleratorConfig, packed: PackedTransformer | None, rounds: int
) -> References | None:
    """References from the golden device, or None where it is not installed."""
    try:
        import torch  # noqa: F401
    except ImportError:
        return None
    from lutvar.host.board.selftest import SelfTest
    from lutvar.host.open import open_transport

    note("computing references with the golden model")
    with closing(open_transport("golden", accelerator)) as transport:
        test = SelfTest(transport, accelerator, packed=packed)
        verdict = test.run(rounds, only=("units", "image"))
    if not verdict.passed:
        raise ClickException("the golden device fails its own test; please report this")
    return test.recorded
