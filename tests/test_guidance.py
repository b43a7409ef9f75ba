"""Guided latents: against gradients taken another way, in the pipelines' circumstances."""

from __future__ import annotations

import inspect
from contextlib import ExitStack
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from torch import Tensor

from conftest import make_pipeline, state_of
from t2i_xattn import edit, guide, record
from t2i_xattn.denoisers.sites import find_sites
from t2i_xattn.edits import Drop
from t2i_xattn.errors import UserError, WordNotFoundError
from t2i_xattn.kernel.reference import probs as reference_probs
from t2i_xattn.kernel.reference import scores, split_heads
from t2i_xattn.losses import (
    AttendAndExcite,
    Binding,
    BoxDiff,
    GuidanceLoss,
    Layout,
    Segregation,
    WordMaps,
)
from t2i_xattn.prompts.words import Word
from tiny_pipelines import make_sdxl, noise_picture, of_class, runner

BOX = (0.0, 0.0, 0.5, 0.5)
TINY = {"scale": 3.0, "until": 1.0}


def word_maps(seed: int = 0, images: int = 1, size: tuple[int, int] = (6, 5)) -> WordMaps:
    torch.manual_seed(seed)
    shares = (3 * torch.randn(images, *size, 6)).softmax(-1).requires_grad_(True)
    places = [(text, PROMPT.index(text)) for text in ("red", "cat", "blue", "dog")]
    words = tuple(Word(text, at, at + len(text), (n,)) for n, (text, at) in enumerate(places, 1))
    return WordMaps(shares, (words,) * images)


LOSSES: dict[str, GuidanceLoss] = {
    "Attend-and-Excite": AttendAndExcite(["cat", "dog"]),
    "layout": Layout({"cat": BOX, "dog": (0.5, 0.5, 1.0, 1.0)}),
    "BoxDiff": BoxDiff({"cat": BOX, "dog": (0.5, 0.5, 1.0, 1.0)}),
    "binding": Binding([("red", "cat"), ("blue", "dog")]),
    "binding of pairs that are found": Binding(),
    "segregation": Segregation(["red", "cat", "dog"]),
}
PROMPT = "red cat, blue dog"


@pytest.mark.parametrize("name", LOSSES)
def test_following_the_gradient_lowers_the_loss(name: str) -> None:
    """And each image's loss is its own."""
    torch.manual_seed(0)
    loss, logits = LOSSES[name], 0.1 * torch.randn(2, 6, 5, 6)
    words, prompts = word_maps(images=2).words, (PROMPT, PROMPT)
    values = []
    for _ in range(30):
        logits = logits.detach().requires_grad_(True)
        value = loss(WordMaps(logits.softmax(-1), words, prompts=prompts))
        assert value.shape == (2,)
        (gradient,) = torch.autograd.grad(value[0], logits)
        assert not gradient[1].any()
        logits = logits - 5 * gradient
        values.append(value.detach())
    assert values[-1][0] < 0.9 * values[0][0] or values[-1][0] < values[0][0] - 0.3
    assert torch.allclose(values[-1][1], values[0][1])


def test_losses_of_maps_that_are_as_wanted() -> None:
    shares = torch.full((1, 8, 8, 4), 1e-4)
    shares[:, :4, :4, 2] = 1
    words = ((Word("red", 0, 0, (1,)), Word("cat", 0, 0, (2,))),)
    maps = WordMaps(shares, words)
    assert Layout({"cat": BOX})(maps).item() == pytest.approx(0, abs=1e-4)
    assert Layout({"cat": (0.5, 0.5, 1.0, 1.0)})(maps).item() == pytest.approx(1, abs=1e-2)
    assert BoxDiff({"cat": BOX})(maps).item() < 0.5
    assert BoxDiff({"cat": (0.5, 0.5, 1.0, 1.0)})(maps).item() > 3
    assert AttendAndExcite(["cat"])(maps).item() == pytest.approx(0, abs=1e-4)
    assert AttendAndExcite(["cat", "red"])(maps).item() > 0.4
    same = WordMaps(shares[..., [0, 2, 2, 3]], words)
    assert Binding([("red", "cat")])(same).item() == pytest.approx(0, abs=1e-6)
    assert Binding([("red", "cat")])(maps).item() > 0.1
    assert Segregation(["red", "cat"])(same).item() == pytest.approx(0.5)
    apart = shares[..., [0, 2, 2, 3]].clone()
    apart[..., 1] = 1 - apart[..., 2]
    assert Segregation(["red", "cat"])(WordMaps(apart, words)).item() < 1e-3


def test_a_loss_that_acts_at_its_checks_only() -> None:
    loss = Segregation(["red", "cat"], iterations=0, checks=[(0.2, 0.2), (0.4, 0.1)], refinements=7)
    found = [loss.enough_at(step / 10, step, 10) for step in range(10)]
    assert {step: each for step, each in enumerate(found) if each[0]} == {2: (7, 0.2), 4: (7, 0.1)}
    assert Segregation(["red", "cat"]).enough_at(0.2, 2, 10) == (1, 0.0)


def test_shares_themselves_are_excited() -> None:
    shares = torch.full((1, 8, 8, 4), 0.1)
    shares[..., 2] = 0.3
    words = ((Word("red", 0, 0, (1,)), Word("cat", 0, 0, (2,))),)
    loss = AttendAndExcite(["red", "cat"], softmax=False)
    assert loss(WordMaps(shares, words)).item() == pytest.approx(0.9)


def test_a_picture_beside_the_words_is_none_of_them() -> None:
    """Its columns, and the padding before them, stand behind the prompt's."""
    maps = word_maps()
    behind = torch.cat([maps.shares, torch.full((1, 6, 5, 8), 0.7)], dim=-1)
    picture = Word("picture 1", 0, 0, (10, 11, 12, 13), source="picture")
    beside = WordMaps(behind, ((*maps.words[0], picture),), prompts=(PROMPT,))
    alone = WordMaps(maps.shares, maps.words, prompts=(PROMPT,))
    assert beside.prompt_columns(0) == alone.prompt_columns(0) == range(1, 5)
    for loss in (AttendAndExcite(["cat", "dog"]), Binding()):
        assert torch.equal(loss(beside), loss(alone))
    asked = AttendAndExcite(["cat", "picture 1"])
    for told in (asked.check, asked):
        with pytest.raises(UserError, match=r"prompt for AttendAndExcite.*'picture 1'"):
            told(beside)
    shares = AttendAndExcite(["cat", "picture 1"], softmax=False)
    assert shares(beside).item() >= 1 - 0.7
    nothing = WordMaps(behind, ((picture,),), prompts=("",))
    with pytest.raises(UserError, match="words of the prompt"):
        AttendAndExcite(["picture 1"]).check(nothing)


def test_binding_finds_the_same_pairs() -> None:
    """In each prompt its own; and what has the same noun is not kept apart."""
    maps = word_maps(images=2)
    given = Binding([("red", "cat"), ("blue", "dog")])
    found = Binding()(WordMaps(maps.shares, maps.words, prompts=(PROMPT, PROMPT)))
    assert torch.allclose(found, given(maps))
    together = PROMPT.replace(", ", "  ")  # "red cat blue dog": three of one noun
    one = Binding()(WordMaps(maps.shares, maps.words, prompts=(PROMPT, together)))
    assert torch.equal(one[0], found[0])
    alone = [Binding([(each, "dog")])(maps)[1] for each in ("red", "cat", "blue")]
    assert torch.allclose(one[1], torch.stack(alone).sum())


def test_binding_on_a_pipeline(pipe: Any, draw: Any) -> None:
    loss = Binding(scale=20.0, until=1.0)
    plain = draw(pipe, ["a red circle", "a blue circle left of red"])
    with guide(pipe, loss):
        found = draw(pipe, ["a red circle", "a blue circle left of red"])
    assert all(a.tobytes() != b.tobytes() for a, b in zip(found, plain, strict=True))
    before = state_of(pipe)
    none = pytest.raises(UserError, match="an adjective before its noun, but found none in 'red'")
    with none, guide(pipe, loss):
        draw(pipe, ["a red circle", "red"])
    with torch.no_grad():
        text, negative = pipe.encode_prompt("a red circle", "cpu", 1, True)
    embeddings = {"prompt_embeds": text, "negative_prompt_embeds": negative}
    for spans in (None, {"red": [2], "circle": [3]}):
        with pytest.raises(UserError, match="prompt as text"), guide(pipe, loss, spans=spans):
            draw(pipe, None, **embeddings)
    assert state_of(pipe) == before


def test_one_update_is_the_gradient_of_the_whole_denoiser(pipe: Any) -> None:
    """With hooks on the projections of all sites, and no pass that ends early."""
    loss = Layout({"circle": BOX}, scale=7.0, until=1.0, iterations=1, enough=0.0)
    names = [site.name for site in find_sites(pipe.unet) if site.level == 0]
    start = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(3))
    options = {"num_inference_steps": 1, "output_type": "latent"}
    with guide(pipe, loss, sites=names):
        found = pipe("a red circle", latents=start.clone(), **options).images

    captured: dict[tuple[str, str], Tensor] = {}
    hooks = [
        getattr(pipe.unet.get_submodule(name), which).register_forward_hook(
            lambda _, __, out, key=(name, which): captured.__setitem__(key, out)
        )
        for name in names
        for which in ("to_q", "to_k")
    ]
    with torch.no_grad():
        text, none = pipe.encode_prompt("a red circle", "cpu", 1, True)
    pipe.scheduler.set_timesteps(1)
    timestep = pipe.scheduler.timesteps[0]
    latents = start.clone().requires_grad_(True)
    pipe.unet(torch.cat([latents] * 2), timestep, torch.cat([none, text]))
    maps = []
    for name in names:
        q, k = (split_heads(captured[name, which][1:], 2) for which in ("to_q", "to_k"))
        maps.append(reference_probs(scores(q, k)).mean(1).reshape(8, 8, 77))
    with record(pipe) as trace:
        pipe("a red circle", latents=start.clone(), **options)
    columns = list(trace.words[2].columns)
    circle = torch.stack(maps).mean(0)[..., columns].sum(-1)
    value = (1 - circle[:4, :4].sum() / circle.sum()) ** 2
    (gradient,) = torch.autograd.grad(value, latents)
    for hook in hooks:
        hook.remove()
    expected = pipe("a red circle", latents=start - 7.0 * gradient, **options).images
    plain = pipe("a red circle", latents=start.clone(), **options).images
    assert torch.allclose(found, expected, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(found, plain, rtol=1e-2, atol=1e-2)


def circumstances() -> dict[str, Any]:
    def stock(**options: Any) -> Any:
        pipe = make_pipeline()
        return pipe, runner(pipe, **options)

    def euler() -> Any:
        pipe = make_pipeline()
        pipe.scheduler = diffusers.EulerDiscreteScheduler.from_config(pipe.scheduler.config)
        return pipe, runner(pipe)

    def sdxl() -> Any:
        pipe = make_sdxl()
        return pipe, runner(pipe)

    def img2img() -> Any:
        pipe = of_class("StableDiffusionImg2ImgPipeline")
        return pipe, runner(pipe, image=noise_picture(), strength=0.7)

    def bfloat16() -> Any:
        pipe = make_pipeline().to(dtype=torch.bfloat16)
        return pipe, runner(pipe)

    def float16() -> Any:
        pipe = make_pipeline().to(dtype=torch.float16)
        return pipe, runner(pipe)

    def compiled() -> Any:
        torch._dynamo.reset()
        pipe = make_pipeline()
        pipe.unet = torch.compile(pipe.unet, backend="eager", fullgraph=True)
        return pipe, runner(pipe)

    return {
        "stock": stock,
        "two prompts": lambda: stock(prompt=["a red circle", "red circle"]),
        "guidance off": lambda: stock(guidance_scale=1.0),
        "not square": lambda: stock(height=64, width=96),
        "Euler": euler,
        "SDXL": sdxl,
        "img2img": img2img,
        "bfloat16": bfloat16,
        "float16": float16,
        "compiled": compiled,
    }


@pytest.mark.parametrize("name", circumstances())
def test_words_come_into_their_boxes(name: str) -> None:
    """And the pipeline is left as it was found, and a recording sees its own calls only."""
    pipe, draw = circumstances()[name]()
    with record(pipe) as plain:
        pictures = draw()
    before, calls = state_of(pipe), set(vars(pipe.scheduler))
    loss = Layout({"circle": BOX}, scale=20.0, until=1.0, iterations=3, enough=0.0)
    with guide(pipe, loss), record(pipe) as trace:
        assert "eta" in inspect.signature(pipe.scheduler.step).parameters or name == "Euler"
        guided = draw()
    assert state_of(pipe) == before
    assert set(vars(pipe.scheduler)) == calls
    assert all(each.grad is None for each in pipe.unet.parameters())
    assert trace.settings["calls"] == plain.settings["calls"]
    assert np.isfinite(guided).all()
    assert guided.tobytes() != pictures.tobytes()
    for image in range(len(trace.prompts)):
        inside = []
        for each in (plain, trace):
            heat = each.heatmap("circle", image=image).array
            height, width = heat.shape
            inside.append(heat[: height // 2, : width // 2].sum() / heat.sum())
        assert inside[1] > inside[0] + 1e-4
    assert draw().tobytes() == pictures.tobytes()


def test_a_loss_that_is_low_enough_changes_nothing(pipe: Any, draw: Any) -> None:
    plain = draw(pipe)
    with guide(pipe, Layout({"circle": BOX}, enough=9.0, until=1.0)):
        assert draw(pipe).tobytes() == plain.tobytes()


def test_only_in_its_part_of_the_run(pipe: Any) -> None:
    seen = []

    class Counted(Layout):
        def __call__(self, maps: WordMaps) -> Tensor:
            seen.append(maps.steps_done)
            return super().__call__(maps)

    loss = Counted({"circle": BOX}, until=0.5, iterations=1, enough=0.0)
    with guide(pipe, loss):
        for _ in range(2):  # runs may follow each other
            pipe("a red circle", num_inference_steps=4, output_type="latent")
    assert seen == [0.0, 0.25, 0.0, 0.25]


def test_refinement_ends_when_the_words_are_seen() -> None:
    loss = AttendAndExcite(["circle"], refinements=7)
    for step, most, enough in ((0, 7, 0.95), (10, 7, 0.5), (20, 7, 0.2), (5, 1, 0.0)):
        found = loss.enough_at(step / 50, step, 50)
        assert found[0] == most
        assert found[1] == pytest.approx(enough)


def test_losses_add_up_and_leave_after_an_exception(pipe: Any, draw: Any) -> None:
    plain, before = draw(pipe), state_of(pipe)

    def stop(*_: Any) -> Any:
        raise RuntimeError("stop")

    both = (AttendAndExcite(["red", "circle"]), Layout({"circle": BOX}))
    with pytest.raises(RuntimeError, match="stop"), guide(pipe, *both):
        draw(pipe, callback_on_step_end=stop)
    assert state_of(pipe) == before
    assert "step" not in vars(pipe.scheduler)
    assert draw(pipe).tobytes() == plain.tobytes()


class Looking(GuidanceLoss):
    """A loss of one's own that keeps the maps that it is given, and wants nothing of them."""

    def __init__(self) -> None:
        super().__init__(until=1.0, iterations=1)
        self.maps: list[WordMaps] = []

    def phrases(self) -> list[str]:
        return ["circle"]

    def __call__(self, maps: WordMaps) -> Tensor:
        self.maps.append(maps)
        return 0 * maps.of("circle").sum(dim=(1, 2))


class TestBesideOthers:
    def test_losses_see_the_maps_before_edits(self, pipe: Any, draw: Any) -> None:
        """At all sites that come before those of an edit, which changes what comes after it."""
        seen = []
        first = find_sites(pipe.unet)[0].name
        for edits in ((), (Drop("circle", sites=[first]),)):
            loss = Looking()
            with ExitStack() as stack:
                for each in edits:
                    stack.enter_context(edit(pipe, each))
                stack.enter_context(guide(pipe, loss, sites=[first]))
                draw(pipe, num_inference_steps=1)
            (maps,) = loss.maps
            seen.append(maps.shares.detach())
        assert torch.equal(seen[0], seen[1])
        assert seen[0][..., 3].min() > 0

    def test_another_pipeline_on_the_same_unet(self, pipe: Any, draw: Any) -> None:
        """Is guided as little as it is refused for its words."""
        other = of_class("StableDiffusionPipeline", pipe)
        other.scheduler = diffusers.DDIMScheduler.from_config(pipe.scheduler.config)
        plain = draw(other, "blue")
        loss = Layout({"circle": BOX}, until=1.0, enough=0.0)
        with guide(pipe, loss):
            alone = draw(pipe)
        with guide(pipe, loss):
            assert draw(other, "blue").tobytes() == plain.tobytes()
            assert draw(pipe).tobytes() == alone.tobytes()
        assert draw(pipe).tobytes() != alone.tobytes()

    def test_gradient_checkpointing(self, pipe: Any, draw: Any) -> None:
        loss = Layout({"circle": BOX}, until=1.0, enough=0.0)
        with guide(pipe, loss):
            expected = draw(pipe)
        pipe.unet.enable_gradient_checkpointing()
        with guide(pipe, loss):
            drawn = draw(pipe)
        assert np.allclose(drawn, expected, atol=1e-5)
        assert pipe.unet.is_gradient_checkpointing
        assert not np.allclose(drawn, draw(pipe), atol=1e-4)


class TestBadInput:
    @pytest.mark.parametrize(
        ("make", "message"),
        [
            (lambda: AttendAndExcite("cat"), "words="),
            (lambda: AttendAndExcite([]), "words="),
            (lambda: Layout({}), "boxes="),
            (lambda: Layout({"cat": (0.5, 0, 0.2, 1)}), "box"),
            (lambda: BoxDiff({"cat": (0, 0, 1, 1.5)}), "box"),
            (lambda: Segregation("cat"), "words="),
            (lambda: Segregation(["cat"]), "at least two"),
            (lambda: Binding(["red"]), "as pairs of Binding"),  # type: ignore[list-item]
            (lambda: Binding([]), "pairs="),
            (lambda: Binding("red cat"), "as pairs of Binding"),  # type: ignore[arg-type]
            (lambda: Layout({"cat": "left"}), "box"),  # type: ignore[dict-item]
            (lambda: Layout({"cat": BOX}, scale=float("inf")), "finite scale"),
            (lambda: Layout({"cat": BOX}, scale=float("nan")), "a number as scale of Layout"),
            (lambda: Layout({"cat": BOX}, enough=float("nan")), "a number as enough"),
            (lambda: AttendAndExcite(["cat"], scale=0), "scale above 0"),
            (lambda: AttendAndExcite(["cat"], until=1.5), "until above 0"),
        ],
    )
    def test_losses(self, make: Any, message: str) -> None:
        with pytest.raises(UserError, match=message):
            make()

    def test_what_is_no_loss(self, pipe: Any) -> None:
        word: Any = "circle"
        with pytest.raises(UserError, match="losses such as"), guide(pipe, word):
            pass
        with pytest.raises(UserError, match="at least one loss"), guide(pipe):
            pass
        with (
            pytest.raises(UserError, match="pipeline with a `scheduler`, but object has none"),
            guide(object(), *LOSSES.values()),
        ):
            pass
        pipe.unet = None
        with (
            pytest.raises(UserError, match="with a denoiser"),
            guide(pipe, *LOSSES.values()),
        ):
            pass

    def test_words_and_sites_that_are_not_there(self, pipe: Any, draw: Any) -> None:
        draw(pipe)
        before = state_of(pipe)
        with pytest.raises(WordNotFoundError, match="cat"), guide(pipe, AttendAndExcite(["cat"])):
            draw(pipe)
        loss = AttendAndExcite(["circle"])
        with (
            pytest.raises(UserError, match="one resolution"),
            guide(pipe, loss, sites=lambda _: True),
        ):
            draw(pipe)
        with pytest.raises(UserError, match="name of a site"), guide(pipe, loss, sites=["x"]):
            pass
        assert state_of(pipe) == before

    def test_another_scheduler_meanwhile(self, pipe: Any, draw: Any) -> None:
        with guide(pipe, Layout({"circle": BOX}, until=1.0, enough=0.0)):
            pipe.scheduler = diffusers.DDIMScheduler.from_config(pipe.scheduler.config)
            with pytest.raises(UserError, match="the pipeline's own scheduler"):
                draw(pipe)


def test_weights_that_were_made_in_inference_mode() -> None:
    with torch.inference_mode():
        pipe = make_pipeline()
    loss = Layout({"circle": (0, 0, 0.5, 1)})
    with pytest.raises(UserError, match="load the pipeline outside of it"), guide(pipe, loss):
        pass
