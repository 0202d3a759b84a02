"""How the API behaves under load: throughput and latency of parallel clients as ratios to a single one (`make bench`).

The program behind waitress runs in a process of its own, or clients and server would share one interpreter. Ratios, since seconds
say more about the machine than about the server. Written to assets/results/bench.json.
"""

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from tunelab.paths import course_file

BODIES = {
    "/search": {"text": "Can I get my money back for a day ticket?", "language": "en"},
    "/answer": {"question": "Can I get my money back for a day ticket?", "language": "en"},
}
COLUMNS = ("requests_a_second", "p50", "p95")
PROGRAM = ["--threads=40", "--max-request-body-size=2097152", "--call", "tunelab.serve:create_app"]


@contextmanager
def served() -> Iterator[str]:
    """The address of the program, in a process and a folder of its own; both are gone afterwards."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        environ = os.environ | {"TUNELAB_FOLDER": folder, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        command = [sys.executable, "-m", "waitress", f"--listen=127.0.0.1:{port}", *PROGRAM]
        with subprocess.Popen(command, env=environ, stdout=subprocess.DEVNULL) as program:
            try:
                url = f"http://127.0.0.1:{port}"
                while program.poll() is None:
                    try:
                        urllib.request.urlopen(f"{url}/health", timeout=60).close()
                        break
                    except OSError:  # not listening yet
                        time.sleep(0.2)
                else:
                    raise SystemExit(f"the program ended with status {program.returncode}: its error stands above")
                yield url
            finally:
                program.terminate()


def ask(url: str, body: dict[str, object]) -> float | None:
    """Seconds that one request takes; None where the answer is no success."""
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    started = time.perf_counter()
    try:
        with urllib.request.urlopen(request, timeout=300) as answer:
            answer.read()
    except OSError:
        return None
    return time.perf_counter() - started


def load(url: str, body: dict[str, object], clients: int, requests: int) -> dict[str, float]:
    """Requests a second, median and 95th percentile of the seconds a request takes, with so many clients at once; errors."""
    ask(url, body)
    started = time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        seconds = list(pool.map(lambda _: ask(url, body), range(requests)))
    took = time.perf_counter() - started
    done = [one for one in seconds if one is not None]
    marks = statistics.quantiles(done, n=20)
    return {"requests_a_second": len(done) / took, "p50": marks[9], "p95": marks[18], "errors": requests - len(done)}


def main() -> None:
    """Measures each path and prints and stores the ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=200, help="for each number of clients")
    parser.add_argument("--clients", type=int, nargs="+", default=[16])
    options = parser.parse_args()
    rows = []
    with served() as url:
        for path, body in BODIES.items():
            alone = load(url + path, body, 1, options.requests)
            for clients in options.clients:
                together = load(url + path, body, clients, options.requests)
                ratios = {column: round(together[column] / alone[column], 2) for column in COLUMNS}
                rows.append(
                    {"path": path, "clients": clients, **ratios, "errors": together["errors"] + alone["errors"]}
                )
                print(f"{path:8} {clients:3} clients to 1: {rows[-1]}", flush=True)
    result = {"command": "make bench", "requests": options.requests, "ratios_to_one_client": rows}
    Path(course_file("assets", "results", "bench.json")).write_text(
        json.dumps(result, indent=1) + "\n", encoding="utf-8"
    )


if __name__ == "__main__":
    main()
