"""One text of a prompt, read by descent into nodes."""

from __future__ import annotations

import re
from typing import Literal

from t2i_xattn.conditioning.nodes import Break, Group, Letter, Node, Timed
from t2i_xattn.conditioning.places import ESCAPE, as_number, finite, wrong

Way = Literal["compel", "lpw"]
"""How weights act on embeddings, and what bare brackets mean; see `weighting`."""

_LITERAL = '\\()[]"+-:<'
SIGNS = re.compile(r"(\++|-+)(?=[\s,.;:!?)\]\"]|$)")
_NUMBER = re.compile(r"([+-]?(?:\d+\.?\d*|\.\d+))(?=[\s,.;:!?)\]\"]|$)")
_TAIL = re.compile(r":\s*([^\s:()\[\]]*)\s*([)\]])")
_MOST = 100
"""Brackets inside each other, and signs behind a word: beyond what anybody means, and what Python
reads by recursion and raises to a power."""
KEYWORD = re.compile(r"(?<!\S)(\\?)(AND|BREAK)(?!\S)")


class Reader:
    """Reads a part of a prompt by descent."""

    def __init__(self, prompt: str, start: int, stop: int, way: Way) -> None:
        self.prompt, self.at, self.stop, self.way = prompt, start, stop, way
        self._open = 0

    def whole(self) -> list[Node]:
        nodes = self._nodes("")
        if self.at < self.stop:
            raise wrong(self.prompt, self.at, f"a bracket before this {self._here!r}", ESCAPE)
        return nodes

    @property
    def _here(self) -> str:
        return self.prompt[self.at]

    def _nodes(self, until: str) -> list[Node]:
        """What stands here, up to one of these characters, or to a bracket that closes."""
        nodes: list[Node] = []
        while self.at < self.stop and self._here not in ")]" and self._here not in until:
            if self._here == "(":
                nodes.append(self._group())
            elif self._here == "[":
                nodes += self._square()
            elif self._here == '"' and (quoted := self._quoted()) is not None:
                nodes.append(quoted)
            elif until and _TAIL.match(self.prompt, self.at) and self._here == ":":
                break
            elif not self._signs(nodes):
                self._letter(nodes, inside=bool(until))
        return nodes

    def _letter(self, nodes: list[Node], inside: bool) -> None:
        """A letter, an escaped one, or a keyword."""
        prompt = self.prompt
        if (word := KEYWORD.match(prompt, self.at)) and word.end() <= self.stop:
            first = self.at + len(word[1])
            if not word[1]:
                if inside or word[2] == "AND":
                    raise wrong(prompt, self.at, f"{word[2]} outside of brackets", ESCAPE)
                nodes.append(Break())
            else:
                nodes += [Letter(prompt[at], at) for at in range(first, word.end())]
            self.at = word.end()
            return
        following = prompt[self.at + 1 : self.at + 2]
        if self._here == "\\" and following and following in _LITERAL:
            self.at += 1
            nodes.append(Letter(following, self.at, escaped=True))
        else:
            nodes.append(Letter(self._here, self.at))
        self.at += 1

    def _group(self) -> Group:
        """`(…)` with its weight."""
        first = self._opened()
        children = self._nodes(")")
        weight: float | None = None
        tail = _TAIL.match(self.prompt, self.at)
        if tail is not None and tail[2] == ")":
            found = as_number(tail[1])
            if found is not None or re.fullmatch(r"[+-]?[\d.,eE+-]*", tail[1]):
                weight = finite(self.prompt, tail.start(1), found, tail[1])
                self.at = tail.end() - 1
        while self.at < self.stop and self._here == ":":  # no weight
            self._letter(children, inside=True)
            children += self._nodes(")")
        self._close(first, ")")
        if weight is None:
            weight = self._behind(1.1 if self.way == "lpw" else 1.0)
        return Group(children, weight)

    def _quoted(self) -> Group | None:
        """`"…"` with a weight behind it; without one the quotes are letters."""
        last = self.prompt.find('"', self.at + 1, self.stop)
        if last < 0 or not (
            SIGNS.match(self.prompt, last + 1) or _NUMBER.match(self.prompt, last + 1)
        ):
            return None
        inner = Reader(self.prompt, self.at + 1, last, self.way).whole()
        self.at = last + 1
        return Group(inner, self._behind(1.0))

    def _square(self) -> list[Node]:
        """`[…]`: a schedule, letters, or less weight."""
        first = self._opened()
        sides = [self._nodes(":")]
        colons = []
        while self.at < self.stop and self._here == ":" and not self._is_step(len(sides)):
            colons.append(self.at)
            self.at += 1
            sides.append(self._nodes(":"))
        if self.at < self.stop and self._here == ":":
            tail = _TAIL.match(self.prompt, self.at)
            assert tail is not None
            start = self._step(tail.start(1), tail[1])
            self.at = tail.end()
            self._open -= 1
            before, after = sides if len(sides) == 2 else ([], sides[0])
            return [Timed(before, after, start)]
        self._close(first, "]")
        inside = sides[0]
        for colon, side in zip(colons, sides[1:], strict=True):
            inside = [*inside, Letter(":", colon), *side]
        if self.way == "lpw":
            return [Group(inside, 1 / 1.1)]
        return [Letter("[", first), *inside, Letter("]", self.at - 1)]

    def _is_step(self, sides: int) -> bool:
        """Whether a colon here is the last of a schedule, with a number behind it."""
        tail = _TAIL.match(self.prompt, self.at)
        if tail is None or tail[2] != "]" or sides > 2:
            return False
        return as_number(tail[1]) is not None or not tail[1]

    def _step(self, place: int, text: str) -> float:
        """When a schedule turns: a fraction with a point, whole steps without."""
        found = finite(self.prompt, place, as_number(text), text)
        whole = re.fullmatch(r"\d+", text) is not None
        if found <= 0 or (not whole and found >= 1):
            raise wrong(
                self.prompt,
                place,
                "a schedule that turns at a whole step from 1 on or at a fraction between 0 and 1",
                "write [before:after:0.4]",
            )
        return int(found) if whole else found

    def _opened(self) -> int:
        """Goes behind a bracket that opens; gives its place."""
        if self._open >= _MOST:
            few = f"at most {_MOST} brackets inside each other"
            raise wrong(self.prompt, self.at, few, "leave some out")
        self._open += 1
        self.at += 1
        return self.at - 1

    def _close(self, first: int, bracket: str) -> None:
        if self.at >= self.stop or self._here != bracket:
            raise wrong(self.prompt, first, f"a {bracket!r} for this bracket", ESCAPE)
        self._open -= 1
        self.at += 1

    def _behind(self, bare: float) -> float:
        """The weight behind what has just been closed."""
        if signs := SIGNS.match(self.prompt, self.at, self.stop):
            self.at = signs.end()
            return self._of_signs(signs)
        if number := _NUMBER.match(self.prompt, self.at, self.stop):
            self.at = number.end()
            return finite(self.prompt, number.start(), float(number[1]))
        return bare

    def _signs(self, nodes: list[Node]) -> bool:
        """Signs behind a word, which becomes a group; False if none stand here."""
        signs = SIGNS.match(self.prompt, self.at, self.stop)
        last = nodes[-1] if nodes else None
        if signs is None or last is None or not _is_of_word(last):
            return False
        first = len(nodes)
        while first and _is_of_word(nodes[first - 1]):
            first -= 1
        nodes[first:] = [Group(nodes[first:], self._of_signs(signs))]
        self.at = signs.end()
        return True

    def _of_signs(self, signs: re.Match[str]) -> float:
        """The weight that signs stand for."""
        count = len(signs[1])
        if count > _MOST:
            few = f"at most {_MOST} signs behind a word, not {count}"
            raise wrong(self.prompt, signs.start(), few, "write a weight as in (red:1.5)")
        return float((1.1 if signs[1][0] == "+" else 0.9) ** count)


def _is_of_word(node: Node) -> bool:
    """Whether signs behind it still count for it."""
    return isinstance(node, Letter) and (
        node.escaped or not (node.text.isspace() or node.text in '()[]",.=')
    )
