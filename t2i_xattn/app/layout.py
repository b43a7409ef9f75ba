"""The page: what stands where, and which button asks for what."""

from __future__ import annotations

from typing import Any

import gradio as gr

from t2i_xattn.app.form import Source
from t2i_xattn.app.handlers import Handlers, add_box
from t2i_xattn.app.lit import PAGE

EXAMPLE = "a red circle left of a blue square"
RUNS: dict[str, Any] = {"concurrency_id": "runs", "concurrency_limit": 1}
"""The queue in which all that asks the model waits: one at a time."""

PRIVATE: dict[str, Any] = {"api_visibility": "private"}
"""The page is the only interface."""

KEPT = 3600
"""Seconds after which files of a run, uploads too, are deleted."""


def page(handlers: Handlers) -> gr.Blocks:
    """The page of a studio; `serving` puts it on a port."""
    with gr.Blocks(
        analytics_enabled=False, title="t2i-xattn", delete_cache=(KEPT // 6, KEPT)
    ) as blocks:
        source = gr.State(None, time_to_live=KEPT)
        with gr.Row():
            with gr.Column():
                prompt = gr.Textbox(EXAMPLE, label="Prompt", lines=2, elem_id="prompt")
                with gr.Row():
                    paint = gr.Button("Paint", variant="primary", elem_id="paint")
                    stop = gr.Button("Stop", elem_id="stop")
                with gr.Tab("Settings"):
                    settings = _settings(handlers)
                with gr.Tab("Change words"):
                    boxes = gr.Textbox(
                        label="Boxes, a line each: word=top,left,bottom,right, from 0 to 1",
                        info="Or tap a word and draw its box on the picture.",
                        lines=2,
                        elem_id="boxes",
                    )
                    words = gr.Column()
                with gr.Tab("Explain"):
                    gr.Markdown("Each word is taken away, and the model is asked again.")
                    explain = gr.Button("Explain", variant="primary", elem_id="explain")
                with gr.Tab("A picture of your own"):
                    gr.Markdown(
                        "Say in the prompt what it shows. The model takes it back to its noise and "
                        "paints it from there again."
                    )
                    upload = gr.File(label="Picture", file_types=["image"], elem_id="upload")
                    read = gr.Button("Read this picture", variant="primary", elem_id="read")
            with gr.Column():
                picture = _lit("picture")
                painted = [picture, *_downloads("picture", 3)]
        with gr.Row():
            before, after = _lit("before"), _lit("after")
        changed = [before, after, *_downloads("change", 3)]
        table = gr.HTML(css_template=_read("explanation.css"), elem_id="explanation")
        explained = [table, *_downloads("explain", 2)]

        form = [prompt, *settings]
        runs = [
            gr.on(
                [paint.click, prompt.submit],
                handlers.paint,
                form,
                [source, *painted],
                **RUNS,
                **PRIVATE,
            ),
            read.click(handlers.read, [upload, *form], [source, *painted], **RUNS, **PRIVATE),
            explain.click(handlers.explain, source, explained, **RUNS, **PRIVATE),
        ]
        stop.click(handlers.stop, queue=False, cancels=runs, **PRIVATE)
        picture.select(add_box, boxes, boxes, queue=False, **PRIVATE)
        blocks.unload(handlers.leave)
        with words:
            _words(handlers, blocks, source, boxes, stop, changed)
    return blocks


def _settings(handlers: Handlers) -> list[gr.components.Component]:
    """Fields for what `form.request_of` takes beside the prompt, in its order."""
    with gr.Row():
        seed = gr.Number(0, label="Seed", elem_id="seed")
        steps = gr.Number(min(25, handlers.studio.bounds.steps), label="Steps", elem_id="steps")
        guidance = gr.Number(5, label="Guidance", elem_id="guidance")
    with gr.Row():
        width = gr.Number(0, label="Width", info="0: the model's own", elem_id="width")
        height = gr.Number(0, label="Height", info="0: the model's own", elem_id="height")
    negative = gr.Textbox(label="Negative prompt: what to keep away from", elem_id="negative")
    return [seed, steps, guidance, width, height, negative]


def _words(
    handlers: Handlers,
    blocks: gr.Blocks,
    source: gr.State,
    boxes: gr.Textbox,
    stop: gr.Button,
    changed: list[Any],
) -> None:
    """A slider and a field for each word of the picture's prompt, anew for each picture."""

    def of_words(made: Source | None) -> None:
        if made is None:
            gr.Markdown("Paint a picture first; its words come here.")
            return
        weights, others = [], []
        for number, word in enumerate(made.words):
            with gr.Row():
                weights.append(
                    gr.Slider(
                        0, 3, 1, step=0.1, label=word, interactive=True, elem_id=f"weight-{number}"
                    )
                )
                others.append(
                    gr.Textbox(
                        label="in its place",
                        max_lines=1,
                        min_width=80,
                        interactive=True,
                        elem_id=f"other-{number}",
                    )
                )
        change = gr.Button("Change", variant="primary", elem_id="change")
        inputs = [source, boxes, *weights, *others]
        run = change.click(handlers.edit, inputs, changed, **RUNS, **PRIVATE)
        stop.click(None, cancels=run, **PRIVATE)

    gr.render(source, triggers=[blocks.load, source.change])(of_words)


def _lit(name: str) -> gr.HTML:
    return gr.HTML(
        css_template=_read("lit.css"),
        js_on_load=_read("lit.js"),
        apply_default_css=False,
        elem_id=name,
    )


def _downloads(name: str, count: int) -> list[Any]:
    """Buttons for files, and the command that makes the same; hidden until there is something."""
    with gr.Row():
        buttons = [
            gr.DownloadButton(visible=False, size="sm", elem_id=f"{name}-file-{number}")
            for number in range(count)
        ]
    command = gr.Textbox(
        label="The same by command", buttons=["copy"], visible=False, elem_id=f"{name}-command"
    )
    return [*buttons, command]


def _read(name: str) -> str:
    return (PAGE / name).read_text("utf-8")
