# SPDX-License-Identifier: Apache-2.0
"""Progress in a log file: whole lines, now and then."""

from __future__ import annotations

import pytest

from lutvar import progress


def test_no_carriage_returns_in_a_log(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = 0.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    with progress.progress_bar("train", 100, initial=10) as bar:
        update = progress.as_callback(bar)
        for done in (11, 12, 50, 100):
            now += 10
            bar.set_postfix_str(f"loss={done}")
            update(done, 100)
    assert capsys.readouterr().err.splitlines() == [
        "train: 12 of 100 steps after 20 s, loss=12",
        "train: 100 of 100 steps after 40 s, loss=100",
    ]


def test_a_short_or_hidden_run_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    for show in (True, False):
        with progress.progress_bar("short", show=show) as bar:
            bar.set_description("other")
            bar.update(3)
        assert bar.n == 3
    assert not capsys.readouterr().err
