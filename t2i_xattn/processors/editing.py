"""A processor that is set by hand and edits what a layer looks at, for the rows that it is to."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from torch import Tensor

from t2i_xattn.errors import UserError
from t2i_xattn.kernel.attention import attention_probs, mixed_values, plus
from t2i_xattn.processors.intercepting import checked
from t2i_xattn.processors.layer import KernelInputs, after_kernel, before_kernel

Function = Callable[[Tensor, Any], Tensor]


class EditingProcessor:
    """Computes an attention layer as `AttnProcessor2_0` does, and adds what edits change.

    The fused kernel computes O = P V for the whole batch. For the rows that are edited, the probs
    P are formed beside it, the functions make P′ of them, one after the other, and the layer goes
    on with

        O′ = O + (P′ − P) V

    in fp32. So what is not edited keeps the bytes of `AttnProcessor2_0`: other rows, places of the
    picture whose probs are left alone, and everything where P′ = P. The batch has all branches:
    with classifier-free guidance, Stable Diffusion's first half is the unconditional one, and
    `slice(1, None)` is the conditional row of one picture. Here, each place of the picture looks
    twice as much at the token in column 2:

    >>> def louder(probs, attn):
    ...     probs = probs.clone()
    ...     probs[..., 2] *= 2
    ...     return probs / probs.sum(-1, keepdim=True)
    >>> processors = {
    ...     name: EditingProcessor(louder, rows=slice(1, None)) if "attn2" in name else processor
    ...     for name, processor in pipe.unet.attn_processors.items()
    ... }
    >>> pipe.unet.set_attn_processor(processors)
    >>> image = pipe("a red circle").images[0]

    One instance may stand at any number of layers. It cannot know a pipeline's words and branches:
    `t2i_xattn.edit` does.

    Args:
        functions: `(probs, attn) -> probs`, applied in this order. The probs are fp32
            `(rows, heads, queries, tokens)`, 0 to 1, summing to 1 over the tokens, and may be
            changed in place; `attn` is the diffusers `Attention` at work. What comes back has the
            same shape and is finite; nothing makes it sum to 1 again.
        rows: the rows of the batch that are edited; None: all of them.

    Raises:
        UserError: a function that cannot be called so, or rows that are not a slice; in a call,
            rows that the batch does not have, another shape, or values that are not finite (the
            latter is not looked for in a compiled graph).
    """

    def __init__(self, *functions: Function, rows: slice | None = None) -> None:
        for function in functions:
            _check_function(function)
        if rows is not None and not _is_forward_slice(rows):
            raise UserError(
                "expected rows=None or a slice of the batch that runs forward, such as "
                f"slice(1, None), but came {rows!r}; the row n alone is slice(n, n + 1)"
            )
        self.functions = functions
        self.rows = rows

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
    ) -> Tensor:
        inputs = before_kernel(attn, hidden_states, encoder_hidden_states, attention_mask, temb)
        taken = inputs.fused().to(inputs.query.dtype)
        if self.functions:
            taken = self._edited(taken, inputs, attn)
        return after_kernel(attn, taken, hidden_states)

    def _edited(self, taken: Tensor, inputs: KernelInputs, attn: Any) -> Tensor:
        """What the queries take, `(batch, heads, queries, d)`, with the chosen rows edited."""
        rows, batch = self.rows, taken.shape[0]
        if rows is None:
            return plus(taken, self._change(inputs, attn))
        if not range(batch)[rows]:
            raise UserError(
                f"expected rows={_written(rows)} to choose some of the batch, but it has {batch} "
                "and none is chosen; without guidance there is no unconditional half, so leave "
                "rows out, or give those that the batch has"
            )
        edited = plus(taken[rows], self._change(inputs.rows(rows), attn))
        taken = taken.clone()  # the kernel's own is needed for its gradients
        taken[rows] = edited
        return taken

    def _change(self, inputs: KernelInputs, attn: Any) -> Tensor:
        """(P′ − P) V, fp32 `(rows, heads, queries, d)`."""
        query, key, value, mask, scale = inputs
        probs = attention_probs(query, key, scale, mask)
        shape, edited = probs.shape, probs.clone()
        for function in self.functions:
            edited = checked(function(edited, attn), shape, f"`{_name(function)}`")
        return mixed_values(edited.float() - probs, value)

    def __repr__(self) -> str:
        names = [_name(function) for function in self.functions]
        return f"{type(self).__name__}({', '.join([*names, f'rows={_written(self.rows)}'])})"


def _check_function(function: Any) -> None:
    came = ""
    if not callable(function):
        came = repr(function)
    elif isinstance(function, type):
        came = f"the class {function.__name__}"
    else:
        try:
            inspect.signature(function).bind(None, None)
        except TypeError:
            came = f"`{_name(function)}`, which cannot be called with these two"
        except ValueError:  # a builtin does not say what it takes
            return
    if came:
        raise UserError(
            f"expected functions (probs, attn) -> probs, but came {came}; "
            "write for instance `lambda probs, attn: probs / probs.sum(-1, keepdim=True)`"
        )


def _is_forward_slice(rows: Any) -> bool:
    try:
        return isinstance(rows, slice) and range(2)[rows].step > 0
    except (TypeError, ValueError):  # of something else than whole numbers, or a step of 0
        return False


def _written(rows: slice | None) -> str:
    """As one writes it: `slice(1, None)`."""
    if rows is None or rows.step is not None:
        return repr(rows)
    return f"slice({rows.start}, {rows.stop})"


def _name(function: Any) -> str:
    return getattr(function, "__name__", type(function).__name__)
