from __future__ import annotations

import subprocess
import sys

import pytest

import t2i_xattn


def test_public_names_are_there() -> None:
    for name in t2i_xattn.__all__:
        if name != "load_default" and not name.startswith("_"):
            assert getattr(t2i_xattn, name).__name__ == name
    assert set(t2i_xattn.__all__) <= set(dir(t2i_xattn))


def test_import_is_quick() -> None:
    heavy = "{'torch', 'diffusers', 'transformers', 'scipy', 'PIL', 'numpy', 'cmap'}"
    code = f"import sys, t2i_xattn; assert not {heavy} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_other_names_are_not() -> None:
    with pytest.raises(AttributeError, match="module 't2i_xattn' has no attribute 'nope'"):
        _ = t2i_xattn.nope  # type: ignore[attr-defined]
