# SPDX-License-Identifier: Apache-2.0
"""What the pictures of a run say: scales, roofs, ticks, classes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("matplotlib")

from matplotlib import pyplot

from lutvar.contract.accelerator import load_accelerator
from lutvar.sim.run.measure import lanes, port_bytes
from lutvar.sim.run.pictures import (
    RooflinePoint,
    StepTrace,
    draw_roofline,
    draw_timeline,
    spread,
)
from lutvar.text import class_name


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The figures, kept from being closed."""
    kept: list[Any] = []
    monkeypatch.setattr(pyplot, "close", kept.append)
    return kept


def test_passes_share_one_time_scale(drawn: list[Any], tmp_path: Path) -> None:
    traces = [
        StepTrace("short", 100, 1100, np.array([[100, 1, 1], [1100, 0, 0]], np.uint64)),
        StepTrace("long", 2000, 12000, np.array([[2000, 4, 4], [12000, 0, 0]], np.uint64)),
    ]
    draw_timeline(tmp_path / "t.png", traces, "title")
    (figure,) = drawn
    limits = {axis.get_xlim() for axis in figure.axes}
    assert len(limits) == 1 and next(iter(limits))[1] >= 10_000
    titles = [axis.get_title(loc="left") for axis in figure.axes]
    assert "short: 1,000 cycles" in titles[0] and "long: 10,000 cycles" in titles[1]
    labels = [tick.get_text() for tick in figure.axes[-1].get_xticklabels()]
    assert "10,000" in labels, labels


def test_roofs_have_names_and_ticks_are_plain(drawn: list[Any], tmp_path: Path) -> None:
    config = load_accelerator("small-fp4")
    points = [RooflinePoint("scale 1", 400_000, 100_000, 9_000),
              RooflinePoint("scale 4", 9_000_000, 120_000, 20_000)]  # fmt: skip
    draw_roofline(tmp_path / "r.png", points, lanes(config), port_bytes(config), "title")
    axis = drawn[0].axes[0]
    texts = [text.get_text() for text in axis.texts]
    assert f"array: {lanes(config):,} MAC a cycle" in texts
    assert "memory ports: 512 bytes a cycle" in texts
    ticks = [t.get_text() for a in (axis.xaxis, axis.yaxis) for t in a.get_ticklabels(which="both")]
    assert any(ticks) and not any("$" in text or "10^" in text for text in ticks), ticks


def test_labels_keep_their_distance() -> None:
    heights = np.array([30.0, 10.0, 12.0, 13.0])
    np.testing.assert_array_equal(spread(heights, 5.0), [30, 10, 15, 20])


def test_memory_ports_of_a_build() -> None:
    assert port_bytes(load_accelerator("small-fp4")) == 8 * 64
    assert port_bytes(load_accelerator("small-fp6")) == 9 * 64  # two weight ports


def test_the_unconditional_class_has_its_own_name() -> None:
    assert class_name(["zero", "one"], 1) == "one"
    assert class_name(["zero", "one"], -1) == class_name(["zero", "one"], 2) == "no class"
