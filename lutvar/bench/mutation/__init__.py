# SPDX-License-Identifier: Apache-2.0
"""A mutation campaign over exported Verilog: what share of small faults the checks notice.

`mutants` lists small changes and writes one Verilog file that holds them all, `checks` are what a
mutant has to survive, `campaign` runs them on several processes. `python -m lutvar.bench.mutation`.
"""
