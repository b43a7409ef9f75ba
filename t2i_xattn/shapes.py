"""Shapes in annotations: `Float[Tensor, "batch heads queries tokens"]` is a tensor of floats with
these four axes. Of one name, axes have one size within a call.

The tests hold the calls against them with jaxtyping (`tests/shape_checks.py` says where);
elsewhere nothing looks at them, and jaxtyping need not be there. To a type checker they are the
tensor that they annotate.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Annotated as Bool
    from typing import Annotated as Float
    from typing import Annotated as Shaped
else:
    try:
        from jaxtyping import Bool, Float, Shaped
    except ImportError:
        from typing import Annotated as Bool
        from typing import Annotated as Float
        from typing import Annotated as Shaped

__all__ = ["Bool", "Float", "Shaped"]
