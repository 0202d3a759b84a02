"""A look at each hand-written set: `make data-report` prints counts, lengths, vocabulary, balance, and ten random rows."""

from __future__ import annotations

import argparse
import json
import os
import re
from collections import Counter
from random import Random
from statistics import median
from typing import Any

os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_DISABLE_PROGRESS_BARS="1")

from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS
from sklearn.metrics import cohen_kappa_score

from tunelab import data, world
from tunelab.paths import course_file

TEXT = {
    "questions": "question",
    "reviews": "text",
    "entities": "text",
    "passages": "text",
    "passage_questions": "question",
    "dialogues": "messages",
    "instructions": "instruction",
    "itineraries": "plan",
    "tickets": "ticket",
    "profiles": "profile",
}
BALANCE = {
    "questions": "topic",
    "reviews": "label",
    "passages": "kind",
    "passage_questions": "kind",
    "instructions": "task",
    "tickets": "outcome",
}
#: Sets whose labels were given a second time without a look at the first, and the column that was judged.
JUDGED = {"reviews": "label", "entities": "spans", "passage_questions": "passages", "tickets": "outcome"}


def text_of(row: dict[str, Any], task: str) -> str:
    """The text of a row that is measured; of a dialogue, all that is said in it."""
    value = row[TEXT[task]]
    return value if isinstance(value, str) else "\n".join(message["content"] for message in value)


def words(text: str) -> list[str]:
    """Words in lower case; each Chinese character counts as one."""
    return re.findall(r"[\u4e00-\u9fff]|[^\W\u4e00-\u9fff]+(?:['’][^\W\u4e00-\u9fff]+)*", text.lower())


# Words and characters that carry no content: they may stand in a question and in its passage.
_EXTRA = set(
    "ain't can't couldn't didn't doesn't don't hadn't hasn't haven't i'd i'll i'm i've isn't it's let's okay ok please she's that's there's they're wasn't we'd we'll we're we've what's where's who's won't wouldn't you're you've does did doing got get gets going just like need needs want wants say says tell one two long way thing things really still know sure yes".split()
)
_FUNCTION = set(
    "的了吗呢吧啊呀哦嘛在是我你您他她它们这那哪有没不要会能可以和与跟就都也还又再从到去来上下里外中前后多少几个什么怎样么时候得地着过被把给让向对比为因所而且但如果若或者已已经很太最更只才请问想该应如何谁大小些点一二两三人家自己今天明天现"
)


def stem(word: str) -> str:
    """An English word without its commonest endings: enough to see that "refunded" and "refunds" are one word."""
    for ending in ("'s", "’s", "ing", "edly", "ed", "ies", "es", "s", "ly", "er", "e"):
        if word.endswith(ending) and len(word) - len(ending) >= 3:
            return word[: -len(ending)]
    return word


def content_words(text: str, lang: str) -> set[str]:
    """What a keyword search could match: stems of content words; in Chinese, pairs of characters without function words."""
    if lang == "zh":
        runs = re.findall(r"[\u4e00-\u9fff]+", text)
        pairs = {run[i : i + 2] for run in runs for i in range(len(run) - 1)}
        latin = set(re.findall(r"[a-z0-9]+", text.lower()))
        return {pair for pair in pairs if not set(pair) & _FUNCTION} | latin
    return {stem(word) for word in words(text) if word not in ENGLISH_STOP_WORDS and word not in _EXTRA}


def distinct_ngrams(texts: list[str], n: int = 4) -> float:
    """Share of the word n-grams of ``texts`` that are different ones: 1.0 where none comes twice."""
    grams = [tuple(line[i : i + n]) for line in map(words, texts) for i in range(len(line) - n + 1)]
    return len(set(grams)) / len(grams)


def second_labels(task: str, lang: str) -> list[dict[str, Any]]:
    """What the second reader said: rows with id, first, second and, where the two differed, settled and why."""
    path = course_file("assets", "data", "second_reading", f"{task}.{lang}.jsonl")
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def agreement(task: str, lang: str) -> tuple[int, int, float]:
    """Items read twice, disagreements, and Cohen's kappa.

    Entities are compared character by character; passages, by whether each passage is relevant to the question.
    """
    first, second = [], []
    rows = second_labels(task, lang)
    texts = {row["id"]: row.get("text", "") for row in data._rows(task, lang)} if task == "entities" else {}
    passages = [row["id"] for row in data._rows("passages", lang)] if task == "passage_questions" else []
    for row in rows:
        if task == "entities":
            first += _marks(row["first"], len(texts[row["id"]]))
            second += _marks(row["second"], len(texts[row["id"]]))
        elif task == "passage_questions":
            first += [name in row["first"] for name in passages]
            second += [name in row["second"] for name in passages]
        else:
            first.append(row["first"])
            second.append(row["second"])
    return len(rows), sum(row["first"] != row["second"] for row in rows), float(cohen_kappa_score(first, second))


def _marks(spans: list[dict[str, Any]], length: int) -> list[str]:
    marks = ["-"] * length
    for span in spans:
        marks[span["start"] : span["end"]] = [span["label"]] * (span["end"] - span["start"])
    return marks


def report(task: str, lang: str, shown: int, seed: int) -> None:
    """Prints one set in one language."""
    print(f"\n## {task} ({lang})")
    everything = []
    for split in data.SPLITS[task]:
        if split == "all":
            continue
        rows = list(data.load(task, lang, split))
        texts = [text_of(row, task) for row in rows]
        lengths = sorted(len(words(text)) for text in texts)
        made = "generated" if (task, split) in data.GENERATORS or (task, split) == ("questions", "train") else "by hand"
        print(
            f"{split:9} {made:9} {len(rows):5} rows · words {lengths[0]}-{median(lengths):.0f}-{lengths[-1]} · vocabulary "
            f"{len({word for text in texts for word in words(text)})} · distinct 4-grams {distinct_ngrams(texts):.2f}"
        )
        if task in BALANCE:
            print(f"{'':10}{dict(Counter(row[BALANCE[task]] for row in rows).most_common())}")
        if task == "entities":
            print(f"{'':10}{dict(Counter(span['label'] for row in rows for span in row['spans']).most_common())}")
        if made == "by hand":
            everything += rows
    if task in JUDGED:
        read, differ, kappa = agreement(task, lang)
        print(f"second reading of {JUDGED[task]}: {read} items, {differ} disagreements, Cohen's kappa {kappa:.3f}")
    for row in Random(seed).sample(everything, min(shown, len(everything))):
        print(f"  {row.get('id', row.get('wording', '')):10} {json.dumps(_short(row, task), ensure_ascii=False)}")


def _short(row: dict[str, Any], task: str) -> dict[str, Any]:
    hidden = {"id", "response", "wording", "documented", "context", TEXT[task]}
    rest = {key: value for key, value in row.items() if key not in hidden and value not in ([], None, "")}
    return {TEXT[task]: text_of(row, task), **rest}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--task", choices=data.SPLITS, help="one set; all by default")
    parser.add_argument("--lang", choices=world.LANGUAGES, help="one language; both by default")
    parser.add_argument("--rows", type=int, default=10, help="random rows shown of each set")
    parser.add_argument("--seed", type=int, default=0, help="of the rows shown")
    args = parser.parse_args()
    for task in [args.task] if args.task else data.SPLITS:
        for lang in [args.lang] if args.lang else world.LANGUAGES:
            report(task, lang, args.rows, args.seed)


if __name__ == "__main__":
    main()
