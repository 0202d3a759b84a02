"""Run every notebook as a careful reader might: each code cell twice in a row, alone and on a busy machine (`make verify`).

Prints one line a run: seconds (each cell counted once; its second execution apart), peak memory of the kernel, and the first
cell that failed. The network is blocked and a claim that does not hold is an error, as in `make test`.
"""

import argparse
import contextlib
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import nbformat
import psutil
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

from bootstrap import run_environ

ROOT = Path(__file__).resolve().parents[1]


class PeakMemory(threading.Thread):
    """Largest memory, in bytes, of a process and its children, sampled ten times a second.

    What a child shares with its parent, as all of it between fork and exec, counts once where the system says so (Linux: PSS).
    On Linux the kernel's own high-water mark of the process is taken too, which no sample can miss.
    """

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self.process, self.peak, self.done = psutil.Process(pid), 0, threading.Event()
        self.status = Path(f"/proc/{pid}/status")

    def run(self) -> None:
        with contextlib.suppress(psutil.NoSuchProcess):
            while not self.done.wait(0.1):
                family = [self.process, *self.process.children(recursive=True)]
                self.peak = max(self.peak, sum(map(own_share, family)))

    def stop(self) -> int:
        """End the sampling, while the process still lives, and return the peak."""
        self.done.set()
        self.join()
        mark = re.search(r"VmHWM:\s+(\d+) kB", self.status.read_text()) if self.status.exists() else None
        return max(self.peak, int(mark[1]) * 1024 if mark else 0)


def own_share(process: psutil.Process) -> int:
    """Bytes in memory, shared pages divided among those that share them where the system tells; 0 for one that has ended."""
    try:
        memory = process.memory_full_info()
        return getattr(memory, "pss", memory.rss)
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return 0


@contextlib.contextmanager
def busy_machine(loaded: bool) -> Iterator[None]:
    """While inside and `loaded`, every core but one is kept busy, as by a browser, a video call, another notebook."""
    cores = max(1, (os.cpu_count() or 2) - 1) if loaded else 0
    spinners = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(cores)]
    try:
        yield
    finally:
        for spinner in spinners:
            spinner.kill()
            spinner.wait()


def run_twice(path: Path) -> tuple[float, float, int, str]:
    """Execute each code cell of a notebook twice in a row, in a fresh kernel and the notebook's own folder.

    Returns seconds of all first executions (the kernel's start included) and of all second ones, peak memory in bytes, and
    what failed ("" when nothing did).
    """
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(
        notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(path.parent)}}
    )
    seconds, problem, start = [0.0, 0.0], "", time.monotonic()
    with client.setup_kernel(env=run_environ(), stderr=subprocess.DEVNULL):
        memory = PeakMemory(client.km.provisioner.pid)
        memory.start()
        seconds[0] = time.monotonic() - start
        try:
            for index, cell in enumerate(notebook.cells):
                for turn in (0, 1) if cell.cell_type == "code" else ():
                    start = time.monotonic()
                    client.execute_cell(cell, index)
                    seconds[turn] += time.monotonic() - start
        except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
            reason = str(error).strip().splitlines()[-1]
            problem = f"cell {index}, execution {turn + 1}: {type(error).__name__}: {reason}"
        peak = memory.stop()
    return seconds[0], seconds[1], peak, problem


def notebooks(lesson: str, lang: str) -> list[Path]:
    """The notebooks chosen: all lessons for lesson "", both editions for lang ""."""
    folders = {"en": [ROOT / "notebooks"], "zh": [ROOT / "notebooks" / "zh"]}
    found = [path for key in folders if lang in ("", key) for path in sorted(folders[key][0].glob(f"{lesson}*.ipynb"))]
    if not found:
        raise SystemExit(f"No notebook of lesson {lesson or '(any)'} in {ROOT / 'notebooks'}. Build it: make notebooks")
    return found


def main(arguments: list[str] | None = None) -> int:
    """Run and print the table; returns 1 when any run failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lesson", default="", help="two digits, such as 01; default: all")
    parser.add_argument("--lang", choices=["en", "zh", ""], default="", help="default: both")
    parser.add_argument("--plain", type=int, default=3, help="runs on a quiet machine (default 3)")
    parser.add_argument("--loaded", type=int, default=2, help="runs with every other core busy (default 2)")
    options = parser.parse_args(arguments)
    failed = 0
    print(f"{'notebook':<44} {'run':<10} {'once s':>7} {'again s':>8} {'peak MB':>8}  result", flush=True)
    for path in notebooks(options.lesson, options.lang):
        for number in range(options.plain + options.loaded):
            loaded = number >= options.plain
            with busy_machine(loaded):
                once, again, peak, problem = run_twice(path)
            name = path.relative_to(ROOT / "notebooks").as_posix()
            label = f"loaded {number - options.plain + 1}" if loaded else f"plain {number + 1}"
            print(f"{name:<44} {label:<10} {once:7.1f} {again:8.1f} {peak / 1e6:8.0f}  {problem or 'ok'}", flush=True)
            failed += bool(problem)
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
