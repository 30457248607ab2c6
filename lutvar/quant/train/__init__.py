# SPDX-License-Identifier: Apache-2.0
"""Training of the small class-conditional model that is shipped with lutvar."""
