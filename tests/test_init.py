from __future__ import annotations

import inspect
import subprocess
import sys

import pytest

import t2i_xattn


def test_public_names_are_there() -> None:
    """Few, each once, and in the order of the alphabet: functions, classes and modules."""
    names = t2i_xattn.__all__
    assert len(names) <= 15
    assert names == sorted(set(names))
    for name in names:
        found = getattr(t2i_xattn, name)
        assert found.__name__.rpartition(".")[2] == name
        assert inspect.ismodule(found) == (found.__name__ == f"t2i_xattn.{name}")
    assert set(names) <= set(dir(t2i_xattn))


@pytest.mark.parametrize("name", ["edits", "losses", "processors", "variants"])
def test_public_modules_say_what_they_have(name: str) -> None:
    module = getattr(t2i_xattn, name)
    assert module.__all__ == sorted(set(module.__all__))
    for each in module.__all__:
        assert getattr(module, each).__name__ == each


def test_import_is_quick() -> None:
    heavy = "{'torch', 'diffusers', 'transformers', 'scipy', 'PIL', 'numpy', 'cmap'}"
    code = f"import sys, t2i_xattn; assert not {heavy} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_other_names_are_not() -> None:
    with pytest.raises(AttributeError, match="module 't2i_xattn' has no attribute 'nope'"):
        _ = t2i_xattn.nope
