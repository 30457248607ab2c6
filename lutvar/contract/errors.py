# SPDX-License-Identifier: Apache-2.0
"""The error of every configuration, preset and shape."""


class ConfigError(ValueError):
    """A configuration that cannot be used; the message names the key, the value and the rule."""
