"""`condition`: a prompt with weights, blends and schedules as arguments of a pipeline."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from t2i_xattn.arguments import checked
from t2i_xattn.conditioning.assembling import Assembled, assembled, padded
from t2i_xattn.conditioning.encoders import Scheme, scheme_of
from t2i_xattn.conditioning.reader import Way
from t2i_xattn.conditioning.reading import Placed, Reading, readings_of, text_of
from t2i_xattn.conditioning.schedule import Schedule
from t2i_xattn.conditioning.syntax import Parsed, Phase, parse, unknown_embedding
from t2i_xattn.errors import UserError, listed
from t2i_xattn.prompts.encoded import Text
from t2i_xattn.prompts.known import remember
from t2i_xattn.prompts.listening import unheard
from t2i_xattn.prompts.roles import CONDITIONAL, UNCONDITIONAL


class Conditioning(dict[str, Any]):
    """Arguments of a pipeline's call, which know what was typed.

    Attributes:
        readings: how each text encoder reads each prompt: its tokens and words with their columns,
            weights and chunks, and what it cuts.
    """

    readings: tuple[Reading, ...]

    def __init__(self, arguments: dict[str, Any], readings: Sequence[Reading]) -> None:
        super().__init__(arguments)
        self.readings = tuple(readings)


@checked
def condition(
    pipe: Any,
    prompt: str | Sequence[str],
    negative_prompt: str | Sequence[str] | None = None,
    *,
    way: Way = "compel",
    clip_skip: int | None = None,
    max_sequence_length: int | None = None,
) -> Conditioning:
    """Embeds prompts with weights, blends, chunks and schedules, for any pipeline of diffusers with
    the text encoders of Stable Diffusion, SDXL, SD3 or FLUX.

    The syntax is that of `t2i_xattn.conditioning.syntax`. A text without it is embedded as the
    pipeline does, but read to its end: longer ones than the window of CLIP go into several windows.
    What is known of each column goes with the tensors: `record`, `edit` and `explain` show the
    words as typed. Pooled texts have no weights, and one window, as the pipelines have them.

    Args:
        pipe: the pipeline; its text encoders are asked.
        prompt: one or several.
        negative_prompt: one for all or one each; by default what the pipeline takes.
        way: what a weight does: `"compel"` as the library compel does, `"lpw"` as diffusers'
            community pipelines of that name and the web UIs; see `weighting`.
        clip_skip: layers of CLIP to leave out, as the pipelines' own argument.
        max_sequence_length: tokens of T5's window; by default the pipeline's, 256 for SD3 and 512
            for FLUX.

    Returns:
        Arguments for the pipeline's call, `prompt_embeds` `(prompts, tokens, channels)` and more;
        of one length, with the negative ones. With a schedule a `callback_on_step_end` too.

    Raises:
        UserError: for syntax that cannot be, with its place; for a textual inversion that is not
            loaded; for words that T5's window cuts off; or for another pipeline.

    Example:
        >>> image = pipe(**condition(pipe, "a (red:1.4) circle", "blur")).images[0]
    """
    prompts = [prompt] if isinstance(prompt, str) else list(prompt)
    negative: list[str | None] = (
        [negative_prompt] * len(prompts)
        if negative_prompt is None or isinstance(negative_prompt, str)
        else list(negative_prompt)
    )
    if not prompts or len(negative) != len(prompts):
        raise UserError(
            f"expected one prompt or more, and as many negative prompts, but came {len(prompts)} "
            f"and {len(negative)}; give one negative prompt for all, or one each"
        )
    scheme = scheme_of(pipe, clip_skip, max_sequence_length)
    with unheard(pipe):
        rows = [_Row(scheme, each, CONDITIONAL, n, way) for n, each in enumerate(prompts)]
        if scheme.negative or negative_prompt is not None:
            other = scheme.of_negative
            rows += [
                _Row(other, each or "", UNCONDITIONAL, n, way, each is None and scheme.zeros)
                for n, each in enumerate(negative)
            ]
        starts = _starts([row.parsed for row in rows])
        phases = [_tensors(rows, start) for start in starts]
    arguments: dict[str, Any] = dict(phases[0])
    if len(starts) > 1:
        arguments |= _scheduled(pipe, starts, phases)
    known = inspect.signature(pipe.__call__).parameters
    if missing := [name for name in arguments if name not in known and "negative" not in name]:
        raise UserError(
            f"expected a pipeline that takes {' and '.join(missing)}, but "
            f"{type(pipe).__name__} does not; take another, or leave that out of the prompt"
        )
    readings = [each for row in rows for start in starts for each in row.readings(start)]
    return Conditioning({n: each for n, each in arguments.items() if n in known}, readings)


class _Row:
    """One prompt, in all its phases."""

    def __init__(
        self, scheme: Scheme, prompt: str, branch: str, image: int, way: Way, zeros: bool = False
    ) -> None:
        self.scheme, self.branch, self.image, self.way, self.zeros = (
            scheme,
            branch,
            image,
            way,
            zeros,
        )
        encoders = [each for stream in scheme.streams for each in stream]
        added = [name for each in encoders for name in each.tokenizer.added_tokens_encoder]
        if (wrong := unknown_embedding(prompt, added)) is not None:
            raise wrong
        self.parsed: Parsed = parse(prompt, way)
        self._found = {
            phase.start: assembled(
                scheme, phase.parts, self.parsed.kind, self.parsed.normalised, way
            )
            for phase in self.parsed.phases
        }
        for each in self._found.values():
            _check_whole(each)

    def at(self, start: float) -> Assembled:
        """What it is from a step on."""
        phases: Sequence[Phase] = self.parsed.phases
        return self._found[max(each.start for each in phases if each.start <= start)]

    def lengths(self) -> list[int]:
        """Columns of each stream, the longest of the phases."""
        each = zip(
            *([s.shape[1] for s in one.streams] for one in self._found.values()), strict=True
        )
        return [max(lengths) for lengths in each]

    def embedding(self, start: float, lengths: Sequence[int]) -> Tensor:
        """The whole text `(1, tokens, channels)`."""
        parts = [
            padded(states, stream, length, self.way)
            for states, stream, length in zip(
                self.at(start).streams, self.scheme.streams, lengths, strict=True
            )
        ]
        if (width := self.scheme.width) is not None:
            parts = [torch.nn.functional.pad(e, (0, width - e.shape[-1])) for e in parts]
        if self.scheme.filling:
            parts.append(parts[0].new_zeros(1, self.scheme.filling, parts[0].shape[-1]))
        found = torch.cat(parts, dim=1)
        return torch.zeros_like(found) if self.zeros else found

    def pooled(self, start: float) -> Tensor | None:
        found = self.at(start).pooled
        return torch.zeros_like(found) if found is not None and self.zeros else found

    def text(self, start: float, lengths: Sequence[int], embedding: Tensor) -> Text:
        """What is known of its columns."""
        length = sum(lengths) + self.scheme.filling
        return text_of(self._placed(start, lengths), self.parsed.prompt, length, embedding)

    def readings(self, start: float) -> list[Reading]:
        if all(each.start != start for each in self.parsed.phases):
            return []
        found = self.at(start)
        whole = self._placed(start, self.common)
        own = (self.parsed.prompt, self.branch, self.image, start)
        alone = {each.encoder for each in whole}
        pooled = [each for each in found.pooled_texts if each.encoder not in alone]
        return readings_of(whole, *own, False) + readings_of(pooled, *own, True)

    common: Sequence[int] = ()
    """Columns of each stream, as all the texts of the call have them."""

    def _placed(self, start: float, lengths: Sequence[int]) -> list[Placed]:
        offsets = [sum(lengths[:number]) for number in range(len(lengths))]
        return [
            replace(each, column=each.column + offset)
            for offset, of_stream in zip(offsets, self.at(start).placed, strict=True)
            for each in of_stream
        ]


def _check_whole(found: Assembled) -> None:
    """Raises `UserError` for words that no encoder has room for."""
    words = [word for of_stream in found.placed for each in of_stream for word in each.words()]
    kept = {(word.start, word.stop) for word in words if word.columns}
    cut = [word for word in words if word.cut and (word.start, word.stop) not in kept]
    if cut:
        raise UserError(
            f"expected a prompt that fits into the window of {cut[0].cut[0]}, but these words lie "
            f"beyond: {listed(word.text for word in cut)}; shorten it, or give a larger "
            "max_sequence_length"
        )


def _starts(every: Sequence[Parsed]) -> list[float]:
    """From which steps on some prompt says something else."""
    found = sorted({phase.start for parsed in every for phase in parsed.phases if phase.start})
    if len({type(each) for each in found}) > 1:
        raise UserError(
            "expected the schedules of all prompts in whole steps or all as fractions, but came "
            f"{', '.join(map(str, found))}; write them one way"
        )
    return [0, *found]


def _tensors(rows: Sequence[_Row], start: float) -> dict[str, Tensor]:
    """The tensors of all prompts from a step on, which are remembered."""
    lengths = [max(each) for each in zip(*(row.lengths() for row in rows), strict=True)]
    found: dict[str, Tensor] = {}
    for branch, before in ((CONDITIONAL, ""), (UNCONDITIONAL, "negative_")):
        own = [row for row in rows if row.branch == branch]
        if not own:
            continue
        embeds = torch.cat([row.embedding(start, lengths) for row in own])
        nothing = embeds.new_empty(0)
        remember(embeds, [row.text(start, lengths, nothing) for row in own])
        found[f"{before}prompt_embeds"] = embeds
        pooled = [each for row in own if (each := row.pooled(start)) is not None]
        if pooled:
            found[f"{before}pooled_prompt_embeds"] = torch.cat(pooled)
    for row in rows:
        row.common = lengths
    return found


def _scheduled(
    pipe: Any, starts: Sequence[float], phases: Sequence[dict[str, Tensor]]
) -> dict[str, Any]:
    """The callback that changes the prompt on the way, with what it needs."""
    known = list(getattr(pipe, "_callback_tensor_inputs", []))
    # SDXL calls the pooled text otherwise while it runs; FLUX keeps the first one to the end.
    names = {"prompt_embeds": "prompt_embeds", "pooled_prompt_embeds": "pooled_prompt_embeds"}
    if "add_text_embeds" in known:
        names["pooled_prompt_embeds"] = "add_text_embeds"
    names = {name: own for name, own in names.items() if own in known and name in phases[0]}
    changing = [{own: each[name] for name, own in names.items()} for each in phases]
    return {
        "callback_on_step_end": Schedule(starts, changing),
        "callback_on_step_end_tensor_inputs": [*names.values()],
    }
