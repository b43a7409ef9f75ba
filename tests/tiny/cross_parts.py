"""What the tiny pipelines of cross.py and picture_first.py are made of."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import torch
from diffusers import AutoencoderKL
from diffusers.utils import is_ftfy_available
from torch import nn
from transformers import (
    CLIPTextConfig,
    CLIPTextModelWithProjection,
    GemmaTokenizer,
    LlamaTokenizer,
    T5Config,
    T5EncoderModel,
)

from conftest import make_tokenizer
from tiny.case import Case, Column, Heard, Picture, Seen

WIDTH = 32
"""Of all text encoders but CLIP's, which is half."""

_PIECES = ["▁a", "▁red", "▁left", "▁of", "▁blue", "▁cir", "▁squ", "cle", "are", "▁dull"]


def sharpen(model: nn.Module, by: float = 3.0) -> None:
    """Makes the attention of random weights differ between tokens and places."""
    projections = ["to_q", "to_k", "to_query", "to_key", "add_q_proj", "add_k_proj", "to_q_t"]
    projections += ["to_k_t", "norm_q", "norm_k", "norm_added_q", "norm_added_k", "q_rms_norm"]
    projections += ["k_rms_norm", "query_norm", "key_norm", "q_rms_norm_t", "k_rms_norm_t"]
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(tuple(f"{each}.weight" for each in projections)):
                parameter.mul_(by)


def ready(pipe: Any, *denoisers: str) -> Any:
    """The pipeline in evaluation mode, its denoisers' attention sharp, without a progress bar."""
    for part in pipe.components.values():
        if isinstance(part, nn.Module):
            part.eval()
    for name in denoisers or ("transformer",):
        sharpen(getattr(pipe, name))
    pipe.set_progress_bar_config(disable=True)
    return pipe


def make_vae(channels: int = 4, levels: int = 2, **more: Any) -> AutoencoderKL:
    return AutoencoderKL(
        latent_channels=channels,
        block_out_channels=(8,) * levels,
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        layers_per_block=1,
        norm_num_groups=4,
        **more,
    )


def clip_config(width: int) -> CLIPTextConfig:
    tokenizer = make_tokenizer()
    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=32,
        projection_dim=width,
        num_attention_heads=4,
        num_hidden_layers=3,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def make_clip(width: int = WIDTH // 2) -> CLIPTextModelWithProjection:
    return CLIPTextModelWithProjection(clip_config(width))


def t5_config(vocabulary: int, kind: Callable[..., Any] = T5Config, **more: Any) -> Any:
    return kind(
        vocab_size=vocabulary, d_model=WIDTH, d_kv=8, d_ff=32, num_layers=2, num_heads=4, **more
    )


def make_t5_encoder(tokenizer: Any) -> T5EncoderModel:
    return T5EncoderModel(t5_config(len(tokenizer)))


def _merges(words: Sequence[str] = ()) -> list[tuple[str, str]]:
    """Those that make a few pieces, letter by letter."""
    spaced = [word for word in words if word[0] == "▁"]
    pieces = [*spaced, *_PIECES, *(word for word in words if word[0] != "▁")]
    pairs = [(piece[:end], piece[end]) for piece in pieces for end in range(1, len(piece))]
    return list(dict.fromkeys(pairs))


def _byte_fallback(special: Sequence[str], words: Sequence[str] = ()) -> dict[str, int]:
    letters = [chr(code) for code in range(33, 127)] + ["▁", "\n"]
    tokens = [*special, *(f"<0x{byte:02X}>" for byte in range(256)), *letters]
    tokens += ["".join(merge) for merge in _merges(words)]
    return {token: number for number, token in enumerate(dict.fromkeys(tokens))}


def make_gemma() -> GemmaTokenizer:
    special = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]
    return GemmaTokenizer(vocab=_byte_fallback(special), merges=_merges(), add_bos_token=True)


def make_llama(template: str = "") -> LlamaTokenizer:
    """Llama's byte-level pieces; each word of the template is one token."""
    words = re.findall(r" ?[A-Za-z]+|\n\n", re.sub("<.*?>", "", template))
    words = sorted({word.replace(" ", "▁") for word in words})
    special = ["<unk>", "<s>", "</s>", "<pad>"]
    tokenizer = LlamaTokenizer(
        vocab=_byte_fallback(special, words),
        merges=_merges(words),
        pad_token="<pad>",
        padding_side="right",
        add_bos_token=True,
    )
    of_template = ["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
    tokenizer.add_special_tokens({"additional_special_tokens": of_template})
    return tokenizer


def first(heard: Sequence[Heard], encoder: str = "text_encoder") -> list[int]:
    """The tokens of the first text that an encoder was given: the prompt."""
    return next(each.ids[0] for each in heard if each.encoder == encoder)


def tokens(ids: Sequence[int], tokenizer: str = "tokenizer") -> list[Column]:
    return [(tokenizer, each) for each in ids]


def encoded(heard: Sequence[Heard]) -> list[Column]:
    """All that the encoder was given, its padding too."""
    return tokens(first(heard))


def unpadded(ids: Sequence[int], length: int, tokenizer: str = "tokenizer") -> list[Column]:
    """T5's tokens, up to the end; then what the pipeline or the denoiser has put there."""
    own = list(ids[: ids.index(1) + 1])
    return [*tokens(own, tokenizer), *[None] * (length - len(own))]


def crossed(seen: Seen, rows: range) -> list[Picture]:
    """Rows whose places are all queries and whose text is all keys."""
    return [Picture(row, range(seen.queries), range(seen.keys)) for row in rows]


def second_half(seen: Seen) -> range:
    """The rows of the conditional branch, behind the unconditional."""
    return range(seen.rows // 2, seen.rows)


def guided(seen: Seen) -> Sequence[Picture] | None:
    """`attn2` of one batch with the unconditional rows first."""
    return crossed(seen, second_half(seen)) if seen.site.endswith("attn2") else None


def in_turn(seen: Seen) -> Sequence[Picture] | None:
    """`attn2` of two calls a step, the conditional first."""
    odd = seen.call % 2
    return None if odd or not seen.site.endswith("attn2") else crossed(seen, range(seen.rows))


class OtherOutput(Case):
    """A case whose pipeline calls its pictures neither `images` nor `frames`."""

    def run(self, pipe: Any, **more: Any) -> Any:
        return super().run(lambda **options: SimpleNamespace(images=pipe(**options)[0]), **more)


def fixes_no_text(module: Any) -> None:
    """Lets a pipeline that cannot do without `ftfy` leave the prompt as it is."""
    if not is_ftfy_available():
        module.ftfy = SimpleNamespace(fix_text=str)
