# SPDX-License-Identifier: Apache-2.0
"""Modelled performance and resources: programs run on the cycle model, nothing is measured."""
