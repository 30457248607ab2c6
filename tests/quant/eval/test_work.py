# SPDX-License-Identifier: Apache-2.0
"""Sampling: the same images from any number of processes, interrupted or not."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from lutvar.quant.eval import work
from lutvar.quant.eval.chunk import make_chunk
from lutvar.quant.eval.settings import SampleSettings, image_labels, image_seed
from lutvar.quant.eval.store import ChunkStore, StoreError
from lutvar.quant.eval.subject import Subject, SubjectName, load_subject
from lutvar.quant.eval.work import Share, Task, WorkError, sample
from lutvar.quant.var import generate

NAME = SubjectName("digits")
SETTINGS = SampleSettings(cfg=1.5, top_k=0, top_p=0.0, chunk=4)
NAMES = ("tokens", "features")


@pytest.fixture(scope="module")
def subject() -> Subject:
    return load_subject(NAME)


def _task(folder: Path, samples: int = 20) -> Task:
    return Task(NAME, SETTINGS, seed=3, samples=samples, folder=folder)


@pytest.fixture(scope="module")
def whole(subject: Subject, tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    """What one process makes in one go."""
    task = _task(tmp_path_factory.mktemp("whole"))
    return sample(task, subject, jobs=1).read(task.chunks, NAMES)


def _same(store: ChunkStore, task: Task, whole: dict[str, torch.Tensor]) -> bool:
    found = store.read(task.chunks, NAMES)
    return all(torch.equal(found[n], whole[n][: len(found[n])]) for n in NAMES)


def test_images_have_their_own_class_and_stream(
    subject: Subject, whole: dict[str, torch.Tensor]
) -> None:
    """Every image is the one that `generate` makes alone from its seed."""
    model = subject.model
    assert image_labels(8, 4, 10) == [8, 9, 0, 1]
    for i in (0, 7, 19):
        alone = generate(model.var, model.vqvae, [i % 10], image_seed(3, i))
        assert torch.equal(torch.cat(alone.tokens, 1)[0].int(), whole["tokens"][i])
    seeds = {image_seed(s, i) for s in range(3) for i in range(1000)}
    assert len(seeds) == 3000
    with pytest.raises(ValueError, match="seed = 4294: from 0 to 4293"):
        image_seed(4294, 0)
    with pytest.raises(ValueError, match="at most 1,000,000 images"):
        image_seed(0, 1_000_000)


def test_other_batches_give_the_same_tokens(
    subject: Subject, whole: dict[str, torch.Tensor]
) -> None:
    """Rounding may differ between batches of different size; draws do not.

    Where two candidates are nearly equal, rounding may decide; that changes one image.
    """
    large = replace(SETTINGS, chunk=20)
    judge = subject.model.classifier()
    made = make_chunk(subject, judge, large, 3, 0)
    same = (made["tokens"] == whole["tokens"]).all(1)
    assert same.sum() >= 19
    features = made["features"][same], whole["features"][same]
    torch.testing.assert_close(*features, rtol=1e-3, atol=1e-3)


def test_ranks_of_torchrun(
    subject: Subject, whole: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    assert Share.of_torchrun({}) == Share(0, 1)
    shares = [Share.of_torchrun({"RANK": str(r), "WORLD_SIZE": "3"}) for r in range(3)]
    task = _task(tmp_path)
    for share in reversed(shares):
        store = sample(task, subject, jobs=1, share=share, wait=5)
    assert _same(store, task, whole)
    with pytest.raises(ValueError, match="RANK = 2, WORLD_SIZE = 2"):
        Share.of_torchrun({"RANK": "2", "WORLD_SIZE": "2"})


def test_rank_0_does_not_wait_forever(subject: Subject, tmp_path: Path) -> None:
    task = _task(tmp_path)
    sample(task, subject, jobs=1, share=Share(1, 3))
    before = time.monotonic()
    with pytest.raises(WorkError, match=r"1 of 5 chunks are missing .* for 0\.3 s \(ranks 2\)"):
        sample(task, subject, jobs=1, share=Share(0, 3), wait=0.3)
    assert time.monotonic() - before < 20


def test_more_samples_later(
    subject: Subject, whole: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    """A run of 6 images is the beginning of one of 20; what is there is not made again."""
    few, all_of_them = _task(tmp_path, 6), _task(tmp_path)
    sample(few, subject, jobs=1)
    times = {p: p.stat().st_mtime_ns for p in tmp_path.glob("chunk-*")}
    assert len(times) == 2
    store = sample(all_of_them, subject, jobs=1)
    assert _same(store, all_of_them, whole)
    assert all(p.stat().st_mtime_ns == t for p, t in times.items())


def test_resume_after_an_interrupt_inside_a_chunk(
    subject: Subject,
    whole: dict[str, torch.Tensor],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    task = _task(tmp_path)
    model, calls = subject.model.var, []

    def hook(scale: int) -> None:
        calls.append(scale)
        if len(calls) == 10:  # in the third chunk, at its second scale
            raise KeyboardInterrupt

    monkeypatch.setattr(model, "step_hook", hook)
    with pytest.raises(KeyboardInterrupt):
        sample(task, subject, jobs=1)
    assert model.step_hook is hook  # what was installed before stays
    monkeypatch.setattr(model, "step_hook", None)
    store = task.store(subject)
    assert store.missing(task.chunks) == [2, 3, 4]
    assert not list(tmp_path.glob(".*"))
    assert _same(sample(task, subject, jobs=1), task, whole)


def test_resume_after_an_interrupt_between_chunks(
    subject: Subject, whole: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    task = _task(tmp_path)

    seen: list[tuple[int, int]] = []

    def progress(done: int, total: int) -> None:
        seen.append((done, total))
        if done == 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sample(task, subject, jobs=1, progress=progress)
    assert seen == [(0, 20), (4, 20), (8, 20)]
    assert task.store(subject).missing(task.chunks) == [2, 3, 4]
    assert _same(sample(task, subject, jobs=1), task, whole)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "code", "word"),
    [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")],
    ids=["ctrl-c", "kill"],
)
def test_two_processes_told_to_stop(
    number: int, code: int, word: str,
    subject: Subject, whole: dict[str, torch.Tensor], tmp_path: Path, ctrl_c: None,
) -> None:  # fmt: skip
    """A real run with two jobs, interrupted: the images of one process, and whole files only."""
    command = "from lutvar.cli.main import main; main()"
    arguments = ("eval", "--samples", "4000", "--seed", "3", "--chunk", "4", "--jobs", "2")
    task = _task(tmp_path / "float" / "seed3")
    wanted = [task.folder / f"chunk-{c:06d}.safetensors" for c in task.chunks]
    with subprocess.Popen(
        [sys.executable, "-c", command, *arguments, "--work", str(tmp_path)],
        env={**os.environ, "OMP_NUM_THREADS": "1"}, stderr=subprocess.PIPE, text=True,
    ) as run:  # fmt: skip
        try:
            deadline = time.monotonic() + 300
            while not all(p.exists() for p in wanted) and run.poll() is None:
                assert time.monotonic() < deadline, "the chunks do not come"
                time.sleep(0.05)
            run.send_signal(number)
            # The pipe ends when the last process that holds it ends: the two workers as well.
            _, text = run.communicate(timeout=120)
        finally:
            run.kill()
    assert run.returncode == code and word in text and "Traceback" not in text
    names = {p.name for p in task.folder.iterdir()}
    assert {p.name for p in wanted} <= names
    assert not [n for n in names if n.endswith(".tmp")]
    assert _same(sample(task, subject, jobs=1), task, whole)


def test_a_failing_process_is_reported(tmp_path: Path) -> None:
    task = replace(_task(tmp_path), name=SubjectName("no-such-model"))
    with pytest.raises(WorkError, match="ended with code 1: ModelError: unknown model"):
        work._start_jobs(task, 1, Share(), lambda: None)


@pytest.mark.parametrize(
    ("other", "named"),
    [
        ({"seed": 4}, "seed: 3 there, 4 now"),
        ({"settings": replace(SETTINGS, cfg=2.0)}, "settings: .*'cfg': 1.5.*'cfg': 2.0"),
        ({"settings": replace(SETTINGS, chunk=5)}, "settings: .*'chunk': 4.*'chunk': 5"),
    ],
)
def test_foreign_folder(
    subject: Subject, tmp_path: Path, other: dict[str, object], named: str
) -> None:
    task = _task(tmp_path, 4)
    sample(task, subject, jobs=1)
    with pytest.raises(StoreError, match=rf"another run \({named}"):
        sample(replace(task, **other), subject, jobs=1)  # type: ignore[arg-type]
    with pytest.raises(StoreError, match=r"method: 'float, .*' there, 'x' now"):
        sample(task, replace(subject, fingerprint="x"), jobs=1)


def test_damaged_folder(subject: Subject, tmp_path: Path) -> None:
    task = _task(tmp_path, 4)
    store = sample(task, subject, jobs=1)
    data = store.path(0).read_bytes()
    store.path(0).write_bytes(data[: len(data) // 2])
    with pytest.raises(StoreError, match=r"chunk-000000\.safetensors: missing or damaged"):
        store.read([0], NAMES)
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(StoreError, match="damaged"):
        task.store(subject)
    (tmp_path / "run.json").unlink()
    with pytest.raises(StoreError, match=r"holds files but no run\.json"):
        task.store(subject)
