"""How the API behaves under load: throughput and latency of parallel clients as ratios to a single one (`make bench`).

Ratios, since seconds say more about the machine than about the server. Written to assets/results/bench.json.
"""

import argparse
import json
import statistics
import tempfile
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tunelab import serve
from tunelab.paths import course_file

BODIES = {
    "/search": {"text": "Can I get my money back for a day ticket?", "language": "en"},
    "/answer": {"question": "Can I get my money back for a day ticket?", "language": "en"},
}
COLUMNS = ("requests_a_second", "p50", "p95")


def ask(url: str, body: dict[str, object]) -> float:
    """Seconds that one request takes; an answer that is no success raises."""
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    started = time.perf_counter()
    with urllib.request.urlopen(request, timeout=120) as answer:
        answer.read()
    return time.perf_counter() - started


def load(url: str, body: dict[str, object], clients: int, requests: int) -> dict[str, float]:
    """Requests a second, median and 95th percentile of the seconds a request takes, with so many clients at once."""
    ask(url, body)
    started = time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        seconds = list(pool.map(lambda _: ask(url, body), range(requests)))
    marks = statistics.quantiles(seconds, n=20)
    return dict(zip(COLUMNS, (requests / (time.perf_counter() - started), marks[9], marks[18]), strict=True))


def main() -> None:
    """Measures each path and prints and stores the ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=60, help="for each number of clients")
    parser.add_argument("--clients", type=int, nargs="+", default=[4, 16])
    options = parser.parse_args()
    rows = []
    with (
        tempfile.TemporaryDirectory() as folder,
        serve.running(lambda: serve.create_app(folder), name="bench") as server,
    ):
        for path, body in BODIES.items():
            alone = load(server.url + path, body, 1, options.requests)
            for clients in options.clients:
                together = load(server.url + path, body, clients, options.requests)
                ratios = {column: round(together[column] / alone[column], 2) for column in COLUMNS}
                rows.append({"path": path, "clients": clients, **ratios})
                print(f"{path:8} {clients:3} clients to 1: " + ", ".join(f"{name} x{ratios[name]}" for name in COLUMNS))
    result = {"command": "make bench", "requests": options.requests, "ratios_to_one_client": rows}
    Path(course_file("assets", "results", "bench.json")).write_text(
        json.dumps(result, indent=1) + "\n", encoding="utf-8"
    )


if __name__ == "__main__":
    main()
