# SPDX-License-Identifier: Apache-2.0
"""From bytes in a cycle to what the network-on-chip is asked for, port by port."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from lutvar.contract.accelerator import AcceleratorConfig, load_accelerator
from lutvar.contract.isa import Region
from lutvar.contract.register_map import WRITE_PORTS, read_ports

from .board import LEAST_MBPS, LINK_MBPS, MEMORIES, PS_MBPS
from .traffic import flows

#: Where each region lies. The driver places all of them in one buffer; `split` needs a driver
#: that sets the base registers to two.
PLACEMENTS: dict[str, dict[Region, str]] = {
    "lpddr4": dict.fromkeys(Region, "lpddr4"),
    "ddr4": dict.fromkeys(Region, "ddr4"),
    "split": {
        Region.MODEL: "lpddr4",
        Region.CACHE: "lpddr4",
        Region.WORK: "ddr4",
        Region.IO: "ddr4",
    },
}


@dataclass(frozen=True)
class Connection:
    """A port's path to a memory.

    Attributes:
        channel: port of the memory controllers, MC_<channel>.
        read, write: MB/s.
    """

    port: str
    memory: str
    channel: int
    read: int
    write: int


@dataclass(frozen=True)
class Plan:
    """All connections, and the part of the wish that each memory can grant (1 if all of it)."""

    connections: tuple[Connection, ...]
    granted: Mapping[str, float]

    def total(self, memory: str) -> int:
        """MB/s that all ports together ask of a memory, those of the processing system too."""
        mine = sum(c.read + c.write for c in self.connections if c.memory == memory)
        return mine + PS_MBPS


def plan(config: AcceleratorConfig, placement: Mapping[Region, str], mhz: float) -> Plan:
    """Every port to every memory: the base registers decide at run time what is where.

    A port and direction asks for what `traffic.flows` finds at `mhz`, at most a link's bandwidth;
    if a memory cannot grant all of that, for the same part of it on each port.
    """
    ports = read_ports(config.weight_ports)
    wanted: dict[tuple[str, str, bool], float] = {}
    for flow, rate in flows(config).items():
        key = flow.port, placement[flow.region], flow.write
        wanted[key] = wanted.get(key, 0.0) + rate * mhz
    for port in ports:
        for writes in (False, True):
            keys = [k for k in wanted if k[0] == port and k[2] == writes]
            factor = min(1.0, LINK_MBPS / (sum(wanted[k] for k in keys) or 1.0))
            for key in keys:
                wanted[key] *= factor

    connections, granted = [], {}
    for name, memory in MEMORIES.items():
        paths = {
            port: (
                wanted.get((port, name, False), 0.0),
                wanted.get((port, name, True), 0.0) if port in WRITE_PORTS else 0.0,
            )
            for port in ports
        }
        total = sum(map(sum, paths.values()))
        # The least shares come off the top, so that the sum never passes the limit.
        least = LEAST_MBPS * (len(ports) + len(WRITE_PORTS))
        room = memory.usable_mbps - PS_MBPS - least
        granted[name] = factor = min(1.0, room / (total or 1.0))
        channels = _spread({port: sum(path) for port, path in paths.items()}, memory.ports)
        for port, (read, write) in paths.items():
            floor = LEAST_MBPS if port in WRITE_PORTS else 0
            connections.append(
                Connection(
                    port,
                    name,
                    channels[port],
                    max(LEAST_MBPS, int(read * factor)),
                    max(floor, int(write * factor)),
                )
            )
    order = {port: i for i, port in enumerate(ports)}
    connections.sort(key=lambda c: (order[c.port], c.memory))
    return Plan(tuple(connections), granted)


def summary(wished: Plan) -> list[str]:
    """A line for each memory."""
    return [
        f"{name}: {wished.total(name)} of {memory.usable_mbps} MB/s, "
        f"{wished.granted[name]:.0%} of what the ports could use"
        for name, memory in MEMORIES.items()
    ]


def request_rows() -> list[str]:
    """The table of what is asked for on the flow's page, one Markdown row each."""
    rows = []
    for name in ("vck190-fp4", "vck190-latency-fp4", "vck190-fp6"):
        for placement in ("lpddr4", "split"):
            for mhz in (200, 250):
                asked = plan(load_accelerator(name), PLACEMENTS[placement], mhz)
                cells = [
                    f"{asked.total(memory):,} of {MEMORIES[memory].usable_mbps:,}, "
                    f"{asked.granted[memory]:.0%}"
                    for memory in ("lpddr4", "ddr4")
                ]
                rows.append(f"| {name} | {placement} | {mhz} | {' | '.join(cells)} |")
    return rows


def _spread(load: Mapping[str, float], channels: int) -> dict[str, int]:
    """Channels of the controllers: the largest load first, to the channel that has least."""
    sums, found = [0.0] * channels, {}
    for port in sorted(load, key=lambda p: -load[p]):
        channel = sums.index(min(sums))
        sums[channel] += max(load[port], 1.0)
        found[port] = channel
    return found
