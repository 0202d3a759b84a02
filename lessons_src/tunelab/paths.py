"""Where the course's files lie: in a checkout of the repository, or inside the installed wheel (Colab)."""

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent
_WHEEL = _PACKAGE / "_course"  # filled by the wheel build, absent in a checkout

#: The repository's root, or None where the package was installed from a wheel.
CHECKOUT: Path | None = None if _WHEEL.is_dir() else _PACKAGE.parents[1]

ROOTS: dict[str, Path] = {
    "assets": _WHEEL / "assets" if CHECKOUT is None else CHECKOUT / "assets",
    "lessons": _WHEEL / "lessons" if CHECKOUT is None else _PACKAGE.parent / "lessons",
    "checks": _WHEEL / "checks" if CHECKOUT is None else _PACKAGE.parent / "checks",
}


def course_file(*parts: str) -> Path:
    """Path of a course file, such as `course_file("assets", "data", "questions.jsonl")`; it need not exist yet.

    Raises ValueError when the first part is none of "assets", "lessons", "checks".
    """
    first, *rest = Path(*parts).parts or ("",)
    if first not in ROOTS:
        raise ValueError(f"course_file{parts!r}: the first part must be one of {', '.join(ROOTS)}.")
    return ROOTS[first].joinpath(*rest)
