"""Claims: the printed line, the bounds, what a failure does, the ledger."""

import numpy as np
import pytest
import torch

import demo_course
from tunelab import claim, session, start
from tunelab.claims import ClaimError, ledger, print_ledger
from tunelab.display import Quiet


@pytest.fixture(autouse=True)
def course(tmp_path, monkeypatch, capsys):
    demo_course.install(tmp_path, monkeypatch)
    start("01", "en")
    capsys.readouterr()


def printed(capsys) -> str:
    return capsys.readouterr().out.rstrip("\n")


def test_the_line_shows_statement_measured_value_and_bound(capsys):
    assert claim("share", 0.0027456, between=(0.001, 0.01))
    assert printed(capsys) == "✓ LoRA trains a small share · computed 0.2746% · bound 0.1% to 1%"
    claim("margin", 12345.678, at_least=10)
    assert printed(capsys) == "✓ pre-training helps · measured 12,350 · bound at least 10"
    claim("plain", 19_988_480, equals=19_988_480)
    assert printed(capsys) == "✓ it is so · computed 19,988,480 · bound exactly 19,988,480"
    claim("plain", 0.3000001, close_to=(0.3, 1e-6))
    assert printed(capsys) == "✓ it is so · computed 0.3 · bound 0.3 ± 1e-06"
    start("01", "zh")
    capsys.readouterr()
    claim("share", 0.5, at_most=0.6)
    assert printed(capsys) == "✓ LoRA 只训练一小部分 · 计算值 50% · 范围 至多 60%"


@pytest.mark.parametrize(
    ("value", "bound", "holds"),
    [
        (1, {"between": (1, 2)}, True),
        (0.5, {"between": (torch.tensor(0.25), np.float32(0.75))}, True),
        (2.1, {"between": (1, 2)}, False),
        (np.float32(0.5), {"at_least": 0.5}, True),
        (torch.tensor(0.4), {"at_least": 0.5}, False),
        (0, {"at_most": 0}, True),
        (True, {"equals": True}, True),
        (False, {"equals": 0}, True),
        (torch.tensor([1, 2]), {"equals": [1, 2]}, True),
        ("[EOS]", {"equals": "[EOS]"}, True),
        ({"a": 1}, {"equals": {"a": 2}}, False),
        (1.02, {"close_to": (1, 0.01)}, False),
        (float("nan"), {"at_most": 1}, False),
    ],
)
def test_each_bound_judges_python_numpy_and_torch_values(value, bound, holds):
    assert claim("plain", value, **bound) == holds


def test_a_failure_is_friendly_for_a_learner_and_stops_a_strict_run(capsys, monkeypatch):
    assert not claim("margin", -0.1, at_least=0.05)
    assert printed(capsys).startswith(
        "✗ pre-training helps · measured -0.1 · bound at least 0.05\n  If you changed something"
    )
    for variable, value in [("CI", "true"), ("TUNELAB_STRICT", "1")]:
        with (
            monkeypatch.context() as patch,
            pytest.raises(ClaimError, match=r"margin: ✗.*measured -0\.1.*at least 0\.05"),
        ):
            patch.setenv(variable, value)
            claim("margin", -0.1, at_least=0.05)


def test_rounding_never_hides_why_a_claim_failed(capsys):
    claim("share", 0.899999, at_least=0.9)  # 90% with four digits
    assert "computed 89.9999% · bound at least 90%" in printed(capsys)
    claim("plain", 0.1 + 0.2, equals=0.3)
    assert "0.30000000000000004" in printed(capsys)


def test_a_false_statement_of_the_article_passes_by_not_holding(capsys, monkeypatch):
    monkeypatch.setenv("TUNELAB_STRICT", "1")
    assert claim("speed", 1.5, at_least=20, expected=False)
    line = '✓ the article says "a step is 24 times as fast" — not so · measured 1.5x · bound at least 20x'
    assert printed(capsys) == line
    with pytest.raises(ClaimError):
        claim("speed", 25.0, at_least=20, expected=False)
    with pytest.raises(ClaimError):  # a training that broke refutes nothing
        claim("speed", float("nan"), at_least=20, expected=False)


def test_a_claim_bound_to_tiny_is_shown_but_not_judged_elsewhere(capsys, monkeypatch):
    monkeypatch.setenv("TUNELAB_STRICT", "1")
    monkeypatch.setattr(session, "_current", session.Session(**(vars(session.current()) | {"profile": "gpu"})))
    claim("margin", 0.0, at_least=0.5)
    assert printed(capsys) == "○ pre-training helps · measured 0 · not judged here (gpu)"
    assert ledger()[0].holds is None


def test_mistakes_of_the_author_are_named():
    with pytest.raises(LookupError, match=r"01_demo\.toml has no \[claims\.shaer\].*share, margin"):
        claim("shaer", 1, equals=1)
    with pytest.raises(TypeError, match=r"exactly one of.*it has none"):
        claim("share", 1)
    with pytest.raises(TypeError, match="it has between, at_least"):
        claim("share", 1, between=(0, 1), at_least=0)
    with pytest.raises(ValueError, match="smaller number first"):
        claim("share", 1, between=(2, 1))
    with pytest.raises(TypeError, match="two numbers"):
        claim("share", 1, close_to=1)
    with pytest.raises(TypeError, match=r"compares one number.*list"):
        claim("share", np.array([1.0, 2.0]), at_least=0)
    with pytest.raises(ValueError, match=r"'guess'.*exact, measured, article"):
        claim("odd", 1, equals=1)


def test_the_ledger_replaces_on_rerun_survives_the_first_cell_and_resets_with_another_lesson(capsys):
    claim("share", 0.5, at_most=1)
    claim("margin", 0.2, at_least=0.1)
    claim("share", 0.7, at_most=1)
    assert [(record.name, record.value) for record in ledger()] == [("share", 0.7), ("margin", 0.2)]
    start("01", "en")
    assert len(ledger()) == 2
    start("02", "en")
    assert ledger() == []


def test_the_printed_ledger_lines_up_in_chinese_too(capsys):
    start("01", "zh")
    claim("share", 0.5, at_most=1)
    claim("speed", 1.0, at_least=20, expected=False)
    capsys.readouterr()
    print_ledger()
    lines = printed(capsys).splitlines()
    assert lines[0].split() == ["断言", "类别", "陈述", "实测", "范围"]
    assert len(lines) == 4 and "文章说“每步快 24 倍”——并非如此" in lines[3]


def test_the_result_is_a_silent_bool_at_the_end_of_a_cell():
    result = claim("share", 0.5, at_most=1)
    assert isinstance(result, Quiet) and result == True and repr(result) == "True"  # noqa: E712
