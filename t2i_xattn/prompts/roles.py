"""What a text is for."""

from __future__ import annotations

CONDITIONAL = "conditional"
"""The prompt."""

UNCONDITIONAL = "unconditional"
"""The negative prompt, or the empty one in its place."""
