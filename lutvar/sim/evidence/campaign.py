# SPDX-License-Identifier: Apache-2.0
"""Runs items one after the other, keeps a record and a log of each, and skips what is done."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from lutvar.contract.accelerator import load_accelerator
from lutvar.contract.identity import accelerator_hash
from lutvar.files import json_text, make_folder, write_file
from lutvar.hw.accelerator.export import Manifest, export
from lutvar.sim.verilator import build

from .items import Item
from .records import Record, key_of, read_record, record_of, write_record
from .run import run_item

Say = Callable[[str], None]


@dataclass(frozen=True)
class State:
    """Where an item stands.

    Attributes:
        item: which.
        state: "done", "failed", "stale" (something that it depends on has changed) or "to do".
        record: the latest one, or None.
    """

    item: Item
    state: str
    record: Record | None


class Campaign:
    """Items and the folder of their records.

    Args:
        folder: gets `<item>.json` and `<item>.log`, and a folder `verilog`.
        build_dir: cache of simulation models.
        say: gets lines of progress.
    """

    def __init__(self, folder: Path, build_dir: Path | str, say: Say) -> None:
        self.folder, self.build_dir, self.say = folder, build_dir, say
        self._manifests: dict[str, Manifest] = {}

    def state(self, item: Item) -> State:
        """Where an item stands; exports its accelerator if there is a record to check."""
        record = read_record(self.folder, item)
        if record is None:
            return State(item, "to do", None)
        if record["key"] != key_of(item, self._export(item.config).sha256):
            return State(item, "stale", record)
        return State(item, "done" if record["ok"] else "failed", record)

    def run(
        self, items: Sequence[Item], *, again: bool = False, dry: bool = False
    ) -> Iterator[State]:
        """Run those that are not done; each state is yielded when it is known.

        Args:
            items: in this order.
            again: run those that are done, too.
            dry: only start each, and keep no record.
        """
        make_folder(self.folder)
        for number, item in enumerate(items, 1):
            now = self.state(item)
            if now.state == "done" and not again and not dry:
                self.say(f"[{number}/{len(items)}] {item.name}: done before")
                yield now
                continue
            self.say(f"[{number}/{len(items)}] {item.name}: {item.work.what} on {item.config}")
            with self._log(item, dry) as say:
                manifest = self._export(item.config, say)
                seconds = self._build(item.config, manifest, say)
                outcome = run_item(
                    item, self.folder, say, manifest=manifest, build_dir=self.build_dir, dry=dry
                )
                if outcome is None:
                    say("it starts")
                    continue
                record = record_of(item, key_of(item, manifest.sha256), outcome)
                record["build_seconds"] = seconds
                write_record(self.folder, item, record)
                say(summary(record))
            yield State(item, "done" if record["ok"] else "failed", record)

    def _export(self, config: str, say: Say | None = None) -> Manifest:
        if config not in self._manifests:
            (say or self.say)(f"export {config} ...")
            self._manifests[config] = export(load_accelerator(config), self.folder / "verilog")
        return self._manifests[config]

    def _build(self, config: str, manifest: Manifest, say: Say) -> float | None:
        """Build the simulation. Seconds that it took when it was built, None if nobody knows."""
        note = self.folder / "verilog" / f"{config}.build.json"
        started, spoken = time.monotonic(), []

        def hear(line: str) -> None:
            spoken.append(line)
            say(line)

        build(manifest.verilog, build_dir=self.build_dir, progress=hear)
        if any("cached" in line for line in spoken):
            known = json.loads(note.read_text(encoding="utf-8")) if note.exists() else {}
            seconds: float | None = known.get(manifest.sha256)
            return seconds
        took = round(time.monotonic() - started, 1)
        make_folder(note.parent)
        write_file(note, json_text({manifest.sha256: took}) + "\n")
        return took

    @contextmanager
    def _log(self, item: Item, dry: bool) -> Iterator[Say]:
        """A log with the time before each line; lines go to `say`, too."""
        path = self.folder / f"{item.name}{'.dry' if dry else ''}.log"
        started = time.monotonic()
        with path.open("w", encoding="utf-8") as file:

            def say(line: str) -> None:
                file.write(f"{time.monotonic() - started:9.1f} {line}\n")
                file.flush()
                self.say(f"  {line}")

            config = load_accelerator(item.config)
            say(f"{item.name}: {item.work.what} on {item.config}, contract hash "
                f"{accelerator_hash(config):016x}")  # fmt: skip
            try:
                yield say
            except BaseException as error:
                say(f"stopped: {type(error).__name__}: {error}")
                raise


def summary(record: Record) -> str:
    """A record in one line."""
    verdict = "equal" if record["ok"] else "DIFFERS"
    return (
        f"{record['name']}: {verdict}, {record['values_different']:,} of {record['values']:,} "
        f"values differ, {record['cycles']:,} cycles (model "
        f"{100 * (record['modelled'] / record['cycles'] - 1):+.2f} %)"
    )
