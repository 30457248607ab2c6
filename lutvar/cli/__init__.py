# SPDX-License-Identifier: Apache-2.0
"""The `lutvar` command. Each command is a module; heavy imports happen inside the functions."""
