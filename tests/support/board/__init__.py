# SPDX-License-Identifier: Apache-2.0
"""Stand-ins for what a board's Linux and its Python packages offer."""
