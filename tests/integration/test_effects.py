"""What is asked along a picture's own trajectory, held against the denoiser called by hand."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import t2i_xattn as tx
from conftest import make_pipeline
from integration.test_transformers import state_of
from t2i_xattn.explaining.effects import EffectSums, ask
from t2i_xattn.explaining.holding import watched
from t2i_xattn.explaining.interventions import Question, questions
from t2i_xattn.explaining.run import Run
from t2i_xattn.explaining.targets import Target
from t2i_xattn.explaining.trajectory import Trajectory
from tiny.all_cases import CASES
from tiny.case import NEGATIVE, PROMPT, Case
from tiny_pipelines import (
    add_lora,
    controlnet_pipeline,
    make_sdxl,
    noise_picture,
    of_class,
    with_scheduler,
)

OTHER = "a blue circle left of a blue square"


@dataclass
class Called:
    """The calls of a denoiser: what it was given, by name, and what it gave."""

    given: list[dict[str, Any]] = field(default_factory=list)
    gave: list[Any] = field(default_factory=list)


class Watch:
    """Notes the calls of a module by a hook of torch, which the package has no part in."""

    def __init__(self, module: nn.Module) -> None:
        self.module, self.called = module, Called()
        self.names = list(inspect.signature(type(module).forward).parameters)[1:]

    def __enter__(self) -> Called:
        def note(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            given = dict(zip(self.names, args, strict=False)) | kwargs
            self.called.given.append(copied(given))  # some change their latents in place
            self.called.gave.append(output)

        self.hook = self.module.register_forward_hook(note, with_kwargs=True)
        return self.called

    def __exit__(self, *error: object) -> None:
        self.hook.remove()


def copied(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.clone()
    if isinstance(value, dict):
        return {key: copied(each) for key, each in value.items()}
    return type(value)(map(copied, value)) if isinstance(value, list | tuple) else value


def first_of(output: Any) -> Tensor:
    found = output if isinstance(output, Tensor) else output[0]
    return found if isinstance(found, Tensor) else torch.stack(list(found))


def with_texts_of(plain: Any, other: Any) -> Any:
    """What differs at the first call, where only the texts do, from the other run."""
    if isinstance(plain, Tensor) and isinstance(other, Tensor):
        return other
    if isinstance(plain, dict):
        return {key: with_texts_of(value, other[key]) for key, value in plain.items()}
    if isinstance(plain, list | tuple):
        return type(plain)(with_texts_of(a, b) for a, b in zip(plain, other, strict=True))
    return plain


def differs(one: Any, other: Any) -> bool:
    if type(one) is not type(other):
        return True
    if isinstance(one, Tensor):
        return one.shape != other.shape or not torch.equal(one, other)
    if isinstance(one, dict):
        return any(differs(value, other[key]) for key, value in one.items())
    if isinstance(one, list | tuple):
        return any(differs(a, b) for a, b in zip(one, other, strict=True))
    return False


def by_hand(module: Any, plain: Called, other: Called) -> Tensor:
    """Σ ‖ε(x, other text) − ε(x, text)‖ over the channels, at the inputs of the plain run: zero for
    rows and calls of the unconditional branch, whose text is the same, so added up over them."""
    theirs = other.given
    # What differs at the first call is the text's; where that is the unconditional one, the next.
    number = 0 if changed_names(plain.given[0], theirs[0]) else 1
    names = changed_names(plain.given[number], theirs[number])
    total: Tensor | None = None
    for given, gave, also in zip(plain.given, plain.gave, theirs, strict=True):
        texts = {name: with_texts_of(given[name], also[name]) for name in names if name in given}
        with torch.no_grad():
            difference = first_of(module(**dict(given) | texts)).float() - first_of(gave).float()
        if type(module).__name__.startswith("Kandinsky") and difference.ndim == 5:  # channels last
            difference = difference.movedim(-1, 1)
        elif difference.ndim > 3:  # a variance behind the picture's own channels
            sample: Any = given.get("sample", given.get("hidden_states", given.get("x")))
            difference = difference[:, : sample[0].shape[0]]
        lengths = difference.norm(dim=-1 if difference.ndim == 3 else 1).sum(dim=0)
        total = lengths if total is None else total + lengths
    assert total is not None
    return total


def changed_names(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    latents = ("sample", "hidden_states", "x", "latents", "timestep")
    return [k for k in one if k not in latents and differs(one[k], other.get(k))]


def asked_of(
    pipe: Any, questions: Sequence[Question], steps: Any = (0, 2), **options: Any
) -> tuple[list[EffectSums], Trajectory, Any]:
    run = Run(pipe, PROMPT, seed=0, **options)
    with watched(pipe, steps) as way:
        output = run()
    return ask(run, way, questions, batch=8), way, output


def options_of(case: Case) -> dict[str, Any]:
    options: dict[str, Any] = {"num_inference_steps": 2, "output_type": "pt"}
    if case.negative:
        options["negative_prompt"] = NEGATIVE
    return options | dict(case.options)


_FAST = ("StableDiffusion3Pipeline", "FluxPipeline", "PixArtAlphaPipeline", "QwenImagePipeline")


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, id=str(case), marks=() if case.name in _FAST else pytest.mark.slow)
        for case in CASES
        if "prompt" not in case.options  # of several pictures
    ],
)
def test_every_family_is_asked_at_its_own_latents(case: Case) -> None:
    pipe = case.make()
    plain = case.run(pipe)
    before = state_of(pipe)
    questions = [Question("red", "text", OTHER), Question("red", "text", PROMPT)]
    try:
        sums, _, output = asked_of(pipe, questions, **options_of(case))
    except tx.UserError as error:
        pytest.skip(str(error))
    assert state_of(pipe) == before
    names = ("images", "frames", "image", "image_embeddings")
    images = next(getattr(output, name) for name in names if hasattr(output, name))
    assert np.array_equal(np.asarray(images[0]), np.asarray(plain[0]))
    changed, same = sums
    assert changed.lengths is not None
    assert same.size <= 2e-3 * changed.size or same.size < 1e-5
    module = getattr(pipe, case.denoiser)
    if any(
        each in case.name for each in ("two denoisers", "three ways", "skip-layer", "rewritten")
    ):
        return  # they take turns; a third call has the prompt as well; the prompt is another one
    with Watch(module) as mine:
        case.run(pipe)
    with Watch(module) as theirs:
        case.run(pipe, prompt=OTHER)
    if len(mine.given) != len(theirs.given):
        return
    expected = by_hand(module, mine, theirs).flatten()
    found = changed.lengths.flatten()
    # Behind the picture's places stand those of pictures that were given.
    assert torch.allclose(found, expected[: len(found)], rtol=1e-2, atol=1e-3 * float(found.max()))


class TestStableDiffusion:
    """Against the UNet called by hand at the latents that a callback saw."""

    options: ClassVar[dict[str, Any]] = {
        "num_inference_steps": 4,
        "guidance_scale": 5.0,
        "output_type": "np",
    }

    def states(self, pipe: Any, text: str) -> Tensor:
        found: Tensor = pipe.encode_prompt(text, "cpu", 1, False)[0]
        return found

    def inputs(self, pipe: Any) -> list[tuple[Tensor, Tensor]]:
        """Latents and noise level of each step."""
        with Watch(pipe.unet) as called:
            pipe(PROMPT, generator=[torch.Generator().manual_seed(0)], **self.options)
        return [(each["sample"][1:], each["timestep"]) for each in called.given]

    def lengths(self, pipe: Any, states: Tensor, **more: Any) -> Tensor:
        own = self.states(pipe, PROMPT)
        total = torch.zeros(8, 8)
        with torch.no_grad():
            for latents, t in self.inputs(pipe):
                one = pipe.unet(latents, t, encoder_hidden_states=own).sample
                other = pipe.unet(latents, t, encoder_hidden_states=states, **more).sample
                total += (other - one).norm(dim=1)[0]
        return total

    def target(self, pipe: Any, other: str | None = "blue") -> tuple[Target, Any]:
        run = Run(pipe, PROMPT, **self.options)
        with watched(pipe, (0, 4)) as way:
            run()
        assert way.text is not None
        (word,) = (each for each in way.text.words if each.text == "red")
        text = OTHER if other else "a circle left of a blue square"
        return Target("red", ((word.start, word.stop),), word.columns, (other,), (text,)), way.text

    def found(self, pipe: Any, intervention: Any) -> dict[str, EffectSums]:
        target, text = self.target(pipe)
        some = questions(target, intervention, PROMPT, text)
        sums, _, _ = asked_of(pipe, some, (0, 4), **self.options)
        return {each.part: one for each, one in zip(some, sums, strict=True)}

    def close(self, found: EffectSums, expected: Tensor) -> None:
        assert found.lengths is not None
        assert expected.max() > 1e-3
        assert torch.allclose(found.lengths[0], expected, rtol=1e-3, atol=1e-4)

    def test_text(self) -> None:
        pipe = make_pipeline()
        self.close(self.found(pipe, "text")[""], self.lengths(pipe, self.states(pipe, OTHER)))

    def test_attention_is_a_mask_of_the_keys(self) -> None:
        pipe = make_pipeline()
        target, _ = self.target(pipe)
        mask = torch.ones(1, 77)
        mask[:, list(target.columns)] = 0
        expected = self.lengths(pipe, self.states(pipe, PROMPT), encoder_attention_mask=mask)
        self.close(self.found(pipe, "attention")[""], expected)

    def test_embedding_has_the_empty_prompt_s_columns(self) -> None:
        pipe = make_pipeline()
        target, _ = self.target(pipe)
        states, nothing = self.states(pipe, PROMPT), self.states(pipe, "")
        columns = list(target.columns)
        states[:, columns] = nothing[:, columns]
        self.close(self.found(pipe, "embedding")[""], self.lengths(pipe, states))

    def test_only_keeps_the_word_s_own_columns(self) -> None:
        pipe = make_pipeline()
        target, _ = self.target(pipe)
        states, other = self.states(pipe, PROMPT), self.states(pipe, OTHER)
        columns = list(target.columns)
        other[:, columns] = states[:, columns]
        self.close(self.found(pipe, "only")[""], self.lengths(pipe, other))

    def test_carriers(self) -> None:
        pipe = make_pipeline()
        found = self.found(pipe, "carriers")
        assert list(found) == ["all", "own", "noun phrase", "before", "behind", "start", "end",
                               "padding", "pooled"]  # fmt: skip
        # The text encoder is causal, and there is no pooled embedding here.
        for part in ("before", "start", "pooled"):
            assert found[part].size < 1e-5
            assert abs(found[part].share) < 1e-5
        target, _ = self.target(pipe)
        states, other = self.states(pipe, PROMPT), self.states(pipe, OTHER)
        own = list(target.columns)
        states[:, own] = other[:, own]
        self.close(found["own"], self.lengths(pipe, states))
        assert found["all"].share == pytest.approx(1)
        parts = [found[part].share for part in ("own", "noun phrase", "behind", "end", "padding")]
        assert sum(parts) == pytest.approx(1, abs=0.3)  # exact were attention linear

    def test_text_at_all_sites_is_text(self) -> None:
        pipe = make_pipeline()
        target, text = self.target(pipe)
        (question,) = questions(target, "text", PROMPT, text, sites=lambda site: True)
        (found,), _, _ = asked_of(pipe, [question], (0, 4), **self.options)
        self.close(found, self.lengths(pipe, self.states(pipe, OTHER)))

    def test_at_one_site_it_does_less(self) -> None:
        pipe = make_pipeline()
        target, text = self.target(pipe)
        sizes = []
        for sites in (None, lambda site: site.place == "mid"):
            for intervention in ("text", "attention"):
                some = questions(target, intervention, PROMPT, text, sites=sites)
                sums, _, _ = asked_of(pipe, some, (0, 4), **self.options)
                sizes.append(sums[0].size)
        assert 0 < sizes[2] < sizes[0]
        assert 0 < sizes[3] < sizes[1]

    def test_heads_together_are_all(self) -> None:
        pipe = make_pipeline()
        target, text = self.target(pipe)
        (all_heads,) = questions(target, "attention", PROMPT, text)
        (both,) = questions(target, "attention", PROMPT, text, heads=[0, 1])
        (one,) = questions(target, "attention", PROMPT, text, heads=[0])
        (none,) = questions(target, "attention", PROMPT, text, heads=[7])
        sums, _, _ = asked_of(pipe, [all_heads, both, one, none], (0, 4), **self.options)
        sizes = [each.size for each in sums]
        assert sizes[1] == pytest.approx(sizes[0], rel=1e-4)
        assert 0 < sizes[2] < sizes[0]
        assert sizes[3] < 1e-5

    def test_a_window_holds_these_steps(self) -> None:
        pipe = make_pipeline()
        question = [Question("red", "text", OTHER)]
        every, _, _ = asked_of(pipe, question, (0, 4), **self.options)
        some, _, _ = asked_of(pipe, question, (1, 3), **self.options)
        assert some[0].squares == pytest.approx(every[0].squares[1:3], rel=1e-4)


CIRCUMSTANCES: dict[str, tuple[Any, dict[str, Any]]] = {
    "SDXL": (make_sdxl, {}),
    "no guidance": (make_pipeline, {"guidance_scale": 1.0}),
    "negative prompt": (make_pipeline, {"negative_prompt": "green"}),
    "the prompt as the negative one": (make_pipeline, {"negative_prompt": PROMPT}),
    "noise that the sampler adds": (
        lambda: with_scheduler(make_pipeline(), "EulerAncestralDiscreteScheduler"),
        {},
    ),
    "two calls a step": (lambda: with_scheduler(make_pipeline(), "HeunDiscreteScheduler"), {}),
    "PNDM": (lambda: with_scheduler(make_pipeline(), "PNDMScheduler"), {}),
    "a picture to begin with": (
        lambda: of_class("StableDiffusionImg2ImgPipeline"),
        {"image": noise_picture(), "strength": 0.8},
    ),
    "ControlNet": (controlnet_pipeline, {"image": noise_picture()}),
    "LoRA": (lambda: _with_lora(), {}),
    "not square": (make_pipeline, {"height": 64, "width": 96}),
    "latents": (make_pipeline, {"latents": torch.zeros(1, 4, 8, 8) + 0.5}),
    "perturbed": (lambda: of_class("StableDiffusionPAGPipeline"), {"pag_scale": 2.0}),
}


def _with_lora() -> Any:
    pipe = make_pipeline()
    add_lora(pipe)
    return pipe


@pytest.mark.parametrize("name", CIRCUMSTANCES)
def test_circumstances(name: str) -> None:
    make, more = CIRCUMSTANCES[name]
    pipe = make()
    pipe.set_progress_bar_config(disable=True)
    options: dict[str, Any] = {"num_inference_steps": 4, "output_type": "np"} | more
    noise = [torch.Generator().manual_seed(0)]
    plain = pipe(PROMPT, generator=noise, **options).images
    before = state_of(pipe)
    target = Target("red", ((2, 5),), (2,), ("blue",), (OTHER,))
    (attention,) = questions(target, "attention", PROMPT, None)
    asked = [Question("red", "text", OTHER), attention, Question("red", "text", PROMPT)]
    sums, _, output = asked_of(pipe, asked, (0, 3), **options)
    assert np.array_equal(output.images, plain)
    assert state_of(pipe) == before
    text, hidden, same = sums
    assert same.size < 1e-4
    assert min(text.size, hidden.size) > 10 * same.size
    assert len(text.squares) == 3
    assert np.array_equal(pipe(PROMPT, generator=[torch.Generator().manual_seed(0)],
                               **options).images, plain)  # fmt: skip
