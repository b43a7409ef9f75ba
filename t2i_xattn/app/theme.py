"""How the page looks: Gradio's plain theme, with letters that can be read."""

from __future__ import annotations

import gradio

DARK = ".dark { --color-accent: var(--primary-400); }"
"""The theme has one accent for light and dark, and no blue is readable on both."""


def readable_theme() -> gradio.themes.Base:
    """A theme that loads no fonts, each text with a contrast of 4.5 to 1 or more (WCAG AA), where
    the plain theme's pale notes have 1.9 and its buttons 3.7."""
    theme = gradio.themes.Base(
        font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]
    )
    return theme.set(
        body_text_color_subdued="*neutral_600",
        color_accent="*primary_700",
        button_primary_background_fill="*primary_700",
        button_primary_background_fill_hover="*primary_800",
        button_primary_border_color="*primary_700",
    )
