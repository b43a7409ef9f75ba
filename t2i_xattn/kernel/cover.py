"""A method of one object, covered on the instance for a while and given back.

What diffusers, accelerate and torch look at stays as it is: an object's class, its processors, its
hooks. Only the object's own dictionary holds something more, which copies and pickles leave out.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import MethodType
from typing import Any

Act = Callable[..., Any]
"""What happens instead of a covered method: it is called with that method and its arguments."""

_COVERS = "_t2i_xattn_covers"
_REDUCE = "__reduce_ex__"
_NOTHING = object()
_lock = threading.RLock()


class Cover:
    """What stands in for a method of an object while it is on.

    Covers of one method may lie on each other, and on what others (accelerate's and diffusers'
    offloading) have put there; they may go in any order. One that lies under somebody else's when
    it is taken off stays there and passes every call on.

    Attributes:
        owner, name: the object and its method.
        act: what happens at a call; None: the call is passed on.
        inner: the method that was there.
    """

    def __init__(self, owner: Any, name: str, act: Act) -> None:
        """Changes nothing yet; see `put`."""
        self.owner, self.name = owner, name
        self.act: Act | None = act
        self.inner: Callable[..., Any]
        self._before: Any = _NOTHING
        self._method: Any = None

    def put(self) -> None:
        """Covers the method."""
        with _lock:
            own = vars(self.owner)
            stack = own.setdefault(_COVERS, {}).setdefault(self.name, [])
            self.inner = getattr(self.owner, self.name)
            self._before = own.get(self.name, _NOTHING)
            # The stand-in finds its cover by its depth, since several may be bound to one owner.
            function = _stand_in_for(self.owner, self.name, len(stack), self.inner)
            self._method = MethodType(function, self.owner)
            stack.append(self)
            own[_REDUCE] = MethodType(_reduced_uncovered, self.owner)
            own[self.name] = self._method

    def take_off(self) -> None:
        """Gives the method back. May be called again, also after it was interrupted."""
        with _lock:
            self.act = None
            own = vars(self.owner)
            stacks = own.get(_COVERS, {})
            stack = stacks.get(self.name, [])
            while stack and stack[-1].act is None and stack[-1]._is_out(own):
                stack.pop()
            if not stack:
                stacks.pop(self.name, None)
            if not stacks:
                own.pop(_REDUCE, None)
                own.pop(_COVERS, None)

    def _is_out(self, own: dict[str, Any]) -> bool:
        """Whether nobody reaches this cover any more; uncovers what it covers if it is on top."""
        if self._method is not None and own.get(self.name) is self._method:
            if self._before is _NOTHING:
                del own[self.name]
            else:
                own[self.name] = self._before
        # Somebody may have put another method there without keeping ours: then only this cover, and
        # the question itself, hold on to it.
        unheld = self._method is None or sys.getrefcount(self._method) <= 2
        return unheld or own.get(self.name, _NOTHING) is self._before

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        act = self.act
        return self.inner(*args, **kwargs) if act is None else act(self.inner, *args, **kwargs)


def acts_of(owner: Any, name: str) -> list[Act]:
    """What happens instead of an object's method at present, by those who cover it."""
    covers = vars(owner).get(_COVERS, {}).get(name, [])
    return [each.act for each in covers if each.act is not None]


@contextmanager
def restored(put: Callable[[], None], undo: Callable[[], None]) -> Iterator[None]:
    """`put`, and afterwards `undo`, whatever happens.

    `undo` is called twice and must not mind: where an interrupt breaks one of the calls off, the
    other does what is left.
    """
    try:
        try:
            put()
            yield
        finally:
            undo()
    finally:
        undo()


def _stand_in_for(owner: Any, name: str, depth: int, method: Any) -> Callable[..., Any]:
    """The function to be bound in the place of a method.

    One for all objects of a class: torch.compile guards on functions, so one of its own for each
    object, or each time, would be compiled again.
    """
    function = getattr(method, "__func__", None)
    if function is not None and function is getattr(type(owner), name, None):
        return _stand_in_of_class(name, depth, function)
    return _stand_in(name, depth, method)


def _stand_in(name: str, depth: int, method: Any) -> Callable[..., Any]:
    def stand_in(self: Any, *args: Any, **kwargs: Any) -> Any:
        return self._t2i_xattn_covers[name][depth](*args, **kwargs)

    # diffusers looks at the names of arguments.
    functools.update_wrapper(stand_in, method)
    del stand_in.__wrapped__  # type: ignore[attr-defined]
    with contextlib.suppress(TypeError, ValueError):
        signature = inspect.signature(method)
        if not inspect.isfunction(method) or "self" not in signature.parameters:
            bound = inspect.Parameter("self", inspect.Parameter.POSITIONAL_ONLY)
            signature = signature.replace(parameters=[bound, *signature.parameters.values()])
        stand_in.__signature__ = signature  # type: ignore[attr-defined]
    return stand_in


_stand_in_of_class = functools.cache(_stand_in)


def _reduced_uncovered(self: Any, protocol: Any) -> Any:
    """How a covered object is copied and pickled: as if it were not."""
    kind: Any = type(self)
    reduced = kind.__reduce_ex__(self, protocol)
    if not isinstance(reduced, tuple) or len(reduced) < 3 or not isinstance(reduced[2], dict):
        return reduced
    state = dict(reduced[2])
    covers = state.pop(_COVERS, {})
    state.pop(_REDUCE, None)
    for name, stack in covers.items():
        for cover in reversed(stack):
            if state.get(name) is cover._method:
                if cover._before is _NOTHING:
                    del state[name]
                else:
                    state[name] = cover._before
    return (*reduced[:2], state, *reduced[3:])
