"""Transformers of joint attention whose keys are the picture's, then the text's."""

from __future__ import annotations

from typing import ClassVar

from t2i_xattn.denoisers.families.build import Build
from t2i_xattn.denoisers.families.grids import listed, squared
from t2i_xattn.denoisers.families.joint import Joint
from t2i_xattn.denoisers.families.several_texts import (
    of_last_layers,
    of_two_layers,
    valid_first,
    with_picture,
)

_DOUBLE_AND_SINGLE = r"(single_)?transformer_blocks\.\d+\.attn"


class PictureFirst(Joint):
    """See the module."""

    text_first = False
    builds: ClassVar = {
        "SD3Transformer2DModel": Build(
            sites=r"transformer_blocks\.\d+\.attn",
            own=r"transformer_blocks\.\d+\.attn2",
            perturbed=("skip_layers",),
        ),
        "HunyuanVideoTransformer3DModel": Build(sites=_DOUBLE_AND_SINGLE),
        "HunyuanImageTransformer2DModel": Build(
            sites=_DOUBLE_AND_SINGLE,
            more=("encoder_hidden_states_2",),
            parts=valid_first,
        ),
        # Unless the picture is a square, its sequence is filled up; the text of each block's own
        # Llama layer stands behind the last one's.
        "HiDreamImageTransformer2DModel": Build(
            sites=r"(double|single)_stream_blocks\.\d+\.block\.attn1",
            grids=squared,
            text="encoder_hidden_states_t5",
            timestep="timesteps",
            parts=of_last_layers,
            more=("encoder_hidden_states_llama3",),
            extra="between",
            tokens=of_two_layers,
        ),
        "HunyuanVideo15Transformer3DModel": Build(
            sites=r"transformer_blocks\.\d+\.attn",
            more=("encoder_hidden_states_2",),
            parts=valid_first,
            tokens=with_picture,
        ),
        "NucleusMoEImageTransformer2DModel": Build(
            sites=r"transformer_blocks\.\d+\.attn", grids=listed
        ),
        "StableCascadeUNet": Build(
            sites=r"(down|up)_blocks\.\d+\.\d+\.attention",
            sample="sample",
            text="clip_text",
            timestep="timestep_ratio",
            extra="behind",
        ),
    }
