# SPDX-License-Identifier: Apache-2.0
"""The FRONT unit with 6-bit codes and without pipelining: same results, one group at a time."""

import numpy as np
import pytest

from lutvar.contract.accelerator import load_accelerator
from support.hw.front import WRITE, Harness, cycles, mixed, norm_job, raw_job

pytestmark = pytest.mark.verilator


@pytest.fixture(scope="module")
def harness(tmp_path_factory: pytest.TempPathFactory) -> Harness:
    config = load_accelerator("small-fp6").model_copy(
        update={"pipelined": False, "bank_groups": 16}
    )
    return Harness(config, tmp_path_factory.mktemp("front"))


def test_mixed(harness: Harness) -> None:
    harness.run(mixed(12, seed=6, kinds=(0, 1, 2)), latency=6, jitter=9, stall=0.1)


def test_one_group_at_a_time(harness: Harness) -> None:
    """After a group's eight words the datapath is empty before the next group enters."""
    for job in (norm_job(4, 256, 1, rotate=1), raw_job(3, 512, 2)):
        words = cycles(harness.run([job], latency=6), WRITE).reshape(-1, 8)
        assert (np.diff(words, axis=1) == 1).all()
        assert (words[1:, 0] - words[:-1, -1]).min() > 60
