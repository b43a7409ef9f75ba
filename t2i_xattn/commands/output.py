"""An output folder whose files appear together or not at all."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from t2i_xattn.commands.moving import move_in
from t2i_xattn.commands.run_files import NAME, files_of_earlier_run, list_of_files
from t2i_xattn.commands.work_folders import clear_abandoned, make_work_folder, remove_work_folder
from t2i_xattn.errors import UserError, shown_path


@contextmanager
def output_folder(
    out: Path,
    command: str | None = None,
    *,
    beside: bool = False,
    read: Iterable[Path | None] = (),
    names: Iterable[str] = (),
) -> Iterator[Path]:
    """A fresh folder to write into; on success its files move to ``out``, else they vanish.

    Files of the same name in ``out`` are replaced, and so are all files that the last run of the
    same command wrote there. Others stay.

    Args:
        out: the folder.
        command: of the run; None: what it writes is not noted down.
        beside: whether the files of earlier runs stay, since each stands for itself.
        read: files that the run is made from, none of which may go away by it.
        names: what is written for certain, so that such a file is seen before anything is computed.

    Raises:
        UserError: where ``out`` cannot be written to, before anything is computed; where a
            folder stands in the place of a file; or where a file of `read` would be replaced.
        OSError: if there is no room for the files; ``out`` is then as it was.
    """
    made: list[Path] = []
    inputs = [each for each in read if each is not None]
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
        going = [] if beside or command is None else files_of_earlier_run(out, command)
        _check_kept(out, [*map(Path, names), *going], inputs)
        yield new
        earlier: list[Path] = []
        written = [path.relative_to(new) for path in new.rglob("*") if not path.is_dir()]
        _check_kept(out, written, inputs)
        if command is not None:
            earlier = files_of_earlier_run(out, command)
            noted = {*written, *earlier} if beside else written
            (new / NAME).write_text(list_of_files(out, command, list(noted)), "utf-8")
        move_in(new, out, () if beside else earlier, aside)
        made = []
    finally:
        remove_work_folder(work)
        _remove(made)


def _check_kept(out: Path, going: Iterable[Path], inputs: Iterable[Path]) -> None:
    """Raises `UserError` if one of `inputs` is among the files in ``out`` that go away."""
    gone = {(out / each).parent.resolve() / each.name for each in going}
    for given in inputs:
        # A link to a file that goes shows what comes after, and so does a link that goes itself.
        if not gone.isdisjoint({given.resolve(), given.parent.resolve() / given.name}):
            raise UserError(
                f"expected a folder in which the run replaces no file that it is made from, but "
                f"came {shown_path(out)}, where {shown_path(given)} would be replaced; choose "
                "another --out"
            )


def _remove(folders: list[Path]) -> None:
    """Removes folders that are empty, the innermost first."""
    for each in folders:
        with suppress(OSError, ValueError):
            each.rmdir()


def _is_file(path: Path) -> bool:
    with suppress(OSError, ValueError):
        return path.exists() and not path.is_dir()
    return False
