# SPDX-License-Identifier: Apache-2.0
"""Builds and drives a compiled FRONT unit; compares every bank word with the golden model."""

from __future__ import annotations

import random
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from lutvar.contract.accelerator import AcceleratorConfig
from lutvar.contract.hadamard import sign_vector
from lutvar.contract.isa import Opcode
from lutvar.hw.front import FrontUnit
from lutvar.hw.links import bank_write_layout, payload_layout
from lutvar.hw.verilog import export_verilog
from lutvar.quant.golden.activations import hadamard_fp16, quantize_activations
from lutvar.quant.golden.norm import inverse_width, layer_norm
from support.hw.executable import compile_program

WRITE, DONE, ACCEPT, END, READ, RESET = range(6)


@dataclass
class Job:
    """One instruction and its operands. x: float32 (norm) or FP16 patterns [rows, width]."""

    x: np.ndarray
    norm: int = 0
    rotate: int = 0
    dual: int = 0
    bank: int = 0
    row_first: int = 0
    padding: int = 0  #: bytes between rows
    sections: int = 0  #: base-2 logarithm of their number
    terms: int = 0  #: two terms
    eps: float = 1e-6
    scale: np.ndarray = field(default_factory=lambda: np.zeros(0, np.float16))
    shift: np.ndarray = field(default_factory=lambda: np.zeros(0, np.float16))

    def expected(self, config: AcceleratorConfig) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Codes [rows, width], scales and negative scales [rows, groups]; of both terms."""
        x = self.x
        if self.norm:
            x = layer_norm(x, self.scale, self.shift, self.eps).view(np.uint16)
        quant = config.quant_config
        if self.rotate:
            x = hadamard_fp16(x, sign_vector(quant.hadamard_seed))
        fmt = quant.dual_format if self.dual else quant.plain_format
        assert fmt is not None
        return quantize_activations(x, fmt, quant.ties, 1 + self.terms)


class Harness:
    """A compiled unit; `run` checks every bank word and returns the cycles of the events."""

    def __init__(self, config: AcceleratorConfig, folder: Path) -> None:
        self.config, self.folder = config, folder
        self.program = compile_program(
            folder,
            export_verilog(FrontUnit(config), "lutvar_front"),
            "lutvar_front",
            Path(__file__).with_name("front.cpp"),
            ["--inline-mult", "1"],
        )

    def _write(self, jobs: list[Job], path: Path, header: dict[str, int]) -> None:
        memory: list[tuple[int, bytes]] = []
        top = 0x1_0000_0FC0  # rows that cross 4 KiB

        def put(content: bytes) -> int:
            nonlocal top
            start = top
            for at in range(0, len(content), 64):
                memory.append((start + at, content[at : at + 64]))
            top = start + len(content) + 64 * 5
            return start

        layout = payload_layout(Opcode.FRONT)
        words = -(-layout.size // 32)
        commands = b""
        for job in jobs:
            rows, width = job.x.shape
            content = b"".join(row.tobytes() + bytes(job.padding) for row in job.x)
            vectors = [put(v.tobytes()) if job.norm else 64 for v in (job.scale, job.shift)]
            floats = [np.float32(v).view(np.uint32) for v in (inverse_width(width), job.eps)]
            values = {
                "address": put(content), "stride": len(content) // rows, "rows": rows,
                "row_first": job.row_first, "bank": job.bank, "groups": width // 128,
                "norm": job.norm, "rotate": job.rotate, "dual": job.dual, "scale": vectors[0],
                "shift": vectors[1], "inverse_width": int(floats[0]), "epsilon": int(floats[1]),
                "sections": job.sections, "terms": job.terms,
            }  # fmt: skip
            bits = sum(values[name] << at.offset for name, at in layout)
            commands += bits.to_bytes(4 * words, "little")
        order = ("latency", "jitter", "stall", "limit", "stop", "restart", "bad", "seed")
        head = [len(memory), len(jobs), words, *(header[name] for name in order)]
        with path.open("wb") as file:
            file.write(np.array(head, np.uint64).tobytes())
            for address, beat in memory:
                file.write(np.uint64(address).tobytes() + beat)
            file.write(commands)

    def run(
        self,
        jobs: list[Job],
        *,
        latency: int = 20,
        jitter: int = 0,
        stall: float = 0.0,
        check: bool = True,
        **header: int,
    ) -> np.ndarray:
        """Records [n] of cycle, kind, data; the words are compared with the golden model.

        With `stop` the unit is stopped in that cycle; with `restart` it is then reset and runs
        all instructions again, and the records are those after the reset.
        """
        whole = {"limit": 200_000, "stop": 0, "restart": 0, "bad": 0, "seed": 1, **header}
        whole |= {"latency": latency, "jitter": jitter, "stall": int(stall * 2**32)}
        source, result = self.folder / "jobs.bin", self.folder / "records.bin"
        self._write(jobs, source, whole)
        ran = subprocess.run(
            [self.program, source, result],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert ran.returncode == 0, f"the harness ended with {ran.returncode}: {ran.stderr}"
        kinds = [("cycle", "<u4"), ("kind", "<u4"), ("data", "<u4", 6)]
        records = np.fromfile(result, np.dtype(kinds))
        if whole["restart"]:
            assert (records["kind"] == RESET).sum() == 1
            records = records[np.flatnonzero(records["kind"] == RESET)[0] :]
        if check:
            self._check(jobs, records)
        return records

    def _check(self, jobs: list[Job], records: np.ndarray) -> None:
        config = self.config
        bits = config.quant_config.code_bits
        layout = bank_write_layout(config)
        done = 0
        # Words of the next job may come before the last ones of a job in two terms.
        seen: dict[tuple[int, int, int], list[tuple[int, int, int]]] = {}
        for record in records:
            if record["kind"] == WRITE:
                word = int.from_bytes(record["data"].tobytes(), "little")
                part = {name: word >> at.offset & (1 << at.width) - 1 for name, at in layout}
                key = part["bank"], part["row"], part["word"]
                words = seen.setdefault(key, [])
                assert len(words) < 1 + jobs[done].terms, f"word {key} came twice"
                words.append((part["codes"], part["scales"], part["sections"]))
            elif record["kind"] == DONE:
                job = jobs[done]
                done += 1
                codes, scale, negative = job.expected(config)
                for i, row in enumerate(codes):
                    for w in range(len(row) // 16):
                        group, k = divmod(w, 8)
                        both = int(scale[i, group]) | int(negative[i, group]) << 16
                        want_scale = both >> 8 * k & 255 if k < 4 else 0
                        want = sum(int(c) << bits * n for n, c in enumerate(row[16 * w :][:16]))
                        got = seen[job.bank, job.row_first + i, w].pop(0)
                        # A build without sections does not hand the field on.
                        sections = job.sections if layout["sections"].width else 0
                        assert got == (want, want_scale, sections), (
                            f"job {done - 1}, row {i}, word {w}"
                        )
                left = sorted(key for key, words in seen.items() if words)
                assert job.terms or not left, f"words {left} do not belong to job {done - 1}"
        assert done == len(jobs)
        assert not any(seen.values())
        end = records[records["kind"] == END][0]
        assert not end["data"][[0, 4, 5]].any(), "error, or reads under way at the end"


def norm_job(rows: int, width: int, seed: int, **options: int) -> Job:
    """A residual stream with a mean, outliers, and every corner of the formats in some row."""
    rng = np.random.default_rng(seed)
    spread = np.exp2(rng.integers(-6, 7, (rows, 1)))
    x = (rng.normal(rng.normal(0, 1, (rows, 1)), spread, (rows, width))).astype(np.float32)
    x[0, :: 1 + seed % 5] = 0
    x[-1, rng.integers(0, width, 4)] = [1e6, -1e6, 65520.0, 2.0**-25]
    scale, shift = (rng.normal(m, 0.5, width).astype(np.float16) for m in (1, 0))
    scale[:3], shift[3:6] = [0, -0.0, 6e-8], [0, -0.0, 6e-8]
    return Job(x, norm=1, scale=scale, shift=shift, **options)


def raw_job(rows: int, width: int, seed: int, **options: Any) -> Job:
    rng = np.random.default_rng(seed)
    x = rng.normal(0, 1, (rows, width)) * np.exp2(rng.integers(-15, 12, (rows, 1)))
    patterns = x.astype(np.float16).view(np.uint16)
    patterns[rng.random(patterns.shape) < 0.1] = rng.choice([0, 0x8000, 1, 0x83FF, 0x400])
    if rows > 1:
        patterns[1, :128] = 0
    return Job(patterns, **options)


def mixed(count: int, seed: int, kinds: tuple[int, ...] = (0, 1)) -> list[Job]:
    """Instructions of all kinds and sizes, banks and first rows, one after the other.

    kinds: plain (0), dual (1), two terms (2).
    """
    rng = random.Random(seed)
    jobs = []
    for number in range(count):
        rows, norm, kind = rng.choice((1, 2, 3, 16)), rng.getrandbits(1), rng.choice(kinds)
        make, widths = (norm_job, [128, 256, 384, 512]) if norm else (raw_job, [128, 384, 2048])
        if kind == 2:  # half as many groups fit
            widths = [width for width in widths if width <= 1024]
        job = make(
            rows, rng.choice(widths), seed + number, rotate=rng.getrandbits(1),
            dual=int(kind == 1), terms=int(kind == 2), bank=rng.randrange(4),
            row_first=rng.randint(0, 16 - rows), sections=rng.randrange(3),
            padding=64 * rng.choice((0, 0, 1, 7)),
        )  # fmt: skip
        jobs.append(job)
    return jobs


def cycles(records: np.ndarray, kind: int) -> np.ndarray:
    return records["cycle"][records["kind"] == kind].astype(int)
