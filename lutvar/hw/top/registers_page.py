# SPDX-License-Identifier: Apache-2.0
"""``docs/registers.md``, made from the register table.

Run ``python -m lutvar.hw.top.registers_page docs/registers.md`` after a change of the table.
"""

import sys
from pathlib import Path

from lutvar.contract.registers import ADDRESS_BITS, ErrorCode, as_markdown

_ERRORS = {
    ErrorCode.NONE: ("no error", "0"),
    ErrorCode.BAD_ARGUMENT: (
        "a job was started with an argument that breaks a rule; it did not run",
        "offset of the register, the lowest if several are bad",
    ),
    ErrorCode.FRAME_ACT: (
        "TLAST on `s_axis_act` early, or missing on the last beat of the job",
        "beats of the job up to and including the offending one",
    ),
    ErrorCode.FRAME_WGT: ("the same on `s_axis_wgt`", "the same"),
    ErrorCode.NONFINITE: (
        "an activation has FP16 exponent 31",
        "index of its group of 128 within the job, row by row",
    ),
    ErrorCode.STALL: (
        "nothing moved for WATCHDOG cycles while a job was waiting or running",
        "STATE at that moment",
    ),
}

_TEXT = """\
<!-- Generated: python -m lutvar.hw.top.registers_page docs/registers.md -->
# Registers

The control port is AXI4-Lite with 32-bit data and {bits} address bits ({size} bytes). The table in
`lutvar/contract/registers.py` is the source of the gateware's decode, the driver's constants, the
manifest's map and this page.

Byte strobes are obeyed. Bits without a meaning read as 0 and ignore writes. SLVERR answers an
access to an address that is not listed or not a multiple of 4 (data 0), and a write to a read-only
(RO) register.

{registers}
## Starting a job

Write the arguments ROWS to SCALE_EXP, then CTRL.start. The start copies the arguments, so they may
be changed at once for the next job. CTRL.ready says that a job can be queued; a start without it is
ignored. CTRL.done and the reading of it follow the XRT convention. Jobs run in the order of their
starts; the streams carry their packets in the same order. JOBS counts all that have finished.

An argument is good when: ROWS is a positive multiple of T, and ROWS / T * GROUPS fits the
activation bank (otherwise ROWS is the bad register); GROUPS is 1 to `max_groups`; TILES is not 0
unless dumping; the dual flag is set only if the build has a dual format; SCALE_EXP is -32 to 31 as
a signed byte, sign-extended to 32 bits or not.

## Errors

ERROR keeps the first error; of several in one cycle, the lowest code. The core then halts: both
input streams stop within two beats, no new result appears (one that was already offered stays
until it is taken), no job starts. Only SOFT_RESET or `ap_rst_n` ends this.

| code | name | meaning | ERROR_INFO |
|---|---|---|---|
{errors}

SOFT_RESET drops queued and running jobs and everything in the core's buffers, and clears ERROR,
ISR, CTRL.done and the counters. Arguments, interrupt enables, WATCHDOG and SCRATCH keep their
values. DMA engines have to be reset with it. Accesses that arrive during the reset wait for its
end.

## Interrupt

`interrupt` is a level: high while GIE is 1 and a bit is set in both ISR and IER. ISR records events
whether enabled or not; write 1 to clear.
"""


def page() -> str:
    """The whole page, Markdown."""
    rows = [
        f"| {int(code)} | {code.name} | {_ERRORS[code][0]} | {_ERRORS[code][1]} |"
        for code in ErrorCode
    ]
    return _TEXT.format(
        bits=ADDRESS_BITS,
        size=1 << ADDRESS_BITS,
        registers=as_markdown(),
        errors="\n".join(rows),
    )


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(page())
