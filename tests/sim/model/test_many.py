# SPDX-License-Identifier: Apache-2.0
"""Many estimates at once: the same figures in the same order as one by one."""

from __future__ import annotations

from lutvar.contract.accelerator import load_accelerator
from lutvar.contract.shape import TransformerShape
from lutvar.sim.model.many import Request, estimate_many, estimate_one

CONFIG = load_accelerator("small-fp4")
SHAPE = TransformerShape(128, 2, 2, 512, 96, (1, 2, 3))
REQUESTS = [
    Request(CONFIG, SHAPE, "tiny", schedule, batch)
    for schedule, batch in (("single", 1), ("batch", 2), ("stagger", 1))
]


def test_processes_change_nothing() -> None:
    expected = [estimate_one(request).as_dict() for request in REQUESTS]
    for workers in (1, 2):
        seen: list[tuple[int, int]] = []

        def on_done(done: int, of: int, to: list[tuple[int, int]] = seen) -> None:
            to.append((done, of))

        found = estimate_many(REQUESTS, workers=workers, on_done=on_done)
        assert [estimate.as_dict() for estimate in found] == expected
        assert seen == [(1, 3), (2, 3), (3, 3)]
    assert [e["schedule"] for e in expected] == ["single", "batch", "stagger"]
