"""tunelab: what the lessons of "Fine-Tuning, Understood" share and a learner need not read.

`import tunelab` loads nothing heavy: each name below is imported when it is first used (PEP 562), so that `start()` can
set the thread and offline switches before torch and the Hugging Face libraries read them.
"""

from importlib import import_module
from typing import Any

_HOME = {
    "start": "session",
    "current": "session",
    "T": "session",
    "doctor": "_doctor",  # underscored: a submodule called `doctor` would hide the function of that name
    "claim": "claims",
    "check": "exercises",
    "hint": "exercises",
    "solution": "exercises",
}
__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(
            f"tunelab has no {name!r}. It offers {', '.join(__all__)}, and modules such as tunelab.data."
        )
    return getattr(import_module(f"tunelab.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(_HOME))
