"""What needs no fine-tuning, measured on the hand-written sets: `make baselines` writes assets/results/baselines.json.

A fine-tuned model is worth its trouble only where it beats these. Nothing here is tuned on a test set.
"""

from __future__ import annotations

import argparse
import json
import os
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from random import Random
from statistics import mean
from typing import Any

os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_DISABLE_PROGRESS_BARS="1", OMP_NUM_THREADS="1")

import bm25s
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from data_report import stem, words
from tunelab import data, world
from tunelab.paths import course_file

Row = dict[str, Any]


def bag_of_words(lang: str) -> CountVectorizer:
    """Counts of words and pairs of words; in Chinese, of characters and pairs of characters."""
    if lang == "zh":
        return CountVectorizer(analyzer="char", ngram_range=(1, 2))
    return CountVectorizer(ngram_range=(1, 2), token_pattern=r"(?u)\b\w+\b")


def reviews(lang: str, draws: int = 10, size: int = 200) -> dict[str, Any]:
    """Accuracy on the test reviews: the commonest label, and logistic regression on bags of words."""
    test, train = data.load("reviews", lang, "test"), list(data.load("reviews", lang, "train"))

    def accuracy(rows: Sequence[Row]) -> float:
        model = make_pipeline(bag_of_words(lang), LogisticRegression(max_iter=2000))
        model.fit([row["text"] for row in rows], [row["label"] for row in rows])
        return float(model.score(test["text"], test["label"]))

    drawn = [accuracy(Random(seed).sample(train, size)) for seed in range(draws)]
    return {
        "majority": share_of_commonest(train, test, "label"),
        f"bag_of_words_{size}": {"mean": mean(drawn), "least": min(drawn), "most": max(drawn), "draws": draws},
        "bag_of_words_generated": accuracy(list(data.load("reviews", lang, "generated"))),
    }


def share_of_commonest(train: Sequence[Row], test: Sequence[Row], column: str) -> float:
    """Share of the test rows that have the commonest value of the training rows."""
    commonest = Counter(row[column] for row in train).most_common(1)[0][0]
    return mean(row[column] == commonest for row in test)


def entities(lang: str) -> dict[str, float]:
    """Span F1 on the test sentences when each token gets the tag that it most often had in the training sentences."""
    test, scores = list(data.load("entities", lang, "test")), {}
    for name, split in (("generated", "train"), ("dev", "dev")):
        seen: dict[str, Counter[str]] = defaultdict(Counter)
        for row in data.load("entities", lang, split):
            for token, tag in zip(*tagged(row, lang), strict=True):
                seen[row["text"][slice(*token)].lower()][tag] += 1
        guesses = []
        for row in test:
            places, _ = tagged(row, lang)
            found = [seen[row["text"][slice(*place)].lower()].most_common(1) for place in places]
            guesses.append(joined(places, [tag[0][0] if tag else "O" for tag in found]))
        scores[f"most_frequent_tag_{name}"] = span_f1(guesses, [row["spans"] for row in test])
    return scores


def tagged(row: Row, lang: str) -> tuple[list[tuple[int, int]], list[str]]:
    """Where the words (Chinese: characters) of a sentence begin and end, and the label that each has, or O."""
    places = [m.span() for m in re.finditer(r"[\u4e00-\u9fff]|\w" if lang == "zh" else r"[\w.:]*\w", row["text"])]
    inside = [next((s["label"] for s in row["spans"] if s["start"] <= a and b <= s["end"]), "O") for a, b in places]
    return places, inside


def joined(places: list[tuple[int, int]], tags: list[str]) -> list[Row]:
    """Spans: neighbouring tokens with the same tag are one mention."""
    spans: list[Row] = []
    before = "O"
    for (start, end), tag in zip(places, tags, strict=True):
        if tag != "O" and tag == before:
            spans[-1]["end"] = end
        elif tag != "O":
            spans.append({"start": start, "end": end, "label": tag})
        before = tag
    return spans


def span_f1(guesses: list[list[Row]], truths: list[list[Row]]) -> float:
    """F1 of exact spans with their labels, over all sentences."""
    right = count = 0
    for guess, truth in zip(guesses, truths, strict=True):
        mine, theirs = ({(s["start"], s["end"], s["label"]) for s in spans} for spans in (guess, truth))
        right, count = right + len(mine & theirs), count + len(mine) + len(theirs)
    return 2 * right / count


def retrieval(lang: str) -> dict[str, Any]:
    """BM25 over all passages: share of the questions whose first hit is relevant, by kind of question and split."""
    passages = list(data.load("passages", lang, "all"))
    index = bm25s.BM25()
    index.index([search_terms(f"{row['title']} {row['text']}", lang) for row in passages], show_progress=False)
    hits: dict[str, list[bool]] = defaultdict(list)
    for split in ("dev", "test"):
        for row in data.load("passage_questions", lang, split):
            if not row["passages"]:
                continue
            scores = index.get_scores(search_terms(row["question"], lang))
            # A passage that others tie with is no hit: ties count against the method.
            best = [passages[i]["id"] for i in range(len(passages)) if scores[i] == scores.max()]
            hits[f"{row['kind']}_{split}"].append(len(best) == 1 and best[0] in row["passages"])
            hits[row["kind"]].append(hits[f"{row['kind']}_{split}"][-1])
    return {f"bm25_hit_at_1_{name}": mean(values) for name, values in sorted(hits.items())}


def search_terms(text: str, lang: str) -> list[str]:
    """Stems of words; in Chinese, pairs of characters and the characters themselves."""
    if lang == "en":
        return [stem(word) for word in words(text)]
    characters = words(text)
    return characters + [a + b for a, b in pairwise(characters)]


def answers(lang: str) -> dict[str, float]:
    """The constant answer: the commonest one of the training set, whatever is asked."""
    spans = [row["answer"] for split in ("dev", "test") for row in data.load("passage_questions", lang, split)]
    train = Counter(row["answer"]["text"] for row in data.load("passage_questions", lang, "train"))
    constant = train.most_common(1)[0][0]
    questions = {split: list(data.load("questions", lang, split)) for split in ("train", "test")}
    facts = Counter(
        item["value"] for row in data.load("dialogues", lang, "train") for item in row["expect"] if item["value"]
    )
    asked = [item for row in data.load("dialogues", lang, "test") for item in row["expect"] if item["value"]]
    return {
        "constant_span": mean(span["text"] == constant for span in spans if span),
        "constant_json_answer": share_of_commonest(questions["train"], questions["test"], "answer"),
        "constant_dialogue_fact": mean(item["value"] == facts.most_common(1)[0][0] for item in asked),
        "majority_ticket_outcome": share_of_commonest(
            list(data.load("tickets", lang, "dev")), list(data.load("tickets", lang, "test")), "outcome"
        ),
    }


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=course_file("assets", "results", "baselines.json"))
    args = parser.parse_args()
    table: dict[str, Any] = {"command": "python lessons_src/baselines.py"}
    for lang in world.LANGUAGES:
        table[lang] = {"reviews": reviews(lang), "entities": entities(lang)}
        table[lang] |= {"retrieval": retrieval(lang), "answers": answers(lang)}
    rounded = json.loads(json.dumps(table), parse_float=lambda text: round(float(text), 4))
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(rounded, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(rounded, indent=1))


if __name__ == "__main__":
    main()
