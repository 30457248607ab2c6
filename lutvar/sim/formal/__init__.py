# SPDX-License-Identifier: Apache-2.0
"""Unbounded proofs about the exported Verilog: `lutvar formal`.

`harness` puts a module between an environment and requirements, `flow` makes an and-inverter graph
of it and asks the engine, `proofs` holds the properties, `mutants` breaks modules to show that the
properties bite.
"""
