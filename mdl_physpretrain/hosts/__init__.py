"""Bridges to other programs: their checkpoints, and plugins that run inside them."""
