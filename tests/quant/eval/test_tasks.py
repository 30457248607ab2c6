# SPDX-License-Identifier: Apache-2.0
"""Editing tasks: which cells are drawn, what is measured on them, and the command."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lutvar.cli.main import run
from lutvar.quant.eval.chunk import make_chunk
from lutvar.quant.eval.forced import force
from lutvar.quant.eval.settings import SampleSettings, image_seed
from lutvar.quant.eval.store import read_chunk
from lutvar.quant.eval.subject import Subject, SubjectName, load_subject
from lutvar.quant.eval.tasks import (
    TASKS,
    Edited,
    EditTask,
    TaskName,
    decoded,
    given_seed,
    region_figures,
)
from lutvar.quant.golden.distance import kl_divergence
from lutvar.quant.var import generate
from lutvar.quant.var.forcing import forced_logits

SIDES = (1, 2, 3, 4)


@pytest.fixture(scope="module")
def subject() -> Subject:
    return load_subject(SubjectName("digits"))


@pytest.fixture(scope="module")
def method() -> Subject:
    return load_subject(SubjectName("digits", "fp4-baseline"))


def test_cells_and_labels() -> None:
    """The box 0.1 to 0.8 of VAR's notebook: cells 1 to 5 of 8, cells 0 to 2 of 4."""
    inside = EditTask("inpaint", (1, 2, 3, 4, 6, 8), 10)
    expected = np.ones((8, 8), bool)
    expected[1:6, 1:6] = False
    assert np.array_equal(inside.mask, expected)
    outside = EditTask("outpaint", (1, 2, 3, 4, 6, 8), 10)
    assert np.array_equal(outside.mask, ~expected)
    # Of the map of one cell nothing is drawn, of the last one 25 or 39 cells.
    assert len(inside.regenerated_L) == 130 and not inside.regenerated_L[0]
    assert [int(t.regenerated_L[-64:].sum()) for t in (inside, outside)] == [25, 39]
    pixels = inside.pixels(32)
    assert pixels.shape == (32, 32) and pixels[4:24, 4:24].all() and int(pixels.sum()) == 400
    edit = EditTask("edit", SIDES, 10)
    assert inside.labels([3, 9]) == outside.labels([3, 9]) == [-1, -1]
    assert edit.labels([3, 9]) == [4, 0] == [edit.target(3), edit.target(9)]
    assert [inside.target(i) for i in (3, 19)] == [3, 9]
    assert given_seed(0) == 4293 and given_seed(2) == 4291, "image_seed takes 0 to 4293"


@pytest.mark.parametrize("name", TASKS)
def test_a_chunk_is_the_edit_of_its_given_images(subject: Subject, name: TaskName) -> None:
    model = subject.model
    task = EditTask(name, SIDES, 10)
    given = torch.cat(generate(model.var, model.vqvae, [5, 6, 7, 8], [1, 2, 3, 4]).tokens, 1)
    settings = SampleSettings(1.5, 0, 0.0, chunk=4, task=name)
    judge = model.classifier()
    made = make_chunk(subject, judge, settings, 3, 1, given)
    edits = task.edits(model.vqvae, given)
    seeds = [image_seed(3, i) for i in range(4, 8)]
    labels = [5, 6, 7, 8] if name == "edit" else [-1] * 4
    alone = generate(model.var, model.vqvae, labels, seeds, 1.5, edits=edits)
    assert torch.equal(torch.cat(alone.tokens, 1).int(), made["tokens"])
    kept_L = ~task.regenerated_L
    encoded = torch.stack([torch.from_numpy(np.concatenate(e.tokens)) for e in edits])
    assert torch.equal(encoded[:, kept_L].int(), made["tokens"][:, kept_L])
    assert not torch.equal(encoded.int(), made["tokens"])
    with torch.no_grad():
        whole = judge.features(alone.images_BCHW)
        grey = torch.where(task.pixels(8), alone.images_BCHW, torch.tensor(0.5))
        assert torch.equal(made["region"], judge.features(grey))
    assert torch.equal(made["features"], whole) and not torch.equal(whole, made["region"])


def test_figures_of_the_region(subject: Subject) -> None:
    vqvae = subject.model.vqvae
    task = EditTask("inpaint", SIDES, 10)
    drawn_L = task.regenerated_L
    random = torch.Generator().manual_seed(0)
    region = torch.randn(80, 64, generator=random)
    tokens = torch.randint(0, 96, (80, 30), generator=random).int()
    given = Edited(region, tokens)
    same = region_figures(task, vqvae, given, given, given, alone=False)
    assert (same.kept, same.tokens, same.psnr_db, same.feature_mse) == (1, 1, 60, 0)
    assert same.frechet == pytest.approx(0, abs=1e-6) == same.frechet_float
    # Half of the images change a drawn token of the last map, and all features move by 2.
    other = tokens.clone()
    last = int(drawn_L.nonzero()[-1])
    other[:40, last] = (other[:40, last] + 1) % 96
    found = region_figures(task, vqvae, given, given, Edited(region + 2, other), alone=False)
    assert found.kept == 1 and found.tokens == pytest.approx(1 - 0.5 / int(drawn_L.sum()))
    assert found.feature_mse == pytest.approx(4)
    assert found.frechet == pytest.approx(64 * 4) == found.frechet_float
    pixels = task.pixels(8)
    error = (decoded(vqvae, tokens) - decoded(vqvae, other))[..., pixels].square().mean((1, 2))
    psnr = (-10 * error[:40].log10()).clamp_max(60)
    assert found.psnr_db == pytest.approx(float((psnr.sum() + 40 * 60) / 80), rel=1e-5)
    # A kept token that is not the given one shows.
    other[0, 0] = (other[0, 0] + 1) % 96
    broken = region_figures(task, vqvae, given, given, Edited(region, other), alone=True)
    assert broken.kept == pytest.approx(1 - 1 / (80 * int((~drawn_L).sum())))
    assert broken.frechet_float is None and broken.tokens is None


def test_divergence_of_the_drawn_tokens_alone(method: Subject) -> None:
    var, vqvae = method.model.var, method.model.vqvae
    labels = torch.full((6,), 10)  # the null class
    tokens = torch.cat(generate(var, vqvae, [-1] * 6, list(range(6))).tokens, 1).int()
    counted = EditTask("outpaint", SIDES, 10).regenerated_L
    found = force(method, labels, tokens, counted_L=counted)
    with torch.no_grad():
        exact = torch.cat(forced_logits(var, vqvae, labels, tokens), 1)
        with method.installed():
            value = torch.cat(forced_logits(var, vqvae, labels, tokens), 1)
    assert found.kl_nats == pytest.approx(
        kl_divergence(exact[:, counted], value[:, counted]), rel=1e-3
    )
    assert found.kl_nats != pytest.approx(kl_divergence(exact, value), rel=1e-3)
    assert found.kl_nats_of_scale[0] == 0 < found.kl_nats_of_scale[-1]


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [
        "eval", "--task", "edit", "--samples", "70", "--chunk", "35", "--teacher", "3",
        "--jobs", "1", "--recipe", "preset:fp4", "--on", "golden", "--work", str(tmp_path / "w"),
        "-o", str(tmp_path / "e.json"),
    ]  # fmt: skip
    assert run(arguments) == 0
    heading = capsys.readouterr().out.splitlines()[0].split()
    assert "kept" in heading and "real" not in heading
    data: dict[str, Any] = json.loads((tmp_path / "e.json").read_text())
    assert data["settings"]["task"] == "edit"
    exact, golden = data["runs"]
    assert exact["region"]["kept"] == golden["region"]["kept"] == 1
    assert exact["region"]["frechet_float"] is None
    assert 0 < golden["region"]["frechet_float"] < 20 < golden["region"]["psnr_db"] < 60
    assert 0.4 < golden["region"]["tokens"] < 1 and 0.005 < golden["forced"]["kl_nats"] < 0.1
    means = data["summary"]["preset:fp4"]["golden"]
    assert means["region.tokens"]["mean"] == golden["region"]["tokens"]
    # The given images are those of a run that nothing else draws from.
    model = load_subject(SubjectName("digits")).model
    first = read_chunk(tmp_path / "w" / "given" / "seed0", 0)["tokens"]
    alone = generate(model.var, model.vqvae, [1], image_seed(given_seed(0), 1), 1.5)
    assert torch.equal(torch.cat(alone.tokens, 1)[0].int(), first[1])
    # Another task does not mix with these samples.
    assert run([*arguments[:2], "inpaint", *arguments[3:]]) == 2
    assert "holds samples of another run" in capsys.readouterr().err


def test_editing_has_no_imagenet_protocol(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["eval", "--task", "edit", "--protocol", "imagenet"]) == 2
    assert "measures --task generate" in capsys.readouterr().err
