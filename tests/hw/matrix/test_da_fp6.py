# SPDX-License-Identifier: Apache-2.0
"""Distributed arithmetic in 6-bit formats: wider tables, more planes."""

from __future__ import annotations

import pytest

from support.hw.da import (
    check_extremes_and_single_lanes,
    check_random_operands_at_any_pace,
    check_uniform_operands_back_to_back,
)

pytestmark = pytest.mark.verilator


def test_extremes_and_single_lanes() -> None:
    check_extremes_and_single_lanes("fp6")


def test_uniform_operands_back_to_back() -> None:
    check_uniform_operands_back_to_back("fp6")


def test_random_operands_at_any_pace() -> None:
    check_random_operands_at_any_pace("fp6")
