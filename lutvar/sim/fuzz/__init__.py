# SPDX-License-Identifier: Apache-2.0
"""Random programs, well-formed and malformed, on the simulated accelerator: `lutvar fuzz`.

`contents` says what lies in memory, `wellformed` and `malformed` make programs, `events` what
happens while one runs, `bench` runs one step, `oracle` judges it, `shrink` makes a deviation small,
`case` is the file of it, `run` is the loop.
"""
