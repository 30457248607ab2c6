# SPDX-License-Identifier: Apache-2.0
"""What a candidate is worth: resources against limits, then speed from the cycle model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from pydantic import ValidationError

from lutvar.contract.accelerator import AcceleratorConfig
from lutvar.contract.register_map import read_ports
from lutvar.contract.shape import TransformerShape
from lutvar.contract.unit_costs import UnitPoint
from lutvar.host.compile.errors import CompileError
from lutvar.sim.model.many import Request, estimate_one
from lutvar.sim.model.model import Estimate
from lutvar.sim.model.resources import DEVICE, KINDS, Resources, resources

from .quality import Quality
from .space import CLOCK, RECIPE, Limits, Space, Value, Values

#: Objectives, and whether more is better.
OBJECTIVES = {"latency": False, "throughput": True, "per_lut": True, "kl": False}
#: What stands for a candidate that breaks a limit; such ones are told apart by their excess.
_WORST = {"latency": 1e6, "throughput": 0.0, "per_lut": 0.0}
#: Excess of a candidate whose values exclude each other, or which cannot run the model at all.
_IMPOSSIBLE = 10.0


@dataclass(frozen=True)
class Task:
    """What all candidates of an exploration are judged by.

    Attributes:
        quality: of each recipe of the space, by name.
        guided: with guidance, which doubles the rows of a pass.
        points: synthesised units; None: those that come with the package.
    """

    space: Space
    model: str
    shape: TransformerShape
    quality: Mapping[str, Quality] = field(default_factory=dict)
    guided: bool = True
    points: tuple[UnitPoint, ...] | None = None

    @property
    def objectives(self) -> list[str]:
        """Names; KL is one where recipes can differ in it."""
        return [n for n in OBJECTIVES if n != "kl" or len(self.space.recipes) > 1]


@dataclass(frozen=True)
class Worth:
    """A candidate's figures; all speeds are modelled.

    Attributes:
        values: the candidate.
        excess: constraint -> share by which the limit is passed; at most 0 is within it.
        reason: why there are no figures.
        used: resources. synthesised: every unit was synthesised at this size.
        latency: seconds of one image alone. single, throughput: images a second alone, and
            staggered with one image at each scale. stagger_latency: seconds of an image then.
        gbs: mean GB/s of memory traffic, alone and staggered, the larger.
        link_gbs: the same of the busiest port and direction.
        bound: the limiting resource, alone and staggered.
        kl: of the recipe, nat; 0 without one.
    """

    values: dict[str, Value]
    excess: dict[str, float]
    reason: str = ""
    used: dict[str, int] = field(default_factory=dict)
    synthesised: bool = False
    latency: float = _WORST["latency"]
    single: float = 0.0
    throughput: float = 0.0
    stagger_latency: float = 0.0
    gbs: float = 0.0
    link_gbs: float = 0.0
    bound: tuple[str, ...] = ()
    kl: float = 0.0

    @property
    def feasible(self) -> bool:
        """Within every limit."""
        return all(excess <= 0 for excess in self.excess.values())

    @property
    def per_lut(self) -> float:
        """Images a second, staggered, for each million LUTs."""
        return self.throughput / self.used["lut"] * 1e6 if self.used.get("lut") else 0.0

    def objective(self, name: str) -> float:
        """The value of an objective; the worst there is for a candidate outside the limits."""
        if not self.feasible and name in _WORST:
            return _WORST[name]
        return float(getattr(self, name))

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON, and for `of`."""
        return {**asdict(self), "bound": list(self.bound), "per_lut": self.per_lut}

    @classmethod
    def of(cls, raw: Mapping[str, Any]) -> Worth:
        """From the plain data of `as_dict`."""
        data = {key: value for key, value in raw.items() if key != "per_lut"}
        return cls(**{**data, "bound": tuple(data["bound"])})


def evaluate(task: Task, values: Values) -> Worth:
    """The worth of a candidate. The cycle model runs only where the resources fit."""
    limits = task.space.limits
    try:
        config = task.space.config(values, task.quality, "candidate")
    except ValidationError as error:
        why = str(error.errors()[0]["msg"]).removeprefix("Value error, ")
        return Worth(dict(values), {"rules": _IMPOSSIBLE}, why)
    kl = task.quality[str(values[RECIPE])].kl if task.space.recipes else 0.0
    found = resources(config, task.points)
    excess = _excess(config, found, limits)
    if limits.max_kl is not None:
        excess["kl"] = kl / limits.max_kl - 1
    used = {kind: found.total(kind) for kind in KINDS}
    worth = Worth(dict(values), excess, used=used, synthesised=found.synthesised, kl=kl)
    missing = [line.unit for line in found.lines if line.how == "missing"]
    if missing:
        excess["synthesis"] = _IMPOSSIBLE
        return replace(worth, reason=f"not synthesised: {', '.join(missing)}")
    if not worth.feasible:
        return worth
    try:
        alone, staggered = _estimates(task, config, values)
    except CompileError as error:
        return replace(worth, excess=excess | {"model": _IMPOSSIBLE}, reason=str(error))
    gbs = max(alone.gigabytes_per_second, staggered.gigabytes_per_second)
    link = max(_busiest(alone), _busiest(staggered))
    return replace(
        worth,
        excess=excess | {"memory": gbs / limits.memory_gbs - 1, "link": link / limits.link_gbs - 1},
        latency=alone.latency,
        single=alone.images_per_second,
        throughput=staggered.images_per_second,
        stagger_latency=staggered.latency,
        gbs=gbs,
        link_gbs=link,
        bound=(alone.bound, staggered.bound),
    )


def _excess(config: AcceleratorConfig, found: Resources, limits: Limits) -> dict[str, float]:
    """What can be said before the cycle model runs."""
    excess = {
        kind: found.total(kind) / (DEVICE[kind][0] * getattr(limits, kind)) - 1 for kind in KINDS
    }
    return excess | {"noc_ports": len(read_ports(config.weight_ports)) / limits.noc_ports - 1}


def _estimates(task: Task, config: AcceleratorConfig, values: Values) -> tuple[Estimate, Estimate]:
    """One image alone, and images staggered over the scales."""
    request = Request(
        config, task.shape, task.model, "single", guided=task.guided, clock=float(values[CLOCK]),
        quant=task.space.model_preset(values, task.quality, config.quant),
    )  # fmt: skip
    return estimate_one(request), estimate_one(replace(request, schedule="stagger"))


def _busiest(estimate: Estimate) -> float:
    """GB/s of the port and direction with most traffic, on average."""
    sizes: dict[str, float] = {}
    for part in estimate.passes:
        for port, size in part.traffic.items():
            sizes[port] = sizes.get(port, 0.0) + size
    return max(sizes.values()) / (estimate.cycles / (estimate.clock * 1e6)) / 1e9
