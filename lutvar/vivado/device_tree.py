# SPDX-License-Identifier: Apache-2.0
"""The device tree fragment: registers and interrupt for UIO, a data buffer for u-dma-buf."""

from __future__ import annotations

from .board import INTERRUPT_SPI, MEMORIES

ALIGNMENT = 2 << 20  #: of the buffer; Linux's contiguous allocator wants more than a page
#: What the kernel's command line has to hold. UIO takes the node by its compatible; and no driver
#: claims PL0, the accelerator's clock, which Linux would otherwise switch off as unused.
KERNEL_ARGUMENTS = "uio_pdrv_genirq.of_id=generic-uio clk_ignore_unused"

TEMPLATE = """\
// SPDX-License-Identifier: Apache-2.0
// Generated for {name}, configuration {digest}. Include it from the boot device tree (with
// PetaLinux: system-user.dtsi), whose root has two address and two size cells. The bus labelled
// amba is in the trees of PetaLinux and in those made from a system device tree, and says whose
// interrupts are counted here. The kernel needs
//     {arguments}
// on its command line, and the modules uio_pdrv_genirq and u-dma-buf.
/ {{
{memory}	reserved-memory {{
		#address-cells = <2>;
		#size-cells = <2>;
		ranges;

		lutvar_pool: lutvar-pool@{pool:x} {{
			compatible = "shared-dma-pool";
			reusable;
			reg = <{pool_cells} {size_cells}>;
		}};
	}};

	// Nothing snoops the A72's caches: sync before a start and after the end. The accelerator has
	// 64-bit addresses; the default mask of 32 bits would refuse this pool.
	lutvar_buffer: lutvar-buffer {{
		compatible = "ikwzm,u-dma-buf";
		device-name = "lutvar-buffer";
		size = <{size_cells}>;
		dma-mask = <64>;
		sync-mode = <1>;
		memory-region = <&lutvar_pool>;
	}};
}};

&amba {{
	// The A72 sees an uncached mapping: 32-bit accesses only.
	lutvar_control: lutvar@{control:x} {{
		compatible = "generic-uio";
		reg = <{control_cells} {range_cells}>;
		interrupts = <0 {spi} 4>;
		// For the driver's deadlines; a build in Vivado writes the frequency that PL0 has.
		clock-frequency = <{hertz}>;
		linux,uio-name = "lutvar";
	}};
}};
"""
MEMORY = """\
	// Linux manages the pool, so it must know this memory. Only for trees that lack the range.
	memory@{base:x} {{
		device_type = "memory";
		reg = <{base_cells} {size_cells}>;
	}};

"""


def cells(value: int) -> str:
    """A 64-bit number as two cells."""
    return f"0x{value >> 32:x} 0x{value & 0xFFFF_FFFF:x}"


def pool(memory: str, size: int) -> int:
    """Address of the buffer: the start of the memory's last window.

    Raises ValueError when `size` is not a multiple of 2 MiB or does not fit.
    """
    base, room = MEMORIES[memory].windows[-1]
    if size <= 0 or size % ALIGNMENT:
        raise ValueError(f"a buffer of {size} bytes; it must be a multiple of {ALIGNMENT}")
    if size > room:
        raise ValueError(f"a buffer of {size} bytes; {memory} has {room} at 0x{base:x}")
    return base


def device_tree(
    name: str, digest: str, control: int, control_range: int, memory: str, size: int,
    memory_node: bool = False, hertz: int = 200_000_000,
) -> str:  # fmt: skip
    """Text of the fragment.

    Args:
        name, digest: of the configuration.
        control, control_range: address and bytes of the registers.
        memory: where the buffer lies, of `board.MEMORIES`; size: its bytes.
        memory_node: declare that memory to Linux, for trees that do not list it.
        hertz: of the accelerator's clock, as asked for.
    """
    start = pool(memory, size)
    node = ""
    if memory_node:
        base, room = MEMORIES[memory].windows[-1]
        node = MEMORY.format(base=base, base_cells=cells(base), size_cells=cells(room))
    return TEMPLATE.format(
        name=name, digest=digest, memory=node, spi=INTERRUPT_SPI, arguments=KERNEL_ARGUMENTS,
        pool=start, pool_cells=cells(start), size_cells=cells(size),
        control=control, control_cells=cells(control), range_cells=cells(control_range),
        hertz=hertz,
    )  # fmt: skip
