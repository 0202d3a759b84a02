"""Build the notebooks from the lessons' sources: `python lessons_src/build.py --help`.

lessons_src/lessons/NN_title.{py,toml} -> notebooks/NN_title.ipynb (English) and notebooks/zh/NN_title.ipynb (Chinese),
executed, with their outputs. A rebuild without a change gives the same sources, metadata and cell ids to the byte, and
the same outputs where they depend on no clock. A lesson that fails leaves its notebooks as they were.
"""

import argparse
import contextlib
import copy
import os
import re
import sys
import sysconfig
import time
import tomllib
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path
from typing import NamedTuple

import nbformat
from nbformat import NotebookNode

from build_cells import (
    COMMAND,
    LANGS,
    BuildError,
    Lesson,
    Rendered,
    fail,
    read_lesson,
    render,
    setup_code,
    stamp,
)

ROOT = Path(__file__).resolve().parents[1]
CELL_TIMEOUT = 600  # seconds; no lesson may take a fifth of it
WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"  # points into a kernel that is gone; the stored picture stays
REPRODUCIBLE = {
    "PYTHONHASHSEED": "0",
    "SOURCE_DATE_EPOCH": "0",  # what matplotlib writes into a picture as its date
    "OMP_NUM_THREADS": "1",
    "TUNELAB_STRICT": "1",  # a claim that does not hold stops the build
}


class Edition(NamedTuple):
    """One notebook to be: a lesson in one language."""

    lesson: Lesson
    lang: str
    rendered: list[Rendered]
    notebook: NotebookNode  # without outputs
    file: Path


def main(argv: list[str] | None = None, root: Path = ROOT) -> int:
    """Run the command line on the course under `root`; returns the exit status."""
    args = _arguments(argv)
    try:
        sources = _find_sources(root, args.lesson)
        setup = setup_code(tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8")))
    except (BuildError, OSError, tomllib.TOMLDecodeError) as error:
        print(error, file=sys.stderr)
        return 1
    langs = [args.lang] if args.lang else list(LANGS)
    failures = []
    for source in sources:  # one broken lesson does not keep the others from being built
        try:
            if args.stamp:
                _stamp_file(source, root)
                continue
            lesson = read_lesson(source, root)
            folder = args.solutions.resolve() if args.solutions else root / "notebooks"
            editions = [_edition(lesson, lang, setup, folder, solutions=bool(args.solutions)) for lang in langs]
            if args.check:
                _check(editions, root)
            else:
                _build(editions, root, execute=not args.no_execute)
        except BuildError as error:
            failures.append(f"Lesson {source.stem}:\n{error}")
    if args.check and not args.lesson:
        failures += _orphans(root, {source.stem for source in sources})
    for failure in failures:
        print(failure, file=sys.stderr)
    return 1 if failures else 0


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog=COMMAND, description="Build the notebooks from the lessons' sources.")
    parser.add_argument("--lesson", metavar="NN", help="only this lesson, by number or name")
    parser.add_argument("--lang", choices=LANGS, help="only this edition")
    parser.add_argument("--no-execute", action="store_true", help="run nothing; outputs stay where no code changed")
    action = parser.add_mutually_exclusive_group()
    action.add_argument("--check", action="store_true", help="compare the notebooks with the sources; write nothing")
    action.add_argument("--stamp", action="store_true", help="declare both languages' prose to say the same")
    action.add_argument("--solutions", type=Path, metavar="DIR", help="write the notebooks with solutions, into DIR")
    return parser.parse_args(argv)


def _find_sources(root: Path, wanted: str | None) -> list[Path]:
    folder = root / "lessons_src" / "lessons"
    sources = sorted(folder.glob("[0-9][0-9]_*.py"))
    chosen = [source for source in sources if wanted in (None, source.stem, source.stem[:2])]
    if not chosen:
        known = ", ".join(source.stem for source in sources) or f"none in {folder}"
        raise fail(f"--lesson {wanted}" if wanted else "lessons", "no such lesson", f"lessons: {known}")
    return chosen


def _edition(lesson: Lesson, lang: str, setup: str, folder: Path, *, solutions: bool) -> Edition:
    rendered = render(lesson, lang, setup, solutions=solutions)
    notebook = nbformat.v4.new_notebook(
        cells=[one.cell for one in rendered],
        metadata={
            "kernelspec": {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"},
            "language_info": {"file_extension": ".py", "mimetype": "text/x-python", "name": "python"},
            # Claims and labels are seen in outputs alone: this is how a notebook older than its .toml is noticed.
            "tunelab": {"lang": lang, "lesson": lesson.name, "texts": lesson.digest_of_labels},
        },
    )
    file = (folder if lang == "en" else folder / lang) / f"{lesson.name}.ipynb"
    return Edition(lesson, lang, rendered, notebook, file)


# --- building ---


def _build(editions: list[Edition], root: Path, *, execute: bool) -> None:
    """Write a lesson's notebooks: all of them, or none where one fails."""
    finished = []
    for edition in editions:
        began = time.monotonic()
        edition.file.parent.mkdir(parents=True, exist_ok=True)  # it is the working directory of the cells
        if execute:
            notebook = _executed(edition, root)
            note = f"executed in {time.monotonic() - began:.0f} s"
        else:
            notebook, note = _with_stored_outputs(edition)
        nbformat.validate(notebook)
        finished.append((edition.file, notebook, note))
    for file, notebook, note in finished:
        write_atomically(file, (nbformat.writes(notebook) + "\n").encode("utf-8"))
        print(f"{_shown(file, root)}: {len(notebook.cells)} cells, {note}")


def _executed(edition: Edition, root: Path) -> NotebookNode:
    """A copy with the outputs of a fresh kernel of this Python; BuildError names the cell that fails."""
    from ipykernel.kernelspec import get_kernel_dict
    from jupyter_client.kernelspec import KernelSpec, KernelSpecManager
    from jupyter_client.manager import AsyncKernelManager
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

    class ThisPython(KernelSpecManager):
        """A kernelspec "python3" of the user's may run another Python than the one that builds."""

        def get_kernel_spec(self, kernel_name: str) -> KernelSpec:
            # Errors only: the kernel warns that it talks to the builder unencrypted, which it does within this machine.
            return KernelSpec(**get_kernel_dict(extra_arguments=["--log-level=ERROR"]))

    reached = 0

    def note_cell(cell: NotebookNode, cell_index: int) -> None:
        nonlocal reached
        reached = cell_index

    run = copy.deepcopy(edition.notebook)
    client = NotebookClient(
        run,
        km=AsyncKernelManager(kernel_spec_manager=ThisPython()),
        resources={"metadata": {"path": str(edition.file.parent)}},
        timeout=CELL_TIMEOUT,
        record_timing=False,
        store_widget_state=False,
        on_cell_start=note_cell,
    )
    python_path = os.pathsep.join(filter(None, [str(root / "lessons_src"), os.environ.get("PYTHONPATH")]))
    env = os.environ | REPRODUCIBLE | {"PYTHONPATH": python_path}
    env.pop("MPLBACKEND", None)  # figures must land in the notebook
    try:
        client.execute(env=env, cleanup_kc=True)  # nbclient leaves a kernel running whose manager it did not make
    except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
        raise _cell_error(edition, reached, _plain(str(error))) from error

    # Sources and metadata from what was rendered, outputs from the run: nothing else of the run can get in.
    notebook = copy.deepcopy(edition.notebook)
    for index, (cell, ran) in enumerate(zip(notebook.cells, run.cells, strict=True)):
        if cell.cell_type == "code":
            cell.execution_count, cell.outputs = ran.execution_count, normalise(ran.outputs, root)
            if "raises-exception" in cell.metadata.get("tags", []) and not _errors(cell):
                raise _cell_error(edition, index, "tagged raises-exception, but it raised nothing")
    return notebook


def normalise(outputs: list[NotebookNode], root: Path) -> list[NotebookNode]:
    """Outputs as they are stored: what depends on timing, on this machine or on the finished kernel is taken away.

    Adjacent pieces of one stream are joined, a line redrawn with carriage returns keeps its last state, the paths that
    warnings and tracebacks name are shortened.
    """
    stored: list[NotebookNode] = []
    for output in copy.deepcopy(outputs):
        previous = stored[-1] if stored else None
        if output.output_type == "stream" and previous and previous.get("name") == output.name:
            previous.text += output.text
            continue
        if "data" in output:
            output.data.pop(WIDGET_VIEW, None)
            if not output.data:
                continue
        stored.append(output)
    for output in stored:
        if output.output_type == "stream":
            output.text = _without_folders(re.sub(r"[^\n]*\r(?!\n)(?=[^\n])", "", output.text), root)
        elif output.output_type == "error":
            output.traceback = [_without_folders(line, root) for line in output.traceback]
    return stored


def _without_folders(text: str, root: Path) -> str:
    """Text without the folders of the course, of the packages and of Python on this machine."""
    for folder in (str(root), sysconfig.get_path("purelib"), sysconfig.get_path("stdlib")):
        text = text.replace(folder + os.sep, "")
    return text


def _with_stored_outputs(edition: Edition) -> tuple[NotebookNode, str]:
    """The notebook without a run: its old outputs where all code and labels are as they were, otherwise none.

    All or nothing, because what a cell prints depends on every cell before it.
    """
    notebook = copy.deepcopy(edition.notebook)
    stored = _read(edition.file) if edition.file.exists() else None
    old, new = ([cell for cell in nb.cells if cell.cell_type == "code"] if nb else [] for nb in (stored, notebook))
    if stored is None or stored.metadata != notebook.metadata or [c.source for c in old] != [c.source for c in new]:
        return notebook, "not executed, no outputs"
    for cell, before in zip(new, old, strict=True):
        cell.execution_count, cell.outputs = before.execution_count, before.outputs
    return notebook, "not executed, outputs kept"


def write_atomically(file: Path, content: bytes) -> None:
    """Replace a file in one step: whoever reads or interrupts sees the old content or the new, never half of it."""
    temporary = file.with_name(f".{file.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(content)
        os.replace(temporary, file)
    finally:
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()


def _stamp_file(source: Path, root: Path) -> None:
    old = source.read_bytes().decode("utf-8")
    new = stamp(old, _shown(source, root))
    if new != old:
        write_atomically(source, new.encode("utf-8"))
    print(f"{_shown(source, root)}: {'stamped' if new != old else 'nothing to stamp'}")


# --- checking ---


def _check(editions: list[Edition], root: Path) -> None:
    """BuildError where a stored notebook is not what its source gives, or was not executed from start to end."""
    problems = []
    for edition in editions:
        first = next(_drift(edition), None)
        if first:
            problems.append(f"{_shown(edition.file, root)}: {first}")
    if problems:
        number = editions[0].lesson.number
        problems.append(f"    -> run `{COMMAND} --lesson {number}` (add --no-execute when only prose changed)")
        raise BuildError("\n".join(problems))


def _drift(edition: Edition) -> Iterator[str]:
    if not edition.file.exists():
        yield "is missing"
        return
    stored = _read(edition.file)
    for number, (one, cell) in enumerate(zip_longest(edition.rendered, stored.cells), start=1):
        if one is None or cell is None:
            yield f"cell {number} " + (f"is missing ({edition.lesson.path}:{one.line})" if one else "has no source")
            return
        parts = [part for part in ("cell_type", "source", "metadata", "id") if cell.get(part) != one.cell.get(part)]
        if parts:
            yield f"cell {number} differs from {edition.lesson.path}:{one.line} ({', '.join(parts)})"
    if stored.metadata != edition.notebook.metadata:
        yield "its metadata differ: a claim or label in the .toml changed, or it was saved by hand"
    code = ((number, cell) for number, cell in enumerate(stored.cells, start=1) if cell.cell_type == "code")
    for count, (number, cell) in enumerate(code, start=1):
        if cell.execution_count != count:
            yield f"cell {number} was not executed in order (execution_count {cell.execution_count}, expected {count})"
        if _errors(cell) and "raises-exception" not in cell.metadata.get("tags", []):
            yield f"cell {number} stores an error: {_errors(cell)[0].ename}"


def _orphans(root: Path, known: set[str]) -> list[str]:
    files = [*root.glob("notebooks/[0-9][0-9]_*.ipynb"), *root.glob("notebooks/zh/[0-9][0-9]_*.ipynb")]
    unknown = sorted(file for file in files if file.stem not in known)
    return [str(fail(_shown(file, root), "no lesson has this name", "delete the notebook")) for file in unknown]


# --- helpers ---


def _cell_error(edition: Edition, index: int, reason: str) -> BuildError:
    cell, line = edition.rendered[index]
    first_line = cell.source.strip().split("\n")[0]
    return fail(
        f"{edition.lesson.path}:{line}",
        f"cell {index + 1} of the {edition.lang} edition failed (it begins `{first_line}`)\n{reason.strip()}",
        "the notebooks are as they were; correct the source and build again",
    )


def _errors(cell: NotebookNode) -> list[NotebookNode]:
    return [output for output in cell.outputs if output.output_type == "error"]


def _read(file: Path) -> NotebookNode:
    try:
        return nbformat.read(file, as_version=4)
    except (nbformat.reader.NotJSONError, nbformat.ValidationError) as error:
        raise fail(str(file), f"cannot be read as a notebook: {error}", "delete it and build again") from error


def _plain(text: str) -> str:
    """Without the colours that IPython puts into a traceback."""
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


def _shown(file: Path, root: Path) -> str:
    return file.relative_to(root).as_posix() if file.is_relative_to(root) else str(file)


if __name__ == "__main__":
    sys.exit(main())
