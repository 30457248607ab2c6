# SPDX-License-Identifier: Apache-2.0
"""Where the time of an image went."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from lutvar.cli.host_times import breakdown, breakdown_text
from lutvar.times import Times

SECONDS = {"embeddings": 0.2, "transformer": 4.0, "sampling": 0.6, "decoder": 1.2}


def report(compiling: float, transfers: float, running: float) -> Any:
    return SimpleNamespace(
        compile_seconds=compiling, transfer_seconds=transfers, device_seconds=running,
        counters=SimpleNamespace(cycles=25_000_000),
    )  # fmt: skip


REPORTS = [report(0.5, 0.1, 1.0), report(0.3, 0.1, 1.0)]


def test_a_board() -> None:
    """Every part of an image's time, and nothing modelled."""
    data = breakdown(SECONDS, REPORTS, 2, "uio:lutvar")
    assert data["seconds_per_image"] == pytest.approx(
        {"compile": 0.4, "transfers": 0.1, "device": 1.0, "driver": 0.5, "embeddings": 0.1,
         "sampling": 0.3, "decoder": 0.6}
    )  # fmt: skip
    assert data["total_seconds_per_image"] == pytest.approx(3.0)
    assert data["images_per_second"] == pytest.approx(1 / 3)
    text = breakdown_text(data, "uio:lutvar")
    assert "end to end 0.33 image/s, measured here" in text and "modelled" not in text
    assert "decoder 600.0 20.0 %" in " ".join(text.split())


@pytest.mark.parametrize(("backend", "what"), [("sim", "simulation"), ("golden:x", "golden model")])
def test_what_stands_for_a_device_is_named(backend: str, what: str) -> None:
    data = breakdown(SECONDS, REPORTS, 2, backend)
    assert data["device_seconds_modelled"] == pytest.approx(0.1)  # 25 million cycles an image
    assert data["images_per_second_modelled"] == pytest.approx(1 / (3.0 - 1.0 + 0.1))
    text = breakdown_text(data, backend)
    assert f"measured here with the {what}" in text and "modelled from its cycles" in text


def test_a_device_that_decodes() -> None:
    """Its time and its host's share stand apart, and its cycles count."""
    decodes: Any = [SimpleNamespace(device_seconds=0.4, cycles=5_000_000) for _ in range(2)]
    data = breakdown(SECONDS, REPORTS, 2, "sim", decodes)
    parts = data["seconds_per_image"]
    assert parts["decoder, simulation of the device"] == pytest.approx(0.4)
    assert parts["decoder, host"] == pytest.approx(0.2) and "decoder" not in parts
    assert data["total_seconds_per_image"] == pytest.approx(3.0)
    assert data["device_seconds_modelled"] == pytest.approx(0.1 + 0.02)
    assert data["images_per_second_modelled"] == pytest.approx(1 / (3.0 - 1.4 + 0.12))
    text = breakdown_text(data, "sim")
    assert "transformer 100.0 ms, decoder 20.0 ms of an image" in text


def test_groups_that_take_turns() -> None:
    """Parts of several threads add up to more than anybody waits; waiting is a part of its own."""
    reports: Any = [SimpleNamespace(**vars(one), waited_seconds=0.25) for one in REPORTS]
    decodes: Any = [
        SimpleNamespace(device_seconds=0.4, cycles=5_000_000, waited_seconds=0.1) for _ in range(2)
    ]
    data = breakdown(SECONDS, reports, 2, "golden:x", decodes, elapsed=4.0)
    parts = data["seconds_per_image"]
    assert parts["waiting for a turn"] == pytest.approx(0.35)
    assert parts["driver"] == pytest.approx(0.5 - 0.25)
    assert parts["decoder, host"] == pytest.approx(0.2 - 0.1)
    assert data["total_seconds_per_image"] == pytest.approx(3.0)
    assert data["images_per_second"] == pytest.approx(0.5)
    assert data["host_seconds_per_image"] == pytest.approx(3.0 - 1.4 - 0.35)
    assert data["images_per_second_modelled"] == pytest.approx(1 / 1.25)  # the busier side
    text = breakdown_text(data, "golden:x")
    assert "all threads" in text and "at most 0.80 image/s end to end" in text


def test_a_model_on_the_host() -> None:
    data = breakdown(SECONDS, [], 1, "float")
    assert data["seconds_per_image"]["transformer on this host"] == 4.0
    assert sum(data["seconds_per_image"].values()) == pytest.approx(sum(SECONDS.values()))


def test_times_add_up() -> None:
    now = iter([0.0, 1.0, 5.0, 7.0])
    times = Times(lambda: next(now))
    for _ in range(2):
        with times("a"):
            pass
    times.add("b", 2.5)
    assert times.seconds == {"a": 3.0, "b": 2.5}
