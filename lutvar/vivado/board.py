# SPDX-License-Identifier: Apache-2.0
"""What the flow knows about the VCK190: part, addresses, memories and their bandwidth."""

from __future__ import annotations

from dataclasses import dataclass

PART = "xcvc1902-vsva2197-2MP-e-S"
#: Vivado chooses the newest version that it has.
BOARD = "xilinx.com:vck190:part0"

#: M_AXI_FPD of the processing system reaches the fabric from here, 192 MiB.
CONTROL_BASE = 0xA400_0000
CONTROL_WINDOW = 192 << 20
#: pl_ps_irq0 is interrupt 116 of the A72's GIC; a device tree counts from the first shared one.
INTERRUPT_SPI = 116 - 32

#: MB/s that a port of the network-on-chip can be promised in each direction: a physical link
#: carries 16.0 GB/s of reads and 15.06 GB/s of writes in bursts of 256 bytes.
LINK_MBPS = 15_000
#: Ports of one NoC cell (`axi_noc`) that masters are connected to, at most.
NOC_INPUTS = 16
#: Asked for where a port hardly uses a memory: a path, and a share worth the name.
LEAST_MBPS = 50
#: Part of a memory's peak that all ports together may ask for, the processing system's too.
EFFICIENCY = 0.8


@dataclass(frozen=True)
class PsPort:
    """A port of the processing system on the network-on-chip, and what it asks of each memory.

    Attributes:
        interface, clock: of the CIPS cell.
        category: as the NoC calls it.
        mbps: in each direction. A promise for host transfers, not a limit: what the accelerator
            leaves is free.
    """

    interface: str
    clock: str
    category: str
    mbps: int


#: AMD's extensible platform asks for 128 MB/s on the four cache-coherent ports, 5 on the others.
PS_PORTS = (
    *(PsPort(f"FPD_CCI_NOC_{i}", f"fpd_cci_noc_axi{i}_clk", "ps_cci", 128) for i in range(4)),
    PsPort("LPD_AXI_NOC_0", "lpd_axi_noc_clk", "ps_rpu", 5),
    PsPort("PMC_NOC_AXI_0", "pmc_axi_noc_axi0_clk", "ps_pmc", 5),
)
#: MB/s that the processing system asks of each memory, both directions.
PS_MBPS = sum(2 * port.mbps for port in PS_PORTS)


@dataclass(frozen=True)
class Memory:
    """One address range behind one cell of memory controllers.

    Attributes:
        windows: (first address, bytes), as the controllers' regions define them.
        peak_mbps: of all its controllers.
        ports: of the cell, MC_0 and up.
    """

    name: str
    windows: tuple[tuple[int, int], ...]
    peak_mbps: int
    ports: int = 4

    @property
    def usable_mbps(self) -> int:
        return int(self.peak_mbps * EFFICIENCY)


MEMORIES: dict[str, Memory] = {
    m.name: m
    for m in (
        # A DIMM of 64 bits at 3200 MT/s; 2 GiB low, 6 GiB high.
        Memory("ddr4", ((0, 2 << 30), (0x8_0000_0000, 6 << 30)), 25_600),
        # Two controllers of 2 x 32 bits at 3906 MT/s, interleaved to one range: the controllers by
        # 4 KiB, the channels of each by 256 bytes.
        Memory("lpddr4", ((0x500_0000_0000, 8 << 30),), 62_500),
    )
}
