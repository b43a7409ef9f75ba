"""`record`: watch one run of a pipeline and leave everything as it was found."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

from t2i_xattn.arguments import checked
from t2i_xattn.denoisers.branches import CONDITIONAL
from t2i_xattn.denoisers.of_pipeline import denoisers_of
from t2i_xattn.denoisers.run import Repeated, Spans
from t2i_xattn.denoisers.sites import Sites, choose_sites
from t2i_xattn.errors import UserError
from t2i_xattn.prompts.concepts import check_can_encode, checked_concepts
from t2i_xattn.recording.contributions import check_can_contribute
from t2i_xattn.recording.keep import Heads, Keep, Places, Steps
from t2i_xattn.recording.run import RecordedDenoiser, RecordingRun
from t2i_xattn.traces.trace import Trace


@checked
@contextmanager
def record(
    pipe: Any,
    *,
    sites: Sites | None = None,
    words: Sequence[str] | None = None,
    columns: Sequence[int] | None = None,
    heads: Heads = "mean",
    steps: Steps = "sum",
    branches: str | Sequence[str] = CONDITIONAL,
    walk: int = 0,
    walk_every: int = 4,
    self_attention: Places | None = None,
    reference: str | None = None,
    text_looks: bool = False,
    concepts: Sequence[str] | None = None,
    contributions: bool = False,
    modalities: bool = False,
    spans: Spans | Sequence[Spans] | None = None,
    controlnet: bool = False,
    budget: int | None = None,
    unrecordable: Literal["raise", "skip"] = "raise",
    repeated: Repeated = "raise",
) -> Iterator[Trace]:
    """Records what the picture gives to each token of its text in one run of a diffusers pipeline.

    The picture is the same, byte for byte, as without recording: what stands at the sites goes on
    computing the output, with its fused kernel, whose queries and keys are read. Kept is, unless
    asked otherwise, for every site and every token the head mean of the conditional rows, averaged
    over the steps; memory does not grow with the steps.

    One context holds one run, and the calls of this pipeline only; a loop by hand over its denoiser
    counts as its own. Contexts nest in any order, and each gets full maps. On leaving, by success
    or by exception, all is as it was found; what was installed meanwhile (an IP-Adapter that was
    loaded) stays.

    Args:
        pipe: any loaded pipeline whose denoiser (`unet`, `transformer`) looks at a text.
        sites: which sites to keep: names, or a function of the `AttentionSite` that says yes or
            no, such as `lambda site: site.place == "up"`. By default all.
        words: words or phrases of the prompt to keep, the shares of their columns added up. By
            default every column of the text is kept by itself.
        columns: columns to keep instead, 0 the start token.
        heads: `"mean"`, `"each"` to keep every head by itself, or `"auto"` to weigh them at each
            place by what they add to the layer's output, and the sites by how well they agree with
            the layout of the picture; see `aggregation.auto`, which then pools the sites.
        steps: `"sum"` for one map over all steps, `"each"` for one a step (memory then grows with
            the steps), or windows `[(first, end), …]`, see `t2i_xattn.denoisers.steps`. A step is a
            call of the denoiser.
        branches: which branches of the guidance: `"conditional"`, `"unconditional"`, `"image"`
            (InstructPix2Pix), `"perturbed"` (PAG), or several.
        walk: steps by which the maps of words are carried along the self-attention of their block
            as well, as the stream `walked`: places that look at each other come to have alike
            shares. It costs about as much as self-attention for every 40 columns of words. With
            `contributions=True` these are carried too, as the stream `carried contribution`: the
            mean over the sites, along the self-attention of the finest.
        walk_every: the walk and the contributions are taken at the first call of each window of
            steps, and then at each so-manieth; the mean is over these. The calls next to each other
            are much alike.
        self_attention: places of the picture as (down, right), 0 to 1, whose self-attention is
            kept as the stream `self`: at each site, where the query that the place lies in looks.
            `"all"` keeps the whole matrix of every site, and needs a budget.
        reference: with `heads="auto"`, the name of the site whose queries say what belongs
            together; by default `site_weights.reference_site` chooses.
        text_looks: in joint attention, whether to keep what the text's tokens look at as well: the
            stream `looks` (where each looks in the picture) and `between` (what each gives to each
            other one, see `Trace.between`). It needs every column of the text.
        concepts: words or phrases that need not be in the prompt, kept as the stream `concepts`, in
            the conditional branch. Each is encoded by itself by the pipeline's text encoders. In
            the cross-attention of a UNet a map is what the places would give to the concept's own
            tokens, if its text stood in the prompt's place (OVAM, arXiv 2403.14291); it costs the
            keys of a text, and a softmax, for each concept at every site. In joint attention it is
            a softmax over the concepts, of how alike the attention's outputs are for the place and
            for the concept (ConceptAttention, arXiv 2502.04320), a mean over the heads whatever
            `heads` says; it takes two concepts or more, is kept at the double-stream blocks of
            FLUX, FLUX.2, Chroma, SD3 and Qwen-Image, and costs one more pass of these blocks in
            every conditional call. There a concept of several tokens goes through the blocks as
            these, and counts as the mean of what comes out.
        contributions: whether to keep what each word contributes to what the sites give to each
            place, as the stream `contribution`, in the conditional branch: how much of it would not
            be there if the prompt were encoded without the word (`kernel.contribution`). So it
            holds what the word does through the columns of others, a colour through its noun's.
            `Trace.heatmap` then spreads a word's share by it, which lies on what the word names far
            more often (docs/figures.md). For UNets whose sites are given the text as it was
            encoded, as Stable Diffusion's and SDXL's. It costs an encoding of the prompt for each
            of its words, and at each site, in the calls that `walk_every` says, the keys and values
            of a text and its attention for each of them.
        modalities: whether to keep how much the places take from the text and how much from a
            picture that stands beside it as a prompt, at each site: the lengths of what each adds,
            see `Trace.modalities`. For UNets. It costs the output projection once more for each.
        spans: the columns of words, parts of words or symbols under names of your own, beside the
            words of the prompt: a mapping for all the images or one for each.
        controlnet: whether to record the sites of the pipeline's ControlNet as well; their names
            begin with `controlnet.`.
        budget: most bytes that the maps may take; a run that needs more is refused in its first
            call of the denoiser.
        unrecordable: what to do about a site whose kernel cannot be read: raise an error, or skip
            the site.
        repeated: what to do about further calls at the same noise level, which are no steps of this
            picture (a reference pass, parts of a larger picture): `"raise"`, `"add"` them all, or a
            number n: only the n-th of each level counts, 0 the first.

    Yields:
        A `Trace`, readable once the pipeline has run, inside the context or after it.

    Raises:
        UserError: before anything is changed, if the pipeline has no denoiser with cross-attention
            or an argument cannot be; before its first step, for a second run inside the context, or
            a word that the prompt does not have; in its first call of the denoiser, for a site that
            cannot be read, a budget that is too small, or rows that are not made of known branches.

    Example:
        >>> with record(pipe) as trace:
        ...     image = pipe("a red circle", num_inference_steps=25).images[0]
        >>> trace.heatmap("red").overlay(image).save("red.png")
    """
    keep = Keep(
        words=words,
        columns=columns,
        heads=heads,
        steps=steps if isinstance(steps, str) else tuple(steps),
        branches=(branches,) if isinstance(branches, str) else tuple(branches),
        budget=budget,
        walk=walk,
        walk_every=walk_every,
        self_attention=self_attention
        if isinstance(self_attention, str | None)
        else tuple(self_attention),
        reference=reference,
        text_looks=text_looks,
        concepts=checked_concepts(concepts),
        contributions=contributions,
        modalities=modalities,
    )
    if keep.concepts:
        check_can_encode(pipe)
    if contributions:
        check_can_contribute(pipe)
    if controlnet and heads == "auto":
        raise UserError(
            'expected heads="mean" or "each" with controlnet=True, but came "auto": the weights of '
            "a ControlNet's sites cannot be held against the UNet's"
        )
    run = RecordingRun(pipe, keep, spans, repeated, unrecordable == "skip")
    found = [RecordedDenoiser(run, each) for each in denoisers_of(pipe, controlnet)]
    chosen = choose_sites([site for each in found for site in each.found], sites)
    if heads == "auto" and any(site.level is None for site in chosen):
        raise UserError(
            'expected heads="mean" or "each" for a transformer, but came "auto", which weighs '
            "heads by what they add to a UNet's layers of cross-attention"
        )
    if modalities and any(site.level is None for site in chosen):
        raise UserError(
            "expected a UNet for modalities=True, whose sites give what they take to an output "
            f"projection of their own, but came {type(found[0].module).__name__}; leave it out: "
            "trace.shares() says how much goes to the text"
        )
    if text_looks and (words is not None or columns is not None):
        raise UserError(
            "expected every column of the text to be kept beside text_looks=True, but came words=… "
            "or columns=…; leave them out"
        )
    if text_looks and not any(site.kind == "joint" for site in chosen):
        raise UserError(
            "expected joint attention for text_looks=True, but in cross-attention the text looks "
            "at nothing; leave it out, or record a pipeline such as FluxPipeline"
        )
    if reference is not None:
        choose_sites(chosen, [reference])
    for each in found:
        each.keep_sites(chosen)
    if keep.concepts and not any(each.has_concepts for each in found):
        raise UserError(
            "expected sites of cross-attention or of double-stream blocks for concepts=…, but "
            f"sites=… leaves none of them, as {chosen[0].name}; choose others too"
        )
    # A second one of the sampling loop counts the steps, recorded or not.
    run.denoisers = [each for each in found if each.site_names or not each.beside]

    trace = Trace(run.read)
    with run.followed():
        try:
            yield trace
        except BaseException as error:
            run.note_error(error)
            raise
        finally:
            trace.finish()
