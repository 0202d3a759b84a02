"""Lesson 03: the stored table still says what the package predicts, and what was measured keeps to it."""

import json

import pytest
import torch

from experiments import lesson_03
from tunelab import accounting
from tunelab.paths import course_file

STORED = json.loads(course_file("assets", "results", "lesson_03.json").read_text(encoding="utf-8"))


def test_every_case_is_stored():
    cases = [(case["model"], case["method"]) for case in STORED["cases"]]
    assert cases == [(model, method) for model in lesson_03.MODELS for method in lesson_03.METHODS]


@pytest.mark.parametrize("case", STORED["cases"], ids=lambda case: f"{case['model']}-{case['method']}")
def test_the_prediction_is_the_stored_one(case):
    with torch.device("meta"):
        model, _ = lesson_03.prepared(case["model"], case["method"])
    now = accounting.training_memory(model, batch=STORED["batch"], length=STORED["length"])
    assert {part: round(getattr(now, part)) for part in case["predicted"]} == case["predicted"]
    assert accounting.count(model) == accounting.Count(case["parameters"], case["trained"])
    assert case["allocator"] == pytest.approx(now.peak, rel=0.1)
