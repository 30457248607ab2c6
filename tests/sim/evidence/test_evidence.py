# SPDX-License-Identifier: Apache-2.0
"""Evidence: every kind of item runs on a small accelerator, and records say what they must."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lutvar.cli.main import run as command
from lutvar.contract.accelerator import load_accelerator
from lutvar.contract.errors import ConfigError
from lutvar.contract.isa import Region
from lutvar.contract.shape import TransformerShape
from lutvar.host.device import Device
from lutvar.hw.accelerator.export import Manifest, export
from lutvar.sim.evidence import campaign
from lutvar.sim.evidence.campaign import Campaign
from lutvar.sim.evidence.items import ITEMS, Images, Item, Layers, Pixels, choose
from lutvar.sim.evidence.page import (
    BLOCK,
    evidence_block,
    evidence_table,
    replace_block,
    update_page,
)
from lutvar.sim.evidence.random_model import random_transformer
from lutvar.sim.evidence.records import EvidenceError, key_of, read_lines, read_record

ROOT = Path(__file__).parents[3]
#: Wide enough for several groups and tiles; the pass has 18 rows and sees 14 keys.
SHAPE = TransformerShape(256, 3, 4, 1024, 200, (1, 2, 3))
WORK = Layers("tiny", 2, 2, SHAPE)
LAYERS = Item("layers", "small-fp4", WORK)
IMAGES = Item("images", "small-fp4", Images("digits", (3,)))
PIXELS = Item("pixels", "small-fp4", Pixels("digits", (3,)))


def make(folder: Path, said: list[str] | None = None) -> Campaign:
    return Campaign(folder, ROOT / "build" / "sim", (said if said is not None else []).append)


@pytest.fixture(scope="module")
def exported_once(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """All campaigns here share one file of Verilog."""
    folder = tmp_path_factory.mktemp("verilog")

    @cache
    def once(name: str) -> Manifest:
        return export(load_accelerator(name), folder)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(campaign, "export", lambda config, _folder: once(config.name))
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, exported_once: None) -> Path:
    """All kinds of work, run once."""
    folder = tmp_path_factory.mktemp("evidence")
    assert [s.state for s in make(folder).run([IMAGES, LAYERS, PIXELS])] == ["done"] * 3
    return folder


@pytest.mark.verilator
@pytest.mark.slow
def test_records_count_everything_that_is_written(folder: Path) -> None:
    layers, images, decoded = (
        json.loads((folder / f"{n}.json").read_text(encoding="utf-8"))
        for n in ("layers", "images", "pixels")
    )
    rows, width, heads, tokens = 18, 256, 4, 9
    assert layers["compared"] == {
        "logits": tokens * 200, "keys": 2 * rows * heads * 64, "values": 2 * rows * heads * 64,
        "x": rows * width, "q": rows * heads * 64, "attention": rows * width,
        "gelu": 4 * rows * width,
    }  # fmt: skip
    assert layers["values"] == sum(layers["compared"].values()) and layers["ok"]
    assert layers["images_equal"] is None and images["images_equal"] is True
    assert images["passes"] == 4 and images["compared"]["logits"] == 30 * 96
    assert set(decoded["compared"]) == {"maps", "pixels"} and decoded["compared"]["pixels"] == 64
    assert decoded["passes"] == 20 and decoded["what"] == "1 image of digits decoded"
    for record in (layers, images, decoded):
        assert set(record["compared"]) == set(record["different"])
        assert not record["values_different"] and not record["first"] and not record["violations"]
        # Twenty programs of some 4,000 cycles: beginnings and ends count.
        near = 0.08 if record is decoded else 0.05
        assert abs(record["modelled"] / record["cycles"] - 1) < near
        assert record["host"]["processor"] and record["tools"]["verilator"]
        assert "stopped" not in (folder / f"{record['name']}.log").read_text(encoding="utf-8")


@pytest.mark.verilator
@pytest.mark.slow
def test_what_is_done_is_not_run_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[str] = []
    monkeypatch.setattr(campaign, "run_item", lambda item, *_a, **_k: ran.append(item.name))
    said: list[str] = []
    assert [s.state for s in make(folder, said).run([IMAGES, LAYERS])] == ["done", "done"]
    assert not ran and "[2/2] layers: done before" in said
    changed = replace(LAYERS, work=replace(WORK, blocks=1))
    assert make(folder).state(changed).state == "stale"
    list(make(folder).run([changed]))
    list(make(folder).run([IMAGES], again=True))
    assert ran == ["layers", "images"]


@pytest.mark.verilator
@pytest.mark.slow
def test_a_dry_run_starts_it_and_keeps_no_record(exported_once: None, tmp_path: Path) -> None:
    assert list(make(tmp_path).run([LAYERS, IMAGES, PIXELS], dry=True)) == []
    for item in (LAYERS, IMAGES, PIXELS):
        assert "it starts" in (tmp_path / f"{item.name}.dry.log").read_text(encoding="utf-8")
        assert not (tmp_path / f"{item.name}.json").exists()


@pytest.mark.verilator
@pytest.mark.slow
def test_wrong_bits_are_no_evidence(
    exported_once: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first byte that is read of each region is not what the device wrote."""
    read, right = Device.read, {Region.WORK, Region.CACHE, Region.IO}

    def flip(self: Device, where: Region, offset: int, count: int) -> Any:
        raw = read(self, where, offset, count)
        if where in right:
            right.remove(where)
            raw[0] ^= 1
        return raw

    monkeypatch.setattr(Device, "read", flip)
    (state,) = make(tmp_path).run([LAYERS])
    assert state.state == "failed" and state.record is not None
    counts = {name: count for name, count in state.record["different"].items() if count}
    assert counts == {"logits": 1, "keys": 1, "x": 1} and len(state.record["first"]) == 3
    assert make(tmp_path).state(LAYERS).state == "failed"


def test_choose_and_names() -> None:
    assert len({item.name for item in ITEMS}) == len(ITEMS)
    assert [i.name for i in choose(["digits-small-fp*"])] == [
        "digits-small-fp4",
        "digits-small-fp6",
    ]
    assert choose([]) == list(ITEMS)
    with pytest.raises(ConfigError, match="'nothing' is no item of evidence"):
        choose(["nothing"])
    shipped = {p.stem for p in (ROOT / "lutvar/configs/accelerator").glob("*.yaml")}
    for model in ("digits", "cifar10"):
        assert {i.config for i in ITEMS if getattr(i.work, "model", "") == model} == shipped
    rows = {2 * i.work.tokens for i in ITEMS if isinstance(i.work, Layers) and i.work.size == "d30"}
    assert rows == {2, 128, 338, 512}


def test_random_weights_are_the_same_each_time() -> None:
    config = load_accelerator("small-fp4")
    a, b = (random_transformer(SHAPE, config, seed=5) for _ in range(2))
    for site in a.layers:
        assert np.array_equal(a.layers[site].codes, b.layers[site].codes)
    assert np.array_equal(a.class_vectors(7).blocks, b.class_vectors(7).blocks)
    assert not np.array_equal(a.class_vectors(7).blocks, a.class_vectors(8).blocks)


def record(name: str = "digits-small-fp4", **more: Any) -> dict[str, Any]:
    return {
        "format": "lutvar-evidence-1", "name": name, "what": "w", "config": "c", "ok": True,
        "key": {"lutvar": "1", "verilog": "0123456789"}, "date": "2026-01-02T03", "values": 5,
        "values_different": 0, "cycles": 200, "modelled": 201, "simulate_seconds": 0.5,
        "host": {"processor": "p", "cores": 2}, **more,
    }  # fmt: skip


def test_the_page_shows_the_records_beside_it(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"a\n<!-- begin {BLOCK} -->\nold\n<!-- end {BLOCK} -->\nb\n")
    assert update_page(page, [record("digits-small-fp6")]) == 1
    assert update_page(page, [record(values=7), record("digits-small-fp6", values=9)]) == 2
    kept = read_lines(tmp_path / "evidence.jsonl")
    assert [(r["name"], r["values"]) for r in kept] == [
        ("digits-small-fp4", 7), ("digits-small-fp6", 9),
    ]  # fmt: skip
    assert evidence_block(kept) in page.read_text(encoding="utf-8") and "old" not in page.read_text(
        encoding="utf-8"
    )
    assert evidence_table(kept).rows[0][1:5] == ["7", "0", "200", "+0.50 %"]
    with pytest.raises(EvidenceError, match="begin other"):
        replace_block(page.read_text(encoding="utf-8"), "other", "")


def test_the_published_page_is_that_of_the_published_records() -> None:
    page = ROOT / "docs" / "verification.md"
    file = page.with_name("evidence.jsonl")
    records = read_lines(file) if file.exists() else []
    assert replace_block(
        page.read_text(encoding="utf-8"), BLOCK, evidence_block(records)
    ) == page.read_text(encoding="utf-8")
    items = {item.name: item for item in ITEMS}
    for line in records:
        assert line["ok"] and not line["values_different"] and line["values"] > 0
        item = items[line["name"]]
        assert line["key"].keys() == key_of(item, "").keys()
        assert line["key"]["item"] == key_of(item, "")["item"]


def test_bad_input(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "digits-small-fp4.json").write_text("{}")
    with pytest.raises(EvidenceError, match="no record of digits-small-fp4"):
        read_record(tmp_path, ITEMS[0])
    for words, text in (
        (["nothing"], "'nothing' is no item of evidence"),
        (["--list", "--dry-run"], "exclude each other"),
        (["--page", str(tmp_path / "none.md")], "does not exist"),
    ):
        assert command(["evidence", "-o", str(tmp_path / "out"), *words]) == 2
        error = capsys.readouterr().err
        assert text in error and "Traceback" not in error


@pytest.mark.skipif(not os.environ.get("LUTVAR_SLOW"), reason="LUTVAR_SLOW is not set")
@pytest.mark.verilator
@pytest.mark.slow
def test_the_board_s_own_verilog_draws_ten_digits(tmp_path: Path) -> None:
    """vck190-fp4 as exported: all logits, records and tokens of ten images."""
    (item,) = choose(["digits-vck190-fp4"])
    (state,) = make(tmp_path).run([item])
    assert state.state == "done" and state.record is not None
    assert state.record["values"] == 1_180_800 and not state.record["values_different"]
