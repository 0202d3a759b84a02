"""Runs of many seeds: results in order, and a run that fails is heard of before the others are made."""

import time
from pathlib import Path

import pytest

from experiments import run_all


def written(folder, number):
    if number is None:
        raise ValueError("this seed fails")
    time.sleep(0.1)
    (Path(folder) / str(number)).touch()
    return {"number": number}


def test_results_come_in_the_order_of_the_jobs(tmp_path, capsys):
    results = run_all(written, [(str(tmp_path), n) for n in (3, 1, 2)], lambda run: f"run {run['number']}", 2)
    assert [run["number"] for run in results] == [3, 1, 2]
    assert capsys.readouterr().out.split("\n")[:3] == ["run 3", "run 1", "run 2"]


def test_a_run_that_fails_drops_those_that_have_not_begun(tmp_path):
    with pytest.raises(ValueError, match="this seed fails"):
        run_all(written, [(str(tmp_path), n) for n in (None, *range(20))], str, 1)
    assert len(list(tmp_path.iterdir())) < 10
