# SPDX-License-Identifier: Apache-2.0
"""Groups that take turns: the same images, host and device both at work, errors that end all."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from lutvar.host.compile.packed import PackedTransformer
from lutvar.host.device import Device
from lutvar.host.device_decoder import DecodeReport
from lutvar.host.errors import BadInput
from lutvar.host.generate import Generated, HostModel, generate
from lutvar.host.overlap import Unfinished, generate_overlapped
from lutvar.host.session import Session
from lutvar.host.transformer import DeviceTransformer, PassReport
from lutvar.sim.golden_device import GoldenDevice
from lutvar.times import Times
from support.host.decoder_cases import accelerator, packed, quantized
from support.host.host_cases import host_model

CONFIG = accelerator()
LABELS = [0, 1, None, 2, -1, 1]
SEEDS = [3, 4, 5, 6, 7, 8]
HOW: dict[str, Any] = {"cfg": 1.5, "top_k": 40, "top_p": 0.9}
SOON = 60.0  #: seconds after which something will not happen any more


@cache
def image() -> PackedTransformer:
    return packed(CONFIG, quantized(CONFIG, "straight"))


@contextmanager
def opened(slots: int, groups: int = 1, **more: Any) -> Iterator[DeviceTransformer]:
    with Session(GoldenDevice(CONFIG), image(), slots=slots, groups=groups, **more) as session:
        yield session.transformer


@cache
def one_by_one() -> list[Generated]:
    with opened(1) as device:
        return generate(
            host_model(), device, LABELS, SEEDS, **HOW, slots=1, decode=device.decoders[0]
        )


def assert_same(made: list[Generated], right: list[Generated]) -> None:
    assert len(made) == len(right)
    for mine, theirs in zip(made, right, strict=True):
        for a, b in zip(mine.tokens, theirs.tokens, strict=True):
            np.testing.assert_array_equal(a, b)
        np.testing.assert_array_equal(mine.latent, theirs.latent)
        if mine.image is not None and theirs.image is not None:
            np.testing.assert_array_equal(mine.image, theirs.image)


def test_images_differ() -> None:
    """Else nothing here could fail."""
    pictures = [one.image for one in one_by_one()]
    assert all(np.ptp(a) > 0 for a in pictures if a is not None)
    assert len({a.tobytes() for a in pictures if a is not None}) == len(LABELS)


@pytest.mark.parametrize(
    ("slots", "stagger", "decode"), [(4, 1, True), (6, 0, False), (3, 2, False), (2, 6, False)]
)
def test_staggered_images_are_those_of_one_after_the_other(
    slots: int, stagger: int, decode: bool
) -> None:
    """Finished images are decoded between the passes of the others."""
    reports: list[PassReport] = []
    seen: list[tuple[int, int]] = []
    with opened(slots, on_pass=reports.append) as device:
        made = generate(
            host_model(), device, LABELS, SEEDS, **HOW, slots=slots, stagger=stagger,
            decode=device.decoders[0] if decode else None,
            progress=lambda *done: seen.append(done),
        )  # fmt: skip
    assert_same(made, one_by_one())
    assert all((one.image is not None) == decode for one in made)
    assert seen == [(i + 1, 6) for i in range(6)]
    scales = max(len({step.tokens for step in report.steps}) for report in reports)
    assert scales == {0: 1, 1: 4, 2: 2, 6: 1}[stagger]


@pytest.mark.parametrize(("groups", "slots", "stagger"), [(2, 8, 1), (3, 5, 2)])
def test_overlapped_images_are_those_of_one_after_the_other(
    groups: int, slots: int, stagger: int
) -> None:
    times, reports, decodes = Times(), list[PassReport](), list[DecodeReport]()
    with opened(slots, groups, on_pass=reports.append) as device:
        assert len(device.decoders) == groups
        for decoder in device.decoders:
            decoder.on_image = decodes.append
        made = generate_overlapped(
            host_model(), device, LABELS, SEEDS, **HOW, times=times, groups=groups, slots=slots,
            stagger=stagger, decoders=device.decoders,
        )  # fmt: skip
        assert device.device.register("ERROR") == 0
    assert_same(made, one_by_one())
    assert all(one.image is not None for one in made)
    assert len(decodes) == 6 and sum(len(report.steps) for report in reports) == 6 * 4
    for report in reports:  # a group's slots are its own
        assert len({step.slot % groups for step in report.steps}) == 1
    assert {step.slot % groups for r in reports for step in r.steps} == set(range(groups))
    assert times.seconds.keys() == {
        "embeddings", "transformer", "sampling", "feature map", "decoder",
    }  # fmt: skip


def test_one_decoder_for_all_is_locked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its maps are for one image at a time, and IO changes hands between its programs."""
    with opened(3, 1) as device:
        decoder, inside, most = device.decoders[0], 0, 0
        begin = decoder._begin

        def counted(latent: NDArray[np.float32]) -> None:
            nonlocal inside, most
            inside += 1
            most = max(most, inside)
            begin(latent)

        def left(_report: DecodeReport) -> None:
            nonlocal inside
            inside -= 1

        decoder.on_image = left
        monkeypatch.setattr(decoder, "_begin", counted)
        made = generate_overlapped(
            host_model(), device, LABELS[:3], SEEDS[:3], **HOW, groups=3, decoders=[decoder]
        )
    assert_same(made, one_by_one()[:3])
    assert all(one.image is not None for one in made) and most == 1 and inside == 0


class Watched:
    """Calls of the host's share and of the device, by group."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.host: Callable[[int, int], None] = lambda _group, _call: None
        self.device: Callable[[int, int], None] = lambda _group, _call: None
        self._calls: dict[tuple[str, int], int] = {}
        run, spread = Device.run, HostModel.spread

        def watched_run(device: Device, *args: Any) -> Any:
            with device.turns:
                self._count("device", self.device)
                return run(device, *args)

        def watched_spread(model: HostModel, *args: Any) -> Any:
            self._count("host", self.host)
            return spread(model, *args)

        monkeypatch.setattr(Device, "run", watched_run)
        monkeypatch.setattr(HostModel, "spread", watched_spread)

    def _count(self, what: str, call: Callable[[int, int], None]) -> None:
        group = int(threading.current_thread().name.rpartition(" ")[2])
        self._calls[what, group] = number = self._calls.get((what, group), 0) + 1
        call(group, number)


def test_a_group_has_the_device_while_the_host_works_for_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Order of events: group 2's second pass begins and ends inside group 1's host work."""
    watched, blocked, ran = Watched(monkeypatch), threading.Event(), threading.Event()

    def host(group: int, call: int) -> None:
        if (group, call) == (1, 1):
            blocked.set()
            assert ran.wait(SOON)
        if (group, call) == (2, 2):
            ran.set()

    def device(group: int, call: int) -> None:
        if (group, call) == (2, 2):
            assert blocked.wait(SOON)

    watched.host, watched.device = host, device
    with opened(2, 2, decode=False) as transformer:
        made = generate_overlapped(host_model(), transformer, [0, 1], [3, 4], **HOW, slots=2)
    assert blocked.is_set() and ran.is_set() and len(made) == 2


def test_the_host_works_while_the_device_computes_for_another_group(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Group 1's second pass does not end before the host has worked for group 2."""
    watched, running, worked = Watched(monkeypatch), threading.Event(), threading.Event()

    def host(group: int, call: int) -> None:
        if (group, call) == (2, 1):
            assert running.wait(SOON)
            worked.set()

    def device(group: int, call: int) -> None:
        if (group, call) == (1, 2):
            running.set()
            assert worked.wait(SOON)

    watched.host, watched.device = host, device
    with opened(2, 2, decode=False) as transformer:
        made = generate_overlapped(host_model(), transformer, [0, 1], [3, 4], **HOW, slots=2)
    assert running.is_set() and worked.is_set() and len(made) == 2


def no_threads_left() -> bool:
    return not any(t.name.startswith("lutvar group") for t in threading.enumerate())


@pytest.mark.parametrize("where", ["host", "device"])
def test_an_error_in_one_thread_ends_all(monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    """It is the error that is raised; the device is idle, and makes right images afterwards."""
    watched = Watched(monkeypatch)

    def fail(group: int, call: int) -> None:
        if (group, call) == (2, 2):
            raise MemoryError("no more")

    setattr(watched, where, fail)
    with opened(4, 2) as transformer:
        with pytest.raises(MemoryError, match="no more"):
            generate_overlapped(
                host_model(), transformer, LABELS, SEEDS, **HOW, slots=4,
                decoders=transformer.decoders,
            )  # fmt: skip
        assert no_threads_left() and transformer.device._field("CTRL", "idle")
        monkeypatch.undo()
        made = generate(
            host_model(), transformer, LABELS[:1], SEEDS[:1], **HOW, decode=transformer.decoders[1]
        )
    assert_same(made, one_by_one()[:1])


def test_ctrl_c_ends_all_and_aborts_the_program_that_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """The caller's thread is interrupted while the device computes."""
    wait, begun = GoldenDevice.wait, threading.Event()

    def endless(device: GoldenDevice, amount: float) -> bool:
        if threading.current_thread() is threading.main_thread():
            return wait(device, amount)
        begun.set()
        time.sleep(0.005)
        return False

    def interrupted(self: Any) -> Any:
        assert begun.wait(SOON)
        raise KeyboardInterrupt

    monkeypatch.setattr(GoldenDevice, "wait", endless)
    with opened(2, 2, decode=False) as transformer:
        with monkeypatch.context() as patch:
            patch.setattr("lutvar.host.overlap.SimpleQueue", _queue(interrupted))
            with pytest.raises(KeyboardInterrupt):
                generate_overlapped(host_model(), transformer, [0, 1], [3, 4], **HOW, slots=2)
        assert no_threads_left() and transformer.device._field("CTRL", "idle")
        monkeypatch.undo()
        assert len(generate(host_model(), transformer, [0], [3], **HOW, slots=1)) == 1


def _queue(get: Callable[[Any], Any]) -> Any:
    class Interrupted:
        def put(self, _item: object) -> None:
            pass

    Interrupted.get = get  # type: ignore[attr-defined]
    return Interrupted


def test_a_thread_that_does_not_end_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    watched, stuck, go = Watched(monkeypatch), threading.Event(), threading.Event()

    def host(group: int, call: int) -> None:
        if group == 1:
            stuck.set()
            go.wait(SOON)
        elif call == 1:
            assert stuck.wait(SOON)
            raise ValueError("the first")

    watched.host = host
    try:
        with opened(2, 2, decode=False) as transformer:
            with pytest.raises(
                Unfinished, match=r"ValueError: the first. 0.1 s .* have not ended: 1;"
            ) as caught:
                generate_overlapped(
                    host_model(), transformer, [0, 1], [3, 4], **HOW, slots=2, deadline=0.1
                )
            assert caught.value.groups == (1,) and transformer.device.turns.stopped
    finally:
        go.set()
    end = time.monotonic() + SOON
    while not no_threads_left():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_what_is_refused() -> None:
    with opened(2, 2, decode=False) as device:
        for how, message in (
            ({"groups": 3, "slots": 2}, "3 groups of images with 2 slots"),
            ({"groups": 2, "stagger": -1}, "stagger -1"),
            ({"groups": 0}, "groups 0"),
        ):
            with pytest.raises(BadInput, match=message):
                generate_overlapped(host_model(), device, [0, 1], [3, 4], **how)  # type: ignore[arg-type]
        with pytest.raises(BadInput, match="class 9"):
            generate_overlapped(host_model(), device, [0, 9], [3, 4])
        with pytest.raises(BadInput, match="slots 0"):
            generate(host_model(), device, [0], [3], slots=0)
        need = device.device._regions.program  # type: ignore[union-attr]
    small = Device(GoldenDevice(CONFIG, size=need - 4096), CONFIG)
    small.open()
    with pytest.raises(BadInput, match=r"2 groups with 2 slots need [\d,]+ bytes .*fewer slots"):
        DeviceTransformer(small, image(), 2, groups=2, decode=False)


def test_maps_of_several_groups_that_do_not_fit_are_refused() -> None:
    with opened(2, 2) as device:
        need = device.device._regions.program  # type: ignore[union-attr]
    small = Device(GoldenDevice(CONFIG, size=need - (1 << 16)), CONFIG)
    small.open()
    with pytest.raises(BadInput, match=r"group 2 of 2: .*maps of 8 x 8 pixels take \d+ bytes"):
        DeviceTransformer(small, image(), 2, groups=2)
    DeviceTransformer(small, image(), 1)
