"""An output folder whose files appear together or not at all."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from t2i_xattn.commands.moving import move_in
from t2i_xattn.commands.run_files import NAME, files_of_earlier_run, list_of_files
from t2i_xattn.commands.work_folders import clear_abandoned, make_work_folder, remove_work_folder
from t2i_xattn.errors import UserError, shown_path


@contextmanager
def output_folder(out: Path, command: str | None = None, *, beside: bool = False) -> Iterator[Path]:
    """A fresh folder to write into; on success its files move to ``out``, else they vanish.

    Files of the same name in ``out`` are replaced, and so are all files that the last run of the
    same command wrote there. Others stay.

    Args:
        out: the folder.
        command: of the run; None: what it writes is not noted down.
        beside: whether the files of earlier runs stay, since each stands for itself.

    Raises:
        UserError: where ``out`` cannot be written to, before anything is computed; or where a
            folder stands in the place of a file.
        OSError: if there is no room for the files; ``out`` is then as it was.
    """
    made: list[Path] = []
    try:
        made = [each for each in (out, *out.parents) if not each.exists()]
        out.mkdir(parents=True, exist_ok=True)
        clear_abandoned(out)
        work = make_work_folder(out)
    except (OSError, ValueError) as error:  # ValueError: a name with a zero character
        _remove(made)
        reason = "it is a file" if _is_file(out) else getattr(error, "strerror", None) or error
        raise UserError(
            f"expected a folder that can be written to at {shown_path(out)}, but: {reason}; "
            "choose another --out"
        ) from error
    try:
        new, aside = work / "new", work / "replaced"
        new.mkdir()
        aside.mkdir()
        yield new
        earlier: list[Path] = []
        if command is not None:
            files = [path.relative_to(new) for path in new.rglob("*") if not path.is_dir()]
            earlier = files_of_earlier_run(out, command)
            noted = {*files, *earlier} if beside else files
            (new / NAME).write_text(list_of_files(out, command, list(noted)), "utf-8")
        move_in(new, out, () if beside else earlier, aside)
        made = []
    finally:
        remove_work_folder(work)
        _remove(made)


def _remove(folders: list[Path]) -> None:
    """Removes folders that are empty, the innermost first."""
    for each in folders:
        with suppress(OSError, ValueError):
            each.rmdir()


def _is_file(path: Path) -> bool:
    with suppress(OSError, ValueError):
        return path.exists() and not path.is_dir()
    return False
