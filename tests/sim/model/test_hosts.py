# SPDX-License-Identifier: Apache-2.0
"""Host times beside an estimate."""

from __future__ import annotations

import pytest

from lutvar.contract.accelerator import load_accelerator
from lutvar.contract.shape import TransformerShape
from lutvar.sim.model.hosts import HOSTS, HostTimes
from lutvar.sim.model.many import Request, estimate_one
from lutvar.sim.model.text import estimate_text, table_text

SHAPE = TransformerShape(256, 2, 4, 1024, 512, (1, 2, 3))


def test_the_reference_is_what_the_file_says() -> None:
    desktop = HostTimes.of("desktop", TransformerShape.official("d30"))
    assert desktop.seconds["decoder"] > desktop.without_decoder > 0
    assert desktop.how.startswith("measured")
    board = HostTimes.of("a72", TransformerShape.official("d30"))
    assert board.total == pytest.approx(10 * desktop.total)
    assert board.how.startswith("stated, not measured")


def test_parts_grow_with_their_work() -> None:
    small, large = (HostTimes.of("desktop", TransformerShape.official(n)) for n in ("d16", "d36-s"))
    sizes = TransformerShape.official("d16"), TransformerShape.official("d36-s")
    assert large.seconds["decoder"] == pytest.approx(4 * small.seconds["decoder"])
    tokens = sizes[1].tokens / sizes[0].tokens
    assert large.seconds["sampling"] == pytest.approx(tokens * small.seconds["sampling"])


@pytest.mark.parametrize("name", HOSTS)
def test_device_and_host_take_turns(name: str) -> None:
    estimate = estimate_one(Request(load_accelerator("small-fp4"), SHAPE, "mini", "single"))
    host = HostTimes.of(name, SHAPE)
    both = host.images_per_second(estimate)
    assert 1 / both == pytest.approx(1 / estimate.images_per_second + host.total)
    assert host.as_dict(estimate)["images_per_second_with_host"] == both
    text = estimate_text(estimate, host)
    assert f"with host {name}  {both:.2f}" in text and host.how in text
    row = table_text([estimate], [host]).splitlines()[3]
    assert f"{estimate.images_per_second:.2f}" in row and f"{both:.2f}" in row
