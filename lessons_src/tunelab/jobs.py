"""Fine-tuning in the background: rows in, a LoRA adapter out, one job at a time."""

from __future__ import annotations

import re
import secrets
import shutil
import tempfile
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from . import chat, data, models, training
from ._files import read, read_task
from .adapters import ADAPTER_NAME, BASE, LanguageModel

MAX_STEPS, MAX_ROWS, MAX_ROW_TOKENS, KEPT = 2000, 8000, 512, 100  # KEPT: jobs that are remembered
FILE = "rows.jsonl"  # what errors call the rows


class JobRunningError(RuntimeError):
    """One job at a time; the message names the one that runs."""


class UnknownJobError(LookupError):
    """No job has this id."""


class _Cancelled(Exception):
    pass


@dataclass
class Job:
    """A fine-tuning: ``state`` is running, done, failed or cancelled; ``loss`` (nats a token) is there when it is done."""

    id: str
    adapter: str
    steps: int
    step: int = 0
    state: str = "running"
    loss: float | None = None
    error: str | None = None
    cancelled: threading.Event = field(default_factory=threading.Event, repr=False)
    thread: threading.Thread | None = field(default=None, repr=False)

    def report(self) -> dict[str, Any]:
        """What the API says of it."""
        return {name: getattr(self, name) for name in ("id", "adapter", "state", "step", "steps", "loss", "error")}


class Jobs:
    """Trains adapters on a copy of the base, so that the model goes on answering, and hands them to it when done."""

    def __init__(self, lm: LanguageModel, folder: Path) -> None:
        """Adapters are saved as ``folder/NAME``; a save that was interrupted is undone."""
        self.lm, self.folder, self._jobs, self._lock = lm, folder, {}, threading.Lock()
        for old in folder.glob(".old-*"):
            if not (kept := folder / old.name.removeprefix(".old-")).exists():
                old.rename(kept)
        for left in (*folder.glob(".old-*"), *folder.glob(".new-*")):
            shutil.rmtree(left, ignore_errors=True)

    def start(self, adapter: str, rows: str, steps: int = 200, seed: int = 0) -> Job:
        """Begins to train ``adapter`` on rows of JSONL: ``question`` and ``response``, or the columns of the course's questions.

        An adapter of this name is replaced when the new one is ready.

        Raises:
            JobRunningError: another one is not finished.
            ValueError: a bad name or number, or rows that cannot be used; it names the row.
        """
        if not re.fullmatch(ADAPTER_NAME, adapter) or adapter == BASE:
            raise ValueError(f"adapter={adapter!r}: a name has 1 to 32 of a-z, 0-9, _ and -, and is not {BASE!r}")
        if not 1 <= steps <= MAX_STEPS:
            raise ValueError(f"steps={steps}: expected 1 to {MAX_STEPS}")
        encoded = self._encoded(rows)
        with self._lock:
            if running := self.running():
                raise JobRunningError(
                    f"job {running.id} (adapter {running.adapter!r}) is running: wait for it, or cancel it"
                )
            job = Job(secrets.token_hex(8), adapter, steps)
            job.thread = threading.Thread(
                target=self._run, args=(job, encoded, seed), name=f"job-{job.id}", daemon=True
            )
            self._jobs[job.id] = job
            for old in list(self._jobs)[:-KEPT]:
                del self._jobs[old]
            job.thread.start()
        return job

    def running(self) -> Job | None:
        """The job that is not finished, if there is one."""
        return next((job for job in list(self._jobs.values()) if job.state == "running"), None)

    def get(self, name: str) -> Job:
        """Raises UnknownJobError."""
        if name not in self._jobs:
            raise UnknownJobError(f"no job {name[:60]!r}: the last {KEPT} jobs since the start are remembered")
        return self._jobs[name]

    def cancel(self, name: str) -> Job:
        """Stops a job after the step it is in; a finished one stays as it is. Raises UnknownJobError."""
        job = self.get(name)
        job.cancelled.set()
        job.thread.join()
        return job

    def close(self) -> None:
        """Cancels the job that runs."""
        if job := self.running():
            self.cancel(job.id)

    def _encoded(self, text: str) -> list[dict[str, list[int]]]:
        text = text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
        numbers = [number for number, line in enumerate(text.split("\n"), start=1) if line.strip()]
        if len(numbers) > MAX_ROWS:
            raise ValueError(f"{FILE} has {len(numbers):,} rows, the limit is {MAX_ROWS:,}: send fewer")
        encoded = []
        for number, row in zip(numbers, _rows(text), strict=True):
            turns = [*chat.prompt(row["question"]), {"role": "assistant", "content": row["response"]}]
            try:
                "".join(row.values()).encode()  # half of a character pair has no UTF-8, and no token
                encoded.append(chat.encode(self.lm.tokenizer, turns, MAX_ROW_TOKENS))
            except ValueError as error:
                raise ValueError(f"{FILE}, row {number}: {error}") from None
        return encoded

    def _run(self, job: Job, rows: list[dict[str, list[int]]], seed: int) -> None:
        try:
            try:
                self._train(job, rows, seed)
            finally:  # where the new adapter is refused, its folder is still there
                shutil.rmtree(self.folder / f".new-{job.id}", ignore_errors=True)
            job.state = "done"
        except _Cancelled:
            job.state = "cancelled"
        except Exception as error:  # a thread has nobody to raise to
            job.error, job.state = f"{type(error).__name__}: {error}", "failed"

    def _train(self, job: Job, rows: list[dict[str, list[int]]], seed: int) -> None:
        import torch
        from peft import LoraConfig, get_peft_model

        def progress(step: int) -> None:
            job.step = step
            if job.cancelled.is_set():
                raise _Cancelled

        base = self.lm.copy_of_base()
        config = LoraConfig(r=8, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = get_peft_model(base, config)
        rate = models.RATES["gpu" if base.device.type == "cuda" else "tiny"]["lora"]
        options = {"steps": job.steps, "lr": rate, "batch_size": 8, "seed": seed, "progress": False}
        history = training.fit(model, rows, eval_every=1, on_eval=progress, **options)
        staging, final, old = (self.folder / name for name in (f".new-{job.id}", job.adapter, f".old-{job.adapter}"))
        model.save_pretrained(staging)
        (staging / "base.sha256").write_text(self.lm.fingerprint, encoding="utf-8")
        self.lm.load(staging, job.adapter)  # checks it
        if final.exists():
            final.rename(old)
        staging.rename(final)
        shutil.rmtree(old, ignore_errors=True)
        job.loss = history.final


def _rows(text: str) -> list[dict[str, str]]:
    """``question`` and ``response`` of each row, checked; those of the course's questions get their JSON answer."""
    with tempfile.TemporaryDirectory() as room:
        file = Path(room) / FILE
        file.write_text(text, encoding="utf-8", newline="")
        try:
            if '"place"' not in text:
                return read(file, ("question", "response"))
            rows = read_task(file, "questions")
        except RecursionError:
            raise ValueError(f"{FILE}: nested too deeply; a row is an object of texts") from None
        except ValueError as error:
            if FILE in str(error):
                raise
            raise ValueError(f"{FILE}: a number has too many digits; a row is an object of texts") from None
    return [{"question": r["question"], "response": data.response(r["place"], r["topic"], r["answer"])} for r in rows]
