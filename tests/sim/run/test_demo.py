# SPDX-License-Identifier: Apache-2.0
"""`lutvar demo` as a whole, with the golden device in the place of the simulated Verilog."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace, TracebackType
from typing import Any

import numpy as np
import pytest

from lutvar.cli.inspecting import inspect
from lutvar.contract.labels import random_class
from lutvar.host import session as host_session
from lutvar.host.compile.pack import pack_transformer
from lutvar.sim.run import demo, demo_device


class GoldenSession:
    """What `run_demo` uses of a session; the device is the golden model behind the driver."""

    def __init__(self, quantized: Any, out: Path, *, slots: int, decoder: Any, **_: Any) -> None:
        self.packed = pack_transformer(quantized.transformer, quantized.config, decoder=decoder)
        self.inner = host_session.Session.open("golden:small-fp4", self.packed, slots=slots)
        busy = np.array([[0, 1, 1], [5, 0, 0]])
        self.simulation = SimpleNamespace(
            take_trace=lambda: busy, start_trace=lambda: None, violations=0
        )
        self.manifest = SimpleNamespace(data={"config_hash": "none"}, sha256="none")
        self.transformer = self.inner.transformer

    def __enter__(self) -> GoldenSession:
        self.inner.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:  # fmt: skip
        self.inner.__exit__(kind, error, trace)


@pytest.mark.slow
@pytest.mark.parametrize("edit", [False, True])
def test_a_run(edit: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo_device, "Session", GoldenSession)
    report = demo.run_demo(
        tmp_path, labels=[None, 10], seed=4, edit=edit, smooth=edit, decode=1 + edit
    )
    compared = report.comparison.compared
    assert len(report.decoded) == 1 + edit and compared["pixels"] == (1 + edit) * 64
    assert compared["maps"] > 40_000 and f"{1 + edit} of 2 images" in report.summary()
    assert f"--decode {1 + edit}" in report.command
    assert report.ok and report.comparison.total > 0
    assert report.comparison.compared["logits"] == 2 * 30 * 96
    drawn = random_class(4, 10)
    assert report.tasks == (["in-painting", "out-painting"] if edit else [])
    assert report.labels == ([-1, -1] if edit else [drawn, -1])
    assert report.sampling["smooth"] is edit
    words = report.command.split()
    assert f"--class={drawn}" in words and "--class=-1" in words
    assert ("--edit" in words) == edit and ("--smooth" in words) == edit
    written = json.loads((tmp_path / "report.json").read_text())
    assert written["ok"] and written["tasks"] == list(report.tasks)
    assert inspect(tmp_path / "report.json").kind == "report of `lutvar demo`"
    assert {"sheet.png", "timeline.png", "roofline.png"} <= {p.name for p in tmp_path.iterdir()}
