# SPDX-License-Identifier: Apache-2.0
"""A board for tests: a tree of sysfs and /dev whose device is the simulated accelerator.

`tree` makes the files, `chip` is the accelerator behind them, `interrupts` and `caches` behave as
UIO and as memory behind caches do, `board` serves all of it, and `files` is what takes the place of
the kernel in the process that drives the board. docs/vck190.md says what it cannot show.
"""
