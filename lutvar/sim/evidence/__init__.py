# SPDX-License-Identifier: Apache-2.0
"""Long simulations of the shipped accelerators, kept as records: `lutvar evidence`."""
