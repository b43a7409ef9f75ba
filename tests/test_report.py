"""A report has the maps and numbers of its trace, and shows what was typed as it was typed."""

from __future__ import annotations

import base64
import html
import json
import zlib
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image
from torch.nn.functional import interpolate

import t2i_xattn as tx
from command_line import run
from conftest import make_pipeline
from t2i_xattn.errors import UserError
from t2i_xattn.prompts.words import word_spans
from t2i_xattn.showing.report.pairs import paired
from t2i_xattn.showing.report.report import Report
from t2i_xattn.traces.trace import Trace
from t2i_xattn.traces.word_reports import heatmaps, word_reports

PROMPT = "A red circle, left of a blue circle"


def painted(
    prompt: Any = PROMPT, count: int = 3, **options: Any
) -> tuple[Trace, list[Image.Image]]:
    pipe = make_pipeline()
    keep = {name: options.pop(name) for name in _KEEP if name in options}
    with tx.record(pipe, **keep) as trace:
        images = pipe(
            prompt,
            num_inference_steps=count,
            generator=torch.Generator().manual_seed(0),
            **options,
        ).images
    return trace, images


_KEEP = ("walk", "contributions", "steps", "branches", "words", "concepts", "spans", "heads")


@pytest.fixture(scope="module")
def plain() -> tuple[Trace, Image.Image]:
    trace, (image,) = painted()
    return trace, image


def decoded(kept: dict[str, Any], count: int) -> np.ndarray:
    """The arrays that a page holds, as docs/report.md says that they are read."""
    data = zlib.decompress(base64.b64decode(kept["data"]))
    array = np.frombuffer(data, dtype=np.uint8).astype(np.float64)
    array = array.reshape(count, -1, kept["height"], kept["width"])
    ends = np.array(kept["ranges"])[:, :, None, None, None]
    return ends[:, 0] + (ends[:, 1] - ends[:, 0]) * array / 255


def branch_of(report: Report, number: int = 0, run: int = 0) -> dict[str, Any]:
    found: dict[str, Any] = report.data["runs"][run]["branches"][number]
    return found


class Parsed(HTMLParser):
    """The elements of a page, and what its prompt says."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.prompts: list[str] = []
        self.words: list[str] = []
        self.handlers: list[str] = []
        self._open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append(tag)
        self.handlers += [name for name, _ in attrs if name.startswith("on")]
        kind = (dict(attrs).get("class") or "").split(" ")[0]
        if kind == "prompt":
            self.prompts.append("")
        if kind == "word":
            self.words.append("")
        if tag not in ("meta", "link", "img", "input", "br"):
            self._open.append(kind)

    def handle_endtag(self, tag: str) -> None:
        self._open.pop()

    def handle_data(self, data: str) -> None:
        if "prompt" in self._open:
            self.prompts[-1] += data
        if "word" in self._open:
            self.words[-1] += data


@pytest.mark.parametrize("keep", [{}, {"walk": 1}, {"walk": 1, "contributions": True}])
def test_maps_and_numbers_are_those_that_inspect_shows(keep: dict[str, Any]) -> None:
    trace, (image,) = painted(**keep)
    found = branch_of(tx.report(trace, image))
    (method,) = (each for each in found["methods"] if each["name"] == "map")
    arrays = decoded(method, len(found["words"]))[:, 0]
    every = trace.words
    assert [each["text"] for each in found["words"]] == [each.text for each in every]
    for word, told, array in zip(every, found["words"], arrays, strict=True):
        exact = trace.heatmap(columns=word.columns).array
        assert array.shape == exact.shape == (64, 64)
        assert np.abs(array - exact).max() <= (exact.max() - exact.min()) / 255
        assert (told["lowest"], told["highest"]) == (exact.min(), exact.max())
    once = {each.text.casefold() for each in every} - {"a", "circle"}
    for row in word_reports(heatmaps(trace)):
        if row.word.casefold() in once:
            (told,) = (each for each in found["words"] if each["text"] == row.word)
            box = None if row.box is None else list(row.box)
            assert (told["share"], told["box"]) == (row.share, box)
            assert (told["peak"], told["peakedness"]) == (list(row.peak), row.peakedness)


def test_the_plain_shares_stand_beside_the_map() -> None:
    trace, (image,) = painted(walk=1, contributions=True)
    found = branch_of(tx.report(trace, image))
    assert [each["name"] for each in found["methods"]] == ["map", "attention"]
    arrays = decoded(found["methods"][1], len(found["words"]))[:, 0]
    exact = trace.heatmap("red", stream="text").array
    assert np.abs(arrays[1] - exact).max() <= (exact.max() - exact.min()) / 255


@pytest.mark.parametrize("heads", ["mean", "each"])
def test_cells_are_the_means_of_steps_and_sites(heads: str) -> None:
    """Held against the recorded arrays themselves."""
    trace, (image,) = painted(steps="each", heads=heads)
    found = branch_of(tx.report(trace, image))
    cells = found["cells"]
    assert cells["steps"] == [[0, 1], [1, 2], [2, 3]]
    layers = [each["label"] for each in cells["layers"]]
    assert layers == ["down full", "down 1/2", "up 1/2", "up full"] or "middle 1/4" in layers
    arrays = decoded(cells, len(found["words"]))
    arrays = arrays.reshape(len(arrays), 3, len(layers), cells["height"], cells["width"])
    word = trace.words[2]
    at = 0
    for number, layer in enumerate(cells["layers"]):
        sites = trace.sites[at : at + layer["sites"]]
        at += layer["sites"]
        for step in range(3):
            maps = [trace.run.maps["text"][site.name][0, 0, step] for site in sites]
            mean = np.mean([each.mean(0)[..., list(word.columns)].sum(-1) for each in maps], 0)
            tensor = torch.from_numpy(mean)[None, None]
            exact = interpolate(tensor, size=(32, 32), mode="bilinear")[0, 0].numpy()
            low, high = cells["ranges"][2]
            assert np.abs(arrays[2, step, number] - exact).max() <= (high - low) / 255
    assert at == len(trace.sites)


def test_many_steps_are_put_together_so_that_the_page_stays_small() -> None:
    trace, (image,) = painted(count=40, steps="each")
    cells = branch_of(tx.report(trace, image))["cells"]
    starts, ends = zip(*cells["steps"], strict=True)
    assert (starts[0], ends[-1]) == (0, 40)
    assert starts[1:] == ends[:-1]
    assert 4 <= len(starts) < 40


def test_the_negative_prompt_has_a_tab_of_its_own() -> None:
    trace, (image,) = painted(
        branches=["conditional", "unconditional"], negative_prompt="blue of circle"
    )
    report = tx.report(trace, image)
    labels = [each["label"] for each in report.data["runs"][0]["branches"]]
    assert labels == ["prompt", "negative prompt"]
    negative = branch_of(report, 1)
    assert [each["text"] for each in negative["words"]] == ["blue", "of", "circle"]
    exact = trace.select(branch="unconditional").heatmap("blue")
    assert negative["words"][0]["share"] == exact.share
    assert Parsed(report.html).prompts == [PROMPT, "blue of circle"]


def test_each_picture_of_a_batch() -> None:
    trace, images = painted(["a red circle", "of blue"], walk=1)
    for number, image in enumerate(images):
        report = tx.report(trace, image, image=number)
        assert branch_of(report)["text"] == trace.prompts[number]
        exact = trace.heatmap(trace.words_of(number)[1].text, image=number)
        assert branch_of(report)["words"][1]["share"] == exact.share


def test_phrases_and_concepts_and_named_columns() -> None:
    trace, (image,) = painted(spans={"the start": [0]})
    report = tx.report(trace, image, words=["red circle", "blue"])
    kinds = [(each["text"], each["kind"]) for each in branch_of(report)["words"]]
    assert ("the start", "spans") in kinds
    assert ("red circle", "phrase") in kinds
    assert ("blue", "phrase") not in kinds
    assert "named columns" in report.html
    assert Parsed(report.html).prompts == [PROMPT]


def test_words_without_a_map_are_told() -> None:
    trace, (image,) = painted(words=["red", "blue"])
    report = tx.report(trace, image)
    found = branch_of(report)
    assert [each["text"] for each in found["words"]] == ["red", "blue"]
    assert {each["why"] for each in found["beyond"]} == {"not recorded"}
    assert found["shares"] is None
    assert Parsed(report.html).prompts == [PROMPT]
    long = " ".join(["red"] * 90)
    trace, (image,) = painted(long, count=1)
    found = branch_of(tx.report(trace, image))
    assert len(found["words"]) + len(found["beyond"]) == 90
    assert {each["why"] for each in found["beyond"]} == {"beyond the window of the text encoder"}


def test_emoji_have_no_map_and_the_page_says_so(plain: tuple[Trace, Image.Image]) -> None:
    trace, image = plain
    report = tx.report(with_prompt(trace, "red 🦊 🦊 © circle, café"), image)
    assert branch_of(report)["symbols"] == ["🦊", "©"]
    assert "Emoji and symbols have no map of their own: 🦊 ©" in report.html
    assert branch_of(tx.report(trace, image))["symbols"] == []
    assert "Emoji and symbols" not in tx.report(trace, image).html


def test_shares_of_the_trace(plain: tuple[Trace, Image.Image]) -> None:
    trace, image = plain
    shares = branch_of(tx.report(trace, image))["shares"]
    assert shares == vars(trace.shares())


def test_function_words_are_quiet_and_flat_maps_marked(plain: tuple[Trace, Image.Image]) -> None:
    trace, image = plain
    words = branch_of(tx.report(trace, image))["words"]
    quiet = {each["text"] for each in words if each["quiet"]}
    assert quiet == {"A", "of", "a"}
    for word in words:
        assert word["flat"] == (word["highest"] < 1.5 * word["lowest"])


HOSTILE = [
    "<script>alert(1)</script> red",
    "</script><img src=x onerror=alert(1)> \"red\" 'blue' `of` &lt; &",
    "{{ 7 * 7 }} {% raw %} \\u003c red",
    "red 🦊 café Straße Ελλάδα 日本語 <!-- circle",
    "שלום red עולם مرحبا blue",
    "red\nblue\t  circle\u2028of \u202e left",
    "]]> <![CDATA[ red",
]


def with_prompt(trace: Trace, prompt: str) -> Trace:
    """A trace as if that prompt had been given: its words have the columns in turn."""
    words = [
        replace(trace.words[0], text=prompt[a:b], start=a, stop=b, columns=(n % 70 + 1,))
        for n, (a, b) in enumerate(word_spans(prompt))
    ]
    run = trace.run
    return Trace(
        replace(
            run,
            prompts={"conditional": (prompt,)},
            words={"conditional": (tuple(words),)},
            settings=run.settings | {"arguments": {"prompt": prompt, "negative_prompt": prompt}},
        )
    )


@settings(max_examples=25, deadline=None, derandomize=True)
@given(prompt=st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=40))
@example(prompt=HOSTILE[0])
@example(prompt=HOSTILE[1])
@example(prompt=HOSTILE[2])
@example(prompt=HOSTILE[3])
@example(prompt=HOSTILE[4])
@example(prompt=HOSTILE[5])
@example(prompt=HOSTILE[6])
@example(prompt="word " * 300)
def test_whatever_is_typed_is_shown_as_typed(plain: tuple[Trace, Image.Image], prompt: str) -> None:
    trace, image = plain
    prompt = f"{prompt} circle"  # a word at least
    report = tx.report(with_prompt(trace, prompt), image, against=tx.report(trace, image))
    page = Parsed(report.html)
    assert page.prompts == [prompt, PROMPT]
    assert page.words == [
        each["text"] for run in (0, 1) for each in branch_of(report, run=run)["words"]
    ]
    assert page.tags.count("script") == 3
    assert page.tags.count("img") == 2
    assert not page.handlers
    inside = report.html.partition('id="data">')[2].partition("</script>")[0]
    assert json.loads(inside) == report.data


def test_the_page_says_that_it_may_load_nothing(plain: tuple[Trace, Image.Image]) -> None:
    page = tx.report(*plain).html
    policy = page.partition('Content-Security-Policy" content="')[2].partition('"')[0]
    assert "default-src 'none'" in policy
    assert "script-src 'sha256-" in policy
    for address in ("http://", "https://", "//cdn", "@import", "url("):
        assert address not in page.replace("http://www.w3.org/2000/svg", "")


def test_two_runs_have_their_words_in_pairs(plain: tuple[Trace, Image.Image]) -> None:
    trace, image = plain
    other, (picture,) = painted("A red circle, left of blue of blue")
    both = tx.report(trace, image, against=tx.report(other, picture))
    pairs = both.data["pairs"]["conditional"]
    one, two = (branch_of(both, run=n)["words"] for n in (0, 1))
    same = [(a, b) for a, b in pairs if a is not None and b is not None]
    assert [one[a]["text"] for a, _ in same[:5]] == [two[b]["text"] for _, b in same[:5]]
    assert Parsed(both.html).prompts == [PROMPT, "A red circle, left of blue of blue"]
    assert both.data["runs"][0] == tx.report(trace, image).data["runs"][0]


@given(
    one=st.lists(st.sampled_from(["red", "Red", "blue", "of"]), max_size=8),
    other=st.lists(st.sampled_from(["red", "blue", "star"]), max_size=8),
)
@settings(deadline=None, derandomize=True)
def test_every_word_is_in_one_pair(one: list[str], other: list[str]) -> None:
    pairs = paired(one, other)
    assert [a for a, _ in pairs if a is not None] == list(range(len(one)))
    assert [b for _, b in pairs if b is not None] == list(range(len(other)))


def test_a_replaced_word_is_paired_with_what_stands_in_its_place() -> None:
    assert paired(["a", "red", "circle"], ["a", "red", "star"]) == [(0, 0), (1, 1), (2, 2)]
    assert paired(["a", "circle"], ["a", "red", "circle"]) == [(0, 0), (None, 1), (1, 2)]


def test_the_same_bytes_twice_and_in_a_notebook(
    plain: tuple[Trace, Image.Image], tmp_path: Path
) -> None:
    first, second = (tx.report(*plain) for _ in "ab")
    path = tmp_path / "a folder with spaces" / "run é.html"
    path.parent.mkdir()
    first.save(path)
    assert path.read_bytes() == second.html.encode()
    assert [each.name for each in path.parent.iterdir()] == [path.name]
    frame = first._repr_html_()
    assert html.unescape(frame.partition('srcdoc="')[2].partition('" style')[0]) == first.html
    assert repr(first) == f"<Report of {PROMPT!r}; .save('run.html') writes the page>"


def test_an_explanation_brings_effects_and_grades() -> None:
    pipe = make_pipeline()
    found = tx.explain(
        pipe, "a red circle", words=["red", "circle"], num_inference_steps=2, batch=2
    )
    report = tx.report(found)
    branch = branch_of(report)
    words = {each["text"]: each for each in branch["words"]}
    assert "explained" not in words["a"]
    for each in found.words:
        told = words[each.word]["explained"]
        assert (told["grade"], told["sentence"]) == (each.grade, each.sentence)
        assert told["effect"] == each.evidence.size
    (effects,) = (each for each in branch["methods"] if each["name"] == "effect")
    assert [branch["words"][n]["text"] for n in effects["of"]] == ["red", "circle"]
    exact = found.effect("circle").array
    array = decoded(effects, 2)[1, 0]
    assert np.abs(array - exact).max() <= (exact.max() - exact.min()) / 255
    with pytest.raises(UserError, match=r"^expected an image from 0 to 0, but came 1; that many"):
        tx.report(found, image=1)
    with pytest.raises(UserError, match=r"^expected what explain found alone, .* leave it out"):
        tx.report(found, found.pictures[0].image)


def cut_off() -> Trace:
    pipe = make_pipeline()

    def stop(pipe: Any, step: int, *_: Any) -> dict[str, Any]:
        if step == 1:
            raise KeyboardInterrupt
        return {}

    with pytest.raises(KeyboardInterrupt), tx.record(pipe) as trace:
        pipe(PROMPT, num_inference_steps=4, callback_on_step_end=stop)
    return trace


def test_a_run_that_was_broken_off_says_so_in_words(tmp_path: Path) -> None:
    """Whatever the number of its calls: with guidance in calls of its own there are two a step."""
    trace = cut_off()
    assert trace.settings["broken_off"] == "KeyboardInterrupt"
    trace.save(tmp_path / "trace.safetensors")
    trace = Trace.load(tmp_path / "trace.safetensors")
    picture = Image.new("RGB", (64, 64))
    with pytest.raises(UserError, match=r"broken off by 'KeyboardInterrupt' after 2 of 4 steps, "):
        tx.report(trace, picture)
    code, printed, told = run(
        "inspect", "--trace", tmp_path / "trace.safetensors", "--out", tmp_path / "out"
    )
    assert (code, "words.png" in printed) == (0, True)
    assert "of this trace was broken off by 'KeyboardInterrupt' after 2 of 4 steps, so" in told
    trace.settings["calls"] = 7
    with pytest.raises(UserError, match=r"by 'KeyboardInterrupt' after 7 calls of the denoiser, "):
        tx.report(trace, picture)


def test_an_error_after_the_run_breaks_nothing_off() -> None:
    pipe = make_pipeline()
    images = []

    def paint_and_fail() -> None:
        images.extend(pipe(PROMPT, num_inference_steps=1).images)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), tx.record(pipe) as trace:
        paint_and_fail()
    assert "broken_off" not in trace.settings
    assert tx.report(trace, images[0]).pictures[0].size == (64, 64)


def test_mistakes_are_told_in_one_sentence(
    plain: tuple[Trace, Image.Image], tmp_path: Path
) -> None:
    trace, image = plain
    wide = Image.new("RGB", (128, 64))

    def told(sentence: str, *given: Any, **options: Any) -> None:
        with pytest.raises(UserError, match=f"^{sentence}"):
            tx.report(*given, **options)

    told("expected the picture of the trace as a PIL image, but came none; give", trace)
    told("expected the picture of .* but came several; give one of them", trace, [image])
    told("expected the picture of .* but came 'a.png'; give", trace, "a.png")
    told(
        "expected a picture of 64 × 64 pixels or in that proportion, but came 128 × 64;",
        trace,
        wide,
    )
    told("expected an image from 0 to 0, but came 1; this run made 1", trace, image, image=1)
    told("expected a run that went to its end, but .* after 2 of 4 steps,", cut_off(), image)
    told("expected against= as another report, but came", trace, image, against=(trace, image))
    told("'green' is not in the prompt", trace, image, words=["green"])
    told("expected a trace, or what explain found, but came 3;", 3, image)
    told("expected a frame from 0 to 0, but came 2;", trace, image, frame=2)
    for path in (tmp_path / "none" / "run.html", tmp_path):
        with pytest.raises(UserError, match=r"^expected a file.*; choose"):
            tx.report(trace, image).save(path)
    assert not list(tmp_path.iterdir())


def test_prompts_as_embeddings_have_no_words() -> None:
    pipe = make_pipeline()
    embeddings = pipe.encode_prompt("red", "cpu", 1, False)[0]
    with tx.record(pipe) as trace:
        (image,) = pipe(prompt_embeds=embeddings, num_inference_steps=1, guidance_scale=1.0).images
    with pytest.raises(UserError, match=r"^expected a trace of words, but this one has none"):
        tx.report(trace, image)


def test_a_larger_picture_in_proportion_is_taken(plain: tuple[Trace, Image.Image]) -> None:
    trace, image = plain
    report = tx.report(trace, image.resize((256, 256)))
    assert report.data["runs"][0]["picture"] == {"width": 256, "height": 256}


def test_maps_of_a_part_take_that_part_of_the_picture(plain: tuple[Trace, Image.Image]) -> None:
    trace, image = plain
    cut = Trace(replace(trace.run, crop=(8, 8, 40, 40)))
    with pytest.raises(UserError, match=r"give picture\.crop\(trace\.run\.crop\)$"):
        tx.report(cut, image)
    whole = Image.new("RGB", (64, 64))
    assert tx.report(cut, whole.crop((8, 8, 40, 40))).pictures[0].size == (32, 32)
