# SPDX-License-Identifier: Apache-2.0
"""Random programs, well-formed and malformed, on the simulated accelerator: `lutvar fuzz`.

`contents` says what lies in memory; `wellformed` (with `order`) and `malformed` make programs;
`events` is what happens while one runs, `storm` one kind of it; `bench` runs one step; `oracle`
judges it, by the interpreter and by `rules`; `shrink` makes a deviation small, `case` is its file;
`run` is the loop.
"""
