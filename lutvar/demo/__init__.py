# SPDX-License-Identifier: Apache-2.0
"""The main job: a whole image generation on the simulated accelerator, compared to the last bit."""
