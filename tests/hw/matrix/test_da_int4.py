# SPDX-License-Identifier: Apache-2.0
"""Distributed arithmetic in integers: codes that are no sign and magnitude."""

from __future__ import annotations

import pytest

from support.hw.da import (
    check_extremes_and_single_lanes,
    check_random_operands_at_any_pace,
    check_uniform_operands_back_to_back,
)

pytestmark = pytest.mark.verilator


def test_extremes_and_single_lanes() -> None:
    check_extremes_and_single_lanes("int4")


def test_uniform_operands_back_to_back() -> None:
    check_uniform_operands_back_to_back("int4")


def test_random_operands_at_any_pace() -> None:
    check_random_operands_at_any_pace("int4")
