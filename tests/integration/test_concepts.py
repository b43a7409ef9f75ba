"""Maps of words that are not in the prompt, held against computations by hand."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import save_file
from torch import Tensor, nn

import concepts_by_hand as by_hand
import t2i_xattn as tx
from conftest import make_pipeline
from t2i_xattn import edits, losses
from t2i_xattn.errors import UserError
from tiny.case import PROMPT, Case
from tiny.double_streams import CASES
from tiny_pipelines import Run, controlnet_pipeline, load_ip_adapter, make_sdxl, runner

CONCEPTS = ["sky", "red ball", "blue"]
FLUX, SD3 = CASES["FluxPipeline"], CASES["StableDiffusion3Pipeline"]
GUIDED = CASES["FluxPipeline with true guidance"]
QWEN = CASES["QwenImagePipeline, two prompts, guided"]
KLEIN, CHROMA = CASES["Flux2KleinPipeline"], CASES["ChromaPipeline"]


def picture_of(case: Case, pipe: Any, **more: Any) -> NDArray[Any]:
    return np.asarray(case.run(pipe, **more))


def own_names(denoiser: nn.Module) -> dict[str, set[str]]:
    """What recording might leave in the dictionaries of a denoiser's modules."""
    return {name: set(vars(module)) for name, module in denoiser.named_modules()}


def maps(trace: tx.Trace, site: str) -> NDArray[np.float32]:
    """`(images, places, concepts)` of the conditional branch."""
    found = trace.run.maps["concepts"][site]
    return found[:, 0, 0].mean(axis=1).reshape(len(found), -1, found.shape[-1])


@pytest.mark.parametrize("case", CASES.values(), ids=str)
def test_joint_attention_keeps_the_picture_and_is_restored(case: Case) -> None:
    pipe = case.make()
    plain, before = picture_of(case, pipe), own_names(pipe.transformer)
    with tx.record(pipe) as without:
        picture_of(case, pipe)
    with tx.record(pipe, concepts=CONCEPTS) as trace:
        assert np.array_equal(picture_of(case, pipe), plain)
    assert own_names(pipe.transformer) == before
    assert np.array_equal(picture_of(case, pipe), plain)
    for name, array in without.maps.items():
        assert np.array_equal(array, trace.maps[name]), "the other maps are as they were"
    double = [n for n in without.maps if n.startswith("transformer_blocks")]
    assert list(trace.run.maps["concepts"]) == double
    for name in double:
        assert np.abs(trace.run.maps["concepts"][name].sum(-1) - 1).max() < 1e-5
    assert trace.concepts == tuple(CONCEPTS)
    assert trace.prompts == without.prompts, "the concepts are heard by nobody"
    assert trace.settings["calls"] == without.settings["calls"]


def t5_of(pipe: Any, tokenizer: str, encoder: str, length: int) -> Callable[[str], Tensor]:
    """The T5 embeddings of a concept's own tokens, `(tokens, channels)`."""

    def embedded(concept: str) -> Tensor:
        tokenize = getattr(pipe, tokenizer)
        ids = tokenize(
            concept, padding="max_length", max_length=length, truncation=True, return_tensors="pt"
        ).input_ids
        count = len(tokenize(concept, add_special_tokens=False)["input_ids"])
        found: Tensor = getattr(pipe, encoder)(ids)[0]
        return found[0, :count]

    return embedded


def sd3_of(pipe: Any, length: int) -> Callable[[str], Tensor]:
    """Both CLIPs' features side by side, filled up with zeros, then T5's."""
    t5 = t5_of(pipe, "tokenizer_3", "text_encoder_3", length)

    def embedded(concept: str) -> Tensor:
        parts = []
        for end in ("", "_2"):
            tokenize, encoder = (getattr(pipe, n + end) for n in ("tokenizer", "text_encoder"))
            ids = tokenize(
                concept, padding="max_length", max_length=77, return_tensors="pt"
            ).input_ids
            count = len(tokenize(concept, add_special_tokens=False)["input_ids"])
            hidden = encoder(ids, output_hidden_states=True).hidden_states[-2]
            parts.append(hidden[0, 1 : 1 + count])
        clip, of_t5 = torch.cat(parts, dim=-1), t5(concept)
        clip = nn.functional.pad(clip, (0, of_t5.shape[-1] - clip.shape[-1]))
        return torch.cat([clip, of_t5])

    return embedded


def expected(
    pipe: Any,
    run: Callable[[], Any],
    states: Callable[[Any], Tensor],
    step: Callable[[Any, by_hand.Given, Tensor], tuple[Tensor, Tensor, Tensor | None]],
    counts: Sequence[int],
    every: int = 1,
    rows: slice = slice(None),
) -> dict[str, NDArray[np.float64]]:
    """By site `(images, places, concepts)`, the mean over the conditional calls of a plain run.

    Args:
        states: from the first block's arguments to the concepts' states `(1, tokens, width)`.
        step: from a block, its arguments and the concepts' states to what it gives.
        counts: tokens of each concept.
        every: calls of the denoiser for each conditional one, which is the first.
        rows: the conditional ones.
    """
    denoiser = pipe.transformer
    names = [f"transformer_blocks.{n}" for n in range(len(denoiser.transformer_blocks))]
    calls = by_hand.Calls(denoiser, names)
    run()
    calls.close()
    total: dict[str, list[Tensor]] = {}
    with torch.no_grad():
        for call in range(0, len(calls.given[names[0]]), every):
            first = calls.given[names[0]][call]
            now: Tensor | None = states(first).expand(len(first["hidden_states"]), -1, -1)
            for name in names:
                assert now is not None
                block, given = denoiser.get_submodule(name), calls.given[name][call]
                picture, concepts, now = step(block, given, now)
                one = by_hand.one_map(picture, concepts, counts)[rows]
                total.setdefault(f"{name}.attn", []).append(one)
    return {name: torch.stack(each).mean(0).numpy() for name, each in total.items()}


def check(trace: tx.Trace, right: dict[str, NDArray[np.float64]]) -> None:
    assert list(trace.run.maps["concepts"]) == list(right)
    for site, each in right.items():
        found = maps(trace, site)
        assert np.abs(found - each).max() < 2e-5
        assert each.std(axis=1).min() > 1e-3, "a map that says something"


@pytest.mark.parametrize(("case", "every"), [(FLUX, 1), (GUIDED, 2)], ids=str)
def test_flux_by_its_submodules(case: Case, every: int) -> None:
    pipe = case.make()
    with torch.no_grad():
        embedded = t5_of(pipe, "tokenizer_2", "text_encoder_2", 32)
        parts = [embedded(concept) for concept in CONCEPTS]
        states = pipe.transformer.context_embedder(torch.cat(parts)[None])
    right = expected(
        pipe,
        lambda: case.run(pipe),
        lambda given: states,
        by_hand.by_submodules,
        list(map(len, parts)),
        every,
    )
    with tx.record(pipe, concepts=CONCEPTS) as trace:
        case.run(pipe)
    check(trace, right)


@pytest.mark.parametrize("pictures", [1, 2])
def test_sd3_by_its_submodules(pictures: int) -> None:
    pipe = SD3.make()
    with torch.no_grad():
        embedded = sd3_of(pipe, 16)
        parts = [embedded(concept) for concept in CONCEPTS]
        states = pipe.transformer.context_embedder(torch.cat(parts)[None])
    more = {"num_images_per_prompt": pictures}
    right = expected(
        pipe,
        lambda: SD3.run(pipe, **more),
        lambda given: states,
        by_hand.by_submodules,
        list(map(len, parts)),
        rows=slice(pictures, 2 * pictures),
    )
    with tx.record(pipe, concepts=CONCEPTS) as trace:
        SD3.run(pipe, **more)
    check(trace, right)
    if pictures == 2:
        one, other = (maps(trace, site)[:2] for site in list(right)[:2])
        assert np.abs(one[0] - one[1]).max() > 1e-4
        assert one.shape == other.shape


def test_qwen_by_its_blocks() -> None:
    """A word's tokens have the places that they have in a prompt; nothing of theirs is masked."""
    pipe = QWEN.make()
    denoiser, template = pipe.transformer, pipe.prompt_template_encode
    parts: list[Tensor] = []
    columns: list[int] = []
    with torch.no_grad():
        for concept in CONCEPTS:
            ids = pipe.tokenizer(template.format(concept), return_tensors="pt").input_ids
            hidden = pipe.text_encoder(ids, output_hidden_states=True).hidden_states[-1][0, 34:]
            count = len(pipe.tokenizer(concept)["input_ids"])
            parts.append(hidden[:count])
            columns += range(count)
        states = denoiser.txt_in(denoiser.txt_norm(torch.cat(parts)[None]))

    def step(block: Any, given: by_hand.Given, now: Tensor) -> Any:
        picture, _ = given["image_rotary_emb"]
        _, text = denoiser.pos_embed([[(1, 3, 4)]], max_txt_seq_len=64)
        return by_hand.by_block(
            block,
            given,
            {
                "encoder_hidden_states": now,
                "encoder_hidden_states_mask": None,
                "image_rotary_emb": (picture, text[columns]),
            },
        )

    right = expected(
        pipe, lambda: QWEN.run(pipe), lambda given: states, step, list(map(len, parts)), 2
    )
    with tx.record(pipe, concepts=CONCEPTS) as trace:
        QWEN.run(pipe)
    check(trace, right)


@pytest.mark.parametrize("case", [KLEIN, CHROMA], ids=str)
def test_flux2_and_chroma_by_their_blocks(case: Case) -> None:
    pipe = case.make()
    denoiser = pipe.transformer
    parts: list[Tensor] = []
    columns: list[int] = []
    options = {"max_sequence_length": case.options["max_sequence_length"]}
    if case is KLEIN:
        options["text_encoder_out_layers"] = case.options["text_encoder_out_layers"]
    else:
        options["do_classifier_free_guidance"] = False
    with torch.no_grad():
        for concept in CONCEPTS:
            found = pipe.encode_prompt(concept, **options)[0][0]
            own = pipe.tokenizer(concept, add_special_tokens=False)["input_ids"]
            first = 0
            if case is KLEIN:  # behind the beginning of the template
                messages = [{"role": "user", "content": concept}]
                whole = pipe.tokenizer.apply_chat_template(
                    messages, tokenize=True, add_generation_prompt=True, return_dict=False
                )
                first = next(n for n in range(64) if whole[n : n + len(own)] == own)
            parts.append(found[first : first + len(own)])
            columns += range(first, first + len(own))
        states = denoiser.context_embedder(torch.cat(parts)[None])

    def step(block: Any, given: by_hand.Given, now: Tensor) -> Any:
        ids = torch.zeros(len(columns), 4 if case is KLEIN else 3)
        if case is KLEIN:
            ids[:, 3] = torch.tensor(columns)
        text, length = denoiser.pos_embed(ids), given["encoder_hidden_states"].shape[1]
        pairs = zip(text, given["image_rotary_emb"], strict=True)
        changed = {
            "encoder_hidden_states": now,
            "image_rotary_emb": tuple(torch.cat([own, both[length:]]) for own, both in pairs),
        }
        if "attention_mask" in given:
            changed["attention_mask"] = None
        return by_hand.by_block(block, given, changed)

    counts = list(map(len, parts))
    right = expected(pipe, lambda: case.run(pipe), lambda given: states, step, counts, 2)
    with tx.record(pipe, concepts=CONCEPTS) as trace:
        case.run(pipe)
    check(trace, right)


UNETS: list[tuple[str, Callable[[], Any]]] = [("SD", make_pipeline), ("SDXL", make_sdxl)]


def text_of(pipe: Any, concept: str) -> tuple[Tensor, list[int]]:
    """The encoded concept `(77, channels)`, and the columns between start and end token."""
    count = len(pipe.tokenizer(concept, add_special_tokens=False)["input_ids"])
    hidden = []
    for end in ("", "_2"):
        encoder = getattr(pipe, f"text_encoder{end}", None)
        if encoder is not None:
            ids = getattr(pipe, f"tokenizer{end}")(
                concept, padding="max_length", max_length=77, return_tensors="pt"
            ).input_ids
            output = encoder(ids, output_hidden_states=True)
            both = hasattr(pipe, "text_encoder_2")
            hidden.append(output.hidden_states[-2] if both else output[0])
    return torch.cat(hidden, dim=-1)[0], list(range(1, 1 + count))


def shares_by_hand(
    pipe: Any, run: Run, concepts: Sequence[str], rows: slice
) -> dict[str, NDArray[np.float64]]:
    """By site `(images, places, concepts)`: the mean over heads and calls of a plain run."""
    names = [name for name, m in pipe.unet.named_modules() if name.endswith("attn2")]
    calls = by_hand.Calls(pipe.unet, names)
    run()
    calls.close()
    found: dict[str, NDArray[np.float64]] = {}
    with torch.no_grad():
        texts = [text_of(pipe, concept) for concept in concepts]
        for name in names:
            attn, each = pipe.unet.get_submodule(name), []
            for given in calls.given[name]:
                query = attn.to_q(given["hidden_states"]).unflatten(-1, (attn.heads, -1))[rows]
                parts = []
                for text, own in texts:
                    key = attn.to_k(text).unflatten(-1, (attn.heads, -1))
                    scores = torch.einsum("rphd,thd->rhpt", query.double(), key.double())
                    probs = (scores * attn.scale).softmax(-1)
                    parts.append(probs[..., own].sum(-1).mean(1))
                each.append(torch.stack(parts, dim=-1))
            found[name] = torch.stack(each).mean(0).numpy()
    return found


@pytest.mark.parametrize("make", [make for _, make in UNETS], ids=[name for name, _ in UNETS])
@pytest.mark.parametrize("pictures", [1, 2])
def test_cross_attention_by_hand(make: Callable[[], Any], pictures: int) -> None:
    pipe = make()
    run = runner(pipe, num_images_per_prompt=pictures)
    plain, before = run(), own_names(pipe.unet)
    right = shares_by_hand(pipe, run, CONCEPTS, slice(pictures, 2 * pictures))
    with tx.record(pipe, concepts=CONCEPTS) as trace:
        assert np.array_equal(run(), plain)
    assert own_names(pipe.unet) == before
    assert list(trace.run.maps["concepts"]) == [site.name for site in trace.sites]
    assert set(trace.run.maps["concepts"]) == set(right)
    for site, each in right.items():
        assert np.abs(maps(trace, site) - each).max() < 1e-5
    heat = trace.heatmap("Red Ball", stream="concepts", image=pictures - 1)
    shares = np.mean([each[-1, :, 1].mean() for each in right.values()])
    assert heat.word == "Red Ball"
    assert heat.share == pytest.approx(shares, rel=0.05)


def test_one_concept_is_enough_in_cross_attention() -> None:
    """Each has a softmax of its own: the prompt as a concept has the maps of the prompt."""
    pipe = make_pipeline()
    run = runner(pipe, prompt=PROMPT)
    with tx.record(pipe, concepts=[PROMPT], branches=["unconditional", "conditional"]) as trace:
        run()
    with pytest.raises(UserError, match=r"select\(branch='conditional'\)"):
        trace.heatmap(PROMPT, stream="concepts")
    prompt = trace.select(branch="conditional")
    ours = prompt.heatmap(PROMPT, stream="concepts").array
    theirs = prompt.heatmap(PROMPT, aggregate=None, stream="text").array
    assert np.abs(ours - theirs).max() < 1e-5


def test_beside_adapters_and_controlnets() -> None:
    pipe = make_pipeline()
    load_ip_adapter(pipe)
    adapted = runner(pipe, ip_adapter_image_embeds=[torch.randn(2, 1, 1, 32)])
    plain = adapted()
    with tx.record(pipe, concepts=CONCEPTS, heads="each") as trace:
        assert np.array_equal(adapted(), plain)
    one = trace.select(heads=1)
    assert one.run.maps["concepts"].keys() == trace.run.maps["text"].keys()
    assert trace.run.maps["picture 1"].keys() == trace.run.maps["concepts"].keys()

    pipe, run = controlled()
    with tx.record(pipe, concepts=CONCEPTS, controlnet=True) as trace:
        run()
    assert any(name.startswith("controlnet.") for name in trace.run.maps["concepts"])


def test_beside_all_that_is_recorded_of_cross_attention() -> None:
    pipe = make_pipeline()
    run = runner(pipe, prompt=PROMPT)
    plain = run()
    options: dict[str, Any] = {"heads": "auto", "walk": 1, "words": ["circle", "blue"]}
    with tx.record(pipe, concepts=CONCEPTS, self_attention=[(0.5, 0.5)], **options) as trace:
        assert np.array_equal(run(), plain)
    with tx.record(pipe, **options) as without:
        run()
    for site, each in without.run.maps["walked"].items():
        assert np.array_equal(each, trace.run.maps["walked"][site])
    assert trace.heatmap("sky", stream="concepts", aggregate=tx.aggregation.auto).array.max() <= 1
    with (
        pytest.raises(UserError, match="expected maps of at most 2,000 bytes"),
        tx.record(pipe, concepts=CONCEPTS, words=["circle"], budget=2000),
    ):
        run()


def controlled() -> tuple[Any, Run]:
    pipe = controlnet_pipeline()
    return pipe, runner(pipe, image=torch.rand(1, 3, 64, 64))


def test_steps_and_heads() -> None:
    pipe = FLUX.make()
    with tx.record(pipe, concepts=CONCEPTS, steps="each", heads="each") as trace:
        FLUX.run(pipe)
    assert all(each.shape[2:4] == (2, 1) for each in trace.run.maps["concepts"].values())
    with tx.record(pipe, concepts=CONCEPTS) as whole:
        FLUX.run(pipe)
    both = [trace.select(steps=n).heatmap("sky", stream="concepts").array for n in (0, 1)]
    assert np.abs(np.mean(both, 0) - whole.heatmap("sky", stream="concepts").array).max() < 1e-6
    of_head = trace.select(heads=1, sites=lambda site: site.depth == 0)
    assert list(of_head.run.maps["concepts"]) == ["transformer_blocks.0.attn"]
    single = trace.select(sites=["single_transformer_blocks.0.attn"])
    assert "concepts" not in single.run.maps


def test_with_edits_and_another_recording() -> None:
    pipe = FLUX.make()
    drop = edits.Drop("circle")
    with tx.edit(pipe, drop):
        plain = picture_of(FLUX, pipe)
    with tx.record(pipe, concepts=CONCEPTS) as unedited:
        FLUX.run(pipe)
    before = own_names(pipe.transformer)
    with (
        tx.record(pipe, concepts=["blue", "sea"]) as outer,
        tx.edit(pipe, drop),
        tx.record(pipe, concepts=CONCEPTS) as trace,
        tx.record(pipe) as other,
    ):
        assert np.array_equal(picture_of(FLUX, pipe), plain)
    assert own_names(pipe.transformer) == before
    assert outer.concepts == ("blue", "sea")
    assert "concepts" not in other.run.maps
    assert other.run.settings["calls"] == trace.run.settings["calls"] == 2
    with tx.edit(pipe, drop), tx.record(pipe, concepts=CONCEPTS) as alone:
        FLUX.run(pipe)
    for site, each in trace.run.maps["concepts"].items():
        assert np.array_equal(each, alone.run.maps["concepts"][site])
        assert np.abs(each - unedited.run.maps["concepts"][site]).max() > 1e-5, "what the run gave"


def test_with_guidance() -> None:
    pipe = make_pipeline()
    run = runner(pipe, prompt=PROMPT)
    loss = losses.AttendAndExcite(["circle", "square"])
    with tx.guide(pipe, loss):
        plain = run()
    with tx.guide(pipe, loss), tx.record(pipe, concepts=CONCEPTS) as trace:
        assert np.array_equal(run(), plain)
    assert trace.settings["calls"] == 3


def test_dropout_and_random_state() -> None:
    pipe = SD3.make()
    for block in pipe.transformer.transformer_blocks:
        for part in block.modules():
            if isinstance(part, nn.Dropout):
                part.p = 0.5
    pipe.transformer.train()

    def drawn() -> tuple[NDArray[Any], Tensor]:
        torch.manual_seed(3)
        return picture_of(SD3, pipe), torch.rand(4)

    picture, state = drawn()
    with tx.record(pipe, concepts=CONCEPTS):
        same, after = drawn()
    assert np.array_equal(picture, same)
    assert torch.equal(state, after)


def test_prompts_as_embeddings() -> None:
    pipe = FLUX.make()
    with torch.no_grad():
        embeds, pooled, _ = pipe.encode_prompt(PROMPT, None, max_sequence_length=32)
    given = {"prompt": None, "prompt_embeds": embeds, "pooled_prompt_embeds": pooled}
    with tx.record(pipe, concepts=CONCEPTS) as trace:
        FLUX.run(pipe, **given)
    with tx.record(pipe, concepts=CONCEPTS) as typed:
        FLUX.run(pipe)
    for site, each in typed.run.maps["concepts"].items():
        assert np.abs(each - trace.run.maps["concepts"][site]).max() < 1e-6


def test_file(tmp_path: Path) -> None:
    pipe = FLUX.make()
    with tx.record(pipe, concepts=CONCEPTS) as trace:
        FLUX.run(pipe)
    trace.save(tmp_path / "run.safetensors")
    again = tx.Trace.load(tmp_path / "run.safetensors")
    assert again.concepts == tuple(CONCEPTS)
    ours, theirs = (each.heatmap("sky", stream="concepts").array for each in (trace, again))
    assert np.array_equal(ours, theirs)
    with pytest.raises(UserError, match=r"expected a concept of 'sky', .* record with concepts="):
        again.heatmap("skyy", stream="concepts")
    single = trace.select(sites=["single_transformer_blocks.0.attn"])
    single.save(tmp_path / "single.safetensors")
    assert list(tx.Trace.load(tmp_path / "single.safetensors").run.maps) == ["text"]
    with tx.record(pipe, concepts=["sky", "sea", "blue"]) as other:
        FLUX.run(pipe)
    with pytest.raises(UserError, match="expected traces of the same"):
        _ = trace - other


def test_files_of_before_have_none(tmp_path: Path) -> None:
    pipe = FLUX.make()
    with tx.record(pipe) as trace:
        FLUX.run(pipe)
    path = tmp_path / "run.safetensors"
    trace.save(path)
    with safe_open(path, framework="np") as file:
        metadata = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    assert '"concepts": []' in metadata["t2i_xattn"]
    del metadata["sha256"]
    for later in (', "concepts": []', '"checksum": "sha256", '):
        metadata["t2i_xattn"] = metadata["t2i_xattn"].replace(later, "")
    save_file(tensors, path, metadata)
    again = tx.Trace.load(path)
    assert again.concepts == ()
    with pytest.raises(UserError, match="concepts=… for concepts"):
        again.heatmap("sky", stream="concepts")


@pytest.mark.usefixtures("more_graphs")
def test_compiled_blocks() -> None:
    pipe = FLUX.make()
    with tx.record(pipe, concepts=CONCEPTS) as eager:
        FLUX.run(pipe)
    pipe.transformer.compile_repeated_blocks(fullgraph=True, backend="eager")
    plain = picture_of(FLUX, pipe)
    with tx.record(pipe, concepts=CONCEPTS) as trace:
        assert np.array_equal(picture_of(FLUX, pipe), plain)
    for site, each in eager.run.maps["concepts"].items():
        assert np.abs(each - trace.run.maps["concepts"][site]).max() < 1e-5


@pytest.mark.usefixtures("more_graphs")
@pytest.mark.parametrize("when", ["before", "inside"])
def test_a_compiled_denoiser_is_refused(when: str) -> None:
    pipe = FLUX.make()
    if when == "before":
        pipe.transformer.compile(backend="eager")
    problem = r"not compiled as a whole .* compile_repeated_blocks"
    with pytest.raises(UserError, match=problem), tx.record(pipe, concepts=CONCEPTS):  # noqa: PT012
        pipe.transformer.compile(backend="eager")
        FLUX.run(pipe)


@pytest.fixture(scope="module")
def flux() -> Any:
    return FLUX.make()


@pytest.mark.parametrize(
    ("concepts", "problem"),
    [
        ([], "a list of at least one"),
        ("sky", "a list of at least one"),
        (["sky", "?!"], "concepts of letters or digits"),
        (["sky", ""], "concepts of letters or digits"),
        (["sky", 3], "a list of .a text. or None as concepts of record"),
        (["sky", "Sky"], "each concept once"),
        (["sky"], "at least two concepts in joint attention"),
    ],
)
def test_mistakes(flux: Any, concepts: Any, problem: str) -> None:
    with pytest.raises(UserError, match=problem), tx.record(flux, concepts=concepts):
        pytest.fail("before anything is changed")


def test_other_mistakes(flux: Any) -> None:
    for options, problem in (
        ({"sites": ["single_transformer_blocks.0.attn"]}, "double-stream blocks"),
        ({"branches": "unconditional"}, "the branch 'conditional' among"),
    ):
        with (
            pytest.raises(UserError, match=problem),
            tx.record(flux, concepts=CONCEPTS, **options),
        ):
            pytest.fail("before anything is changed")
    before = own_names(flux.transformer)
    with (
        pytest.raises(UserError, match="fit into the window of the text encoder"),
        tx.record(flux, concepts=["sky", "red " * 60]),
    ):
        FLUX.run(flux)
    assert own_names(flux.transformer) == before
    run = runner(pipe := make_pipeline())
    with (
        pytest.raises(UserError, match="fit into the window"),
        tx.record(pipe, concepts=["blue " * 80]),
    ):
        run()


def test_a_pipeline_without_text_encoders() -> None:
    pipe = FLUX.make()
    pipe.text_encoder = pipe.text_encoder_2 = None
    with (
        pytest.raises(UserError, match="with a text encoder to encode concepts"),
        tx.record(pipe, concepts=CONCEPTS),
    ):
        pytest.fail("before anything is changed")
    pipe = FLUX.make()
    with torch.no_grad():
        embeds, pooled, _ = pipe.encode_prompt(PROMPT, None, max_sequence_length=32)
    pipe.text_encoder_2 = None
    given = {"prompt": None, "prompt_embeds": embeds, "pooled_prompt_embeds": pooled}
    with (
        pytest.raises(UserError, match="text_encoder_2 is not loaded"),
        tx.record(pipe, concepts=CONCEPTS),
    ):
        FLUX.run(pipe, **given)


def test_denoisers_without_a_way() -> None:
    for module, name in (("cross", "PixArtSigmaPipeline"), ("by_row", "ZImagePipeline, guided")):
        cases = importlib.import_module(f"tiny.{module}").CASES
        (case,) = [each for each in cases if each.name == name]
        pipe = case.make()
        with (
            pytest.raises(UserError, match=r"expected a denoiser with blocks .* leave concepts"),
            tx.record(pipe, concepts=CONCEPTS),
        ):
            pytest.fail("before anything is changed")


def test_step_caches_are_refused() -> None:
    from diffusers import FirstBlockCacheConfig

    pipe = FLUX.make()
    pipe.transformer.enable_cache(FirstBlockCacheConfig(threshold=0.1))
    with (
        pytest.raises(UserError, match=r"without step caches .*disable_cache\(\)"),
        tx.record(pipe, concepts=CONCEPTS),
    ):
        FLUX.run(pipe)
    pipe.transformer.disable_cache()
    with tx.record(pipe, concepts=CONCEPTS) as trace:
        FLUX.run(pipe)
    assert len(trace.run.maps["concepts"]) == 2
