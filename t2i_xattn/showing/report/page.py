"""The page as HTML: the template with its script and style inside, so that it loads nothing."""

from __future__ import annotations

import base64
import hashlib
import io
import json
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from t2i_xattn.models.vocabulary import UnknownWord, never_taught
from t2i_xattn.provenance.page import ID
from t2i_xattn.showing.report.texts import KINDS

if TYPE_CHECKING:
    from jinja2 import Template
    from PIL import Image

    from t2i_xattn.provenance.made import Made

SCRIPTS = ("maps", "contours", "state", "drawing", "words", "panel", "downloads", "page")
"""Of the folder `page`, in the order in which they stand in the page."""

_SHARES = {
    "words": "words of the prompt",
    "other": "punctuation and template",
    "special": "start and end tokens",
    "padding": "padding",
    "prompt_picture": "the picture given as a prompt",
    "picture": "the picture itself",
}
"""What the parts of `trace.shares()` are called."""


def page(data: dict[str, Any], pictures: Sequence[Image.Image], made: Made | None) -> str:
    """One HTML file.

    Whatever a user typed is escaped, and no other script than the page's own is run, which its
    content security policy names by its hash; nothing may be loaded.
    """
    from markupsafe import Markup

    script = _script()
    digest = base64.b64encode(hashlib.sha256(script.encode("utf-8")).digest()).decode("ascii")
    return _template().render(
        data=data,
        runs=[
            {
                **run,
                "label": run["name"] or ("First run", "Second run")[number],
                "source": _source(picture),
                "never_taught": _never_taught(run["unknown_words"]),
            }
            for number, (run, picture) in enumerate(zip(data["runs"], pictures, strict=True))
        ],
        json=Markup(_in_script(data)),
        made=None if made is None else Markup(_in_script(made.as_dict())),
        made_id=ID,
        style=Markup(_read("report.css")),
        script=Markup(script),
        digest=digest,
        colours=Markup(json.dumps(_heat_colours())),
        pieces=pieces,
        headings=KINDS,
        shares=_SHARES,
        title=data["runs"][0]["branches"][0]["text"] or "a run",
    )


def pieces(branch: dict[str, Any]) -> list[dict[str, Any]]:
    """A text in pieces, as it was typed: what stands between words, words with a map (with their
    `number`), and those without (with the reason `why`)."""
    text, at, found = branch["text"], 0, []
    words = [
        {"start": each["start"], "stop": each["stop"], "number": n, "word": each}
        for n, each in enumerate(branch["words"])
        if each["kind"] == "prompt"
    ]
    for each in sorted([*words, *branch["beyond"]], key=lambda word: word["start"]):
        # Not the words of other texts, whose places are not of this one.
        if each["start"] < at or each["stop"] > len(text):
            continue
        found.append({"text": text[at : each["start"]]})
        found.append({**each, "text": text[each["start"] : each["stop"]]})
        at = each["stop"]
    return [*found, {"text": text[at:]}]


@cache
def _template() -> Template:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("t2i_xattn.showing.report", "page"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html")


@cache
def _script() -> str:
    parts = "\n".join(_read(f"{name}.js") for name in SCRIPTS)
    return f'\n"use strict";\n(() => {{\n{parts}}})();\n'


def _read(name: str) -> str:
    return (files("t2i_xattn.showing.report") / "page" / name).read_text("utf-8")


def _in_script(data: Any) -> str:
    """JSON that may stand in an element `script`, whatever texts it has."""
    text = json.dumps(data, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _never_taught(unknown: Sequence[dict[str, Any]] | None) -> str:
    """What is said of words that the model was never taught; empty if there are none."""
    words = [UnknownWord(each["word"], tuple(each["nearest"])) for each in unknown or ()]
    return never_taught(words) if words else ""


def _source(picture: Image.Image) -> str:
    """A picture as the address of an image, pixel by pixel."""
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"


def _heat_colours() -> list[list[int]]:
    """Of a perceptually uniform colour map, the one of overlays: 256 of red, green, blue."""
    from cmap import Colormap

    table = Colormap("inferno").lut(256)[:, :3] * 255
    return [[round(float(v)) for v in row] for row in table]
