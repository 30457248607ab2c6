# SPDX-License-Identifier: Apache-2.0
"""Labels and sampling settings of the commands that draw."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, Protocol, TypedDict, TypeVar, cast

import click

from lutvar.contract.labels import NO_CLASS, RANDOM, Label

from .common import Number

_F = TypeVar("_F", bound=Callable[..., Any])


class ClassLabel(click.ParamType):  # type: ignore[type-arg]  # not generic in every click
    """A class by its number, "none" for the null class, "random" for one drawn from the seed.

    To click None means that nothing was given: "random" stays a word until `labels_of`.
    """

    name = "class"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> int | str:
        if isinstance(value, int):
            return value
        word = str(value).strip().lower()
        if word == "random":
            return word
        if word == "none":
            return NO_CLASS
        try:
            return int(word)
        except ValueError:
            self.fail(
                f"{value!r} is no class; give its number, none (the null class, also -1) or random",
                param, ctx,
            )  # fmt: skip


def labels_of(given: tuple[int | str, ...]) -> list[Label]:
    """What `generate_passes` takes of the values of `class_option`."""
    return [RANDOM if value == "random" else int(value) for value in given]


def class_option(default: str) -> Callable[[_F], _F]:
    """--class, repeatable, as `labels`. `default`: what none means, for the help text."""
    return click.option(
        "--class",
        "labels",
        type=ClassLabel(),
        multiple=True,
        metavar="N|none|random",
        help="Class to draw; none, -1 or the number of classes is the null class; random draws "
        f"one from the image's seed. Repeat for several. Default: {default}.",
    )


class Defaults(Protocol):
    """A model's own settings: `ModelInfo`, or `HostModel` on a host without PyTorch."""

    @property
    def cfg(self) -> float:
        """Guidance."""

    @property
    def top_k(self) -> int:
        """0 is all."""

    @property
    def top_p(self) -> float:
        """0 is all."""


class Settings(TypedDict):
    """Keyword arguments of `generate_passes`."""

    cfg: float
    top_k: int
    top_p: float
    smooth: bool


@dataclass(frozen=True)
class Sampling:
    """Sampling settings as given; None: the model's own."""

    cfg: float | None
    top_k: int | None
    top_p: float | None
    smooth: bool

    def settings(self, info: Defaults) -> Settings:
        """With the model's own where none was given."""
        return {
            "cfg": info.cfg if self.cfg is None else self.cfg,
            "top_k": info.top_k if self.top_k is None else self.top_k,
            "top_p": info.top_p if self.top_p is None else self.top_p,
            "smooth": self.smooth,
        }


def sampling_options(smooth: bool) -> Callable[[_F], _F]:
    """The options of `Sampling`, which the command gets as `sampling`.

    Args:
        smooth: whether smooth sampling is on by default.
    """
    options = (
        click.option("--cfg", type=float, help="Guidance. Default: the model's."),
        click.option(
            "--top-k",
            type=click.IntRange(0),
            help="Draw among the K most likely tokens, 0 for all. Default: the model's.",
        ),
        click.option(
            "--top-p",
            type=Number(0, 1),
            help="Then among the most likely ones of this total probability, 0 for all. Default: "
            "the model's.",
        ),
        click.option(
            "--smooth/--no-smooth",
            default=smooth,
            help="Put mixtures of codebook entries into the image: smoother, less varied.",
        ),
    )

    def wrap(function: _F) -> _F:
        @functools.wraps(function)
        def call(**values: Any) -> Any:
            sampling = Sampling(**{f.name: values.pop(f.name) for f in fields(Sampling)})
            return function(sampling=sampling, **values)

        result = cast(_F, call)
        for option in reversed(options):
            result = option(result)
        return result

    return wrap
