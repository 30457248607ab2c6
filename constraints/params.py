# SPDX-License-Identifier: Apache-2.0
"""The old name of `python -m lutvar.vivado.params`; `lutvar vivado` does that and the rest."""

import sys

from lutvar.vivado.params import main

if __name__ == "__main__":
    sys.exit(main())
