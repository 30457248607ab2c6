# SPDX-License-Identifier: Apache-2.0
"""What images wait for each other: known rates, and those that docs/performance.md names."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from lutvar.contract.decoder import DecoderShape
from lutvar.host.compile.decoder.stages import stages
from lutvar.sim.model.turns import Round, images_per_second

PAGE = (Path(__file__).parents[3] / "docs" / "performance.md").read_text(encoding="utf-8")
ONE = Round(0.2, 0.1, 0.3, 0.2, 10)


def test_one_group_is_in_turn() -> None:
    """And a second core or set of maps gives it nothing."""
    alone = images_per_second(ONE, 1, 1)
    assert alone == pytest.approx(1 / 0.8, rel=0.01)
    assert images_per_second(ONE, 1, 2, 2) == pytest.approx(alone)


def test_the_busier_side_is_a_limit_that_many_groups_reach() -> None:
    two, many = images_per_second(ONE, 2, 2), images_per_second(ONE, 5, 5)
    assert 1.05 / 0.8 < two <= many <= 1.01 / 0.5
    assert many > 0.97 / 0.5
    host = Round(0.1, 0.3, 0.05, 0.2, 10)
    assert images_per_second(host, 6, 6) == pytest.approx(1 / 0.5, rel=0.03)
    assert images_per_second(host, 6, 6, cores=2) > 1.8 / 0.5


def test_maps_for_one_image_limit_all_groups() -> None:
    """A decoding group keeps the maps; passes of the others delay its programs."""
    decoder = Round(0.01, 0.01, 0.3, 0.3, 10)
    one, two = (images_per_second(decoder, 3, maps) for maps in (1, 2))
    assert one < 1.02 / 0.6 and two > 1.4 * one


def test_the_figures_of_the_page() -> None:
    """From the parts in its table of `vck190-fp4`, staggered."""
    table = PAGE.split("<!-- begin end-to-end vck190-fp4 -->")[1].split("<!-- end")[0]
    rounds = {}
    for host in ("a72", "desktop"):
        row = re.search(rf"\| staggered \| {host} \|(.*)", table)
        assert row is not None
        values = [int(x) / 1000 for x in row[1].split("|")[:5]]
        transformer, decoder, sampling, share, rest = values
        programs = len(stages(DecoderShape.official()))
        rounds[host] = Round(transformer, sampling + rest, decoder, share, programs)
    rows = re.findall(r"\| (\d) \| (\d) \| (\d\.\d\d) \| (\d\.\d\d) \| (\d\.\d\d) \|", PAGE)
    assert len(rows) == 4
    for groups, maps, *cells in rows:
        cases = (rounds["a72"], 1), (rounds["a72"], 2), (rounds["desktop"], 1)
        found = [images_per_second(one, int(groups), int(maps), cores) for one, cores in cases]
        assert [f"{value:.2f}" for value in found] == cells
