"""Whole attention processors, to set by hand or to swap in.

Each does a whole attention layer, equal to diffusers' `AttnProcessor2_0`:

- `InterceptingProcessor` hands over the probs between softmax and values, and goes on with what
  comes back; one method to override, or one function to give.
- `RecordingProcessor` leaves the picture as it is, to the byte, and keeps the mean of the probs.
- `EditingProcessor` leaves all that is not edited as it is, to the byte.
- `attention_forward` is the layer as a function, for processors of your own.

`unet.set_attn_processor` sets them; `t2i_xattn.swap` does so for a while and puts back what was
there.
"""

from t2i_xattn.processors.editing import EditingProcessor
from t2i_xattn.processors.intercepting import InterceptingProcessor, attention_forward
from t2i_xattn.processors.recording import RecordingProcessor

__all__ = [
    "EditingProcessor",
    "InterceptingProcessor",
    "RecordingProcessor",
    "attention_forward",
]
