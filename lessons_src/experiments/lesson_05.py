"""Lesson 05 over several seeds: which model to begin with, by task, language, size and domain.

The family of `make pretrain-family` was pre-trained alike, so each comparison changes one thing:

- ``classify``, ``json``: the encoder against the decoder of its shape, on the topic of a question, on reviews, and on JSON
  answers; ``json`` with the three sizes as well. The real MiniLM (LoRA, three seeds) on the topics; lesson 02 has it on reviews.
- ``frozen``: features of models that are not trained, under a logistic regression: MiniLM, which reads English alone, against
  the bilingual models, in both languages.
- ``domain``: reviews after the same fine-tuning, for a base that has read reviews and one that has not; ``loss`` of both.
- ``speed``: seconds a step and a token of the sizes, in one process.

Fixed before the runs. Rates of classification are chosen for each model on dev with a seed of their own; JSON answers use the
rate that lesson 04 chose for travel-base. Token vectors are pooled by their mean. Test is used once, but for this: seven JSON
runs of 120 steps, as in lesson 04, were seen on test to leave these younger models without the topics; 300 steps were then
chosen on dev. And the rates were two at first, of which the encoder took the higher one: after the test runs the grid was
extended for all models, until no encoder took its upper end, and what took another rate was run on test again. There the
decoder takes the highest rate on reviews, and its sibling without reviews the lowest. So ``domain`` uses one rate for both
siblings, the best on dev over the two, and ``domain_own_rate`` has the same table with a rate for each. What is compared are shares of right test items over the seeds (of training rows, order and head), with paired
bootstrap intervals over the test items; questions are resampled by wording, since two places share one. A difference is
"better" or "worse" where its 95 % interval excludes zero, "same" where it lies within 0.05 on both sides, else "undecided".
The intervals tell how much depends on the items; how much depends on the seed is seen in ``by_seed``.

Expected were: the encoder better at classification by 0.02 or more in both languages, and worse at JSON; MiniLM better in
English and worse in Chinese; larger models better at everything; the base without reviews worse on reviews, most with 16 rows.
The first and the last came out otherwise, and in English ``large`` is not ahead of ``medium``.

Each finished run is a line of build/lesson_05.jsonl: a run that was interrupted goes on where it stopped.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from collections.abc import Callable, Sequence
from functools import cache
from itertools import product
from pathlib import Path
from random import Random
from statistics import mean, median
from typing import Any

from baselines import bag_of_words
from experiments import run_all, store
from tunelab import chat, data, metrics, models, training, world
from tunelab.paths import CHECKOUT, course_file

SEED = 100  # of what is chosen on dev
FAMILY = "travel-family/"
SIZES = ("small", "medium", "large")
SIBLINGS = ("large", "no-reviews")
RATES = (1.5e-3, 5e-3, 1.5e-2, 3e-2)  # of classification, chosen for each model on dev
JSON_RATE = 3e-3  # of all models: what lesson 04 chose for travel-base on the dev questions
HEAD_RATE, STEPS = 1e-2, {"topic": 60, "reviews": 50, "json": 300}
MINILM = {"lr": 1e-3, "steps": 60, "seeds": 3}  # the rate of lesson 02, which chose it on the dev reviews
ROWS = {"topic": 200, "reviews": 200, "json": 2400}
FROZEN_ROWS = {"topic": 240, "reviews": 200}
POOL = 1600  # generated questions that those for the topic are drawn from
FEW = (16, 200)
EVERY = 3  # of the hand-written questions, one in so many is asked: each wording with a known and an unknown place
DRAWS = 10
SAME = 0.05
PASSES = 18  # in which the encoder fills in its 36 tokens
FROZEN = ("minilm", "travel-encoder", "travel-base", "large", "encoder", "bag-of-words")
PENALTIES = (0.01, 0.1, 1.0, 10.0)

KEYS = ("part", "task", "model", "lang", "seed", "lr", "rows")
Job = tuple[str, str, str, str, int, float, int]  # by KEYS
Runs = dict[Job, dict[str, Any]]


def full_name(model: str) -> str:
    """The name in the registry of what the tables call ``large``."""
    return model if model in models.registry() else FAMILY + model


def digest(model: str) -> str:
    """SHA-256 of a model's weights: a run with other weights is another run."""
    return models.registry().get(full_name(model), {}).get("sha256", "")


@cache
def texts_of(task: str, lang: str, split: str, seed: int = 0) -> tuple[list[str], list[str]]:
    """Texts and labels: questions with their topics (thinned out where written by hand), or reviews."""
    if task == "topic":
        rows = data.load("questions", lang, split, seed=seed, size=POOL if split == "train" else None)
        rows = rows if split == "train" else rows.select(range(0, len(rows), EVERY))
        return list(rows["question"]), list(rows["topic"])
    rows = data.load("reviews", lang, split, seed=seed, size=300 if split == "generated" else None)
    return list(rows["text"]), list(rows["label"])


def drawn(labels: Sequence[str], rows: int, seed: int) -> list[int]:
    """So many row numbers at random, as many of each label as can be."""
    rng, picked = Random(seed), []
    for number, label in enumerate(sorted(set(labels))):
        same = [i for i, other in enumerate(labels) if other == label]
        picked += rng.sample(same, rows // len(set(labels)) + (number < rows % len(set(labels))))
    return picked


def share(right: str) -> float:
    """Of the ones in a string of 0 and 1."""
    return round(right.count("1") / len(right), 4)


def run(part: str, task: str, model: str, lang: str, seed: int, lr: float, rows: int, journal: str) -> dict[str, Any]:
    """One run; adds its line to the journal."""
    job = (part, task, model, lang, seed, lr, rows)
    what: dict[str, Callable[..., dict[str, Any]]] = {
        "classify": run_classify,
        "domain": run_classify,
        "json": run_json,
        "frozen": run_frozen,
        "loss": run_loss,
        "speed": run_speed,
    }
    result = dict(zip(KEYS, job, strict=True)) | what[part.removesuffix("-dev")](*job)
    result["model_sha256"] = digest(model)
    with Path(journal).open("a", encoding="utf-8") as file:
        file.write(json.dumps(result) + "\n")
    return result


def run_classify(part: str, task: str, model: str, lang: str, seed: int, lr: float, rows: int) -> dict[str, Any]:
    """A head and all weights (of MiniLM: LoRA's) trained on a classification."""
    import torch

    from experiments.heads_05 import Classifier, body, train_classifier

    torch.manual_seed(seed)
    inside, tokenizer = body(full_name(model))
    inside, steps = copy.deepcopy(inside), STEPS[task]
    if model == "minilm":
        from peft import LoraConfig, get_peft_model

        config = LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", exclude_modules=["pooler.dense"])
        inside, steps = get_peft_model(inside, config), MINILM["steps"]
    texts, labels = texts_of(task, lang, "train")
    picked = drawn(labels, rows, seed)
    classes = world.TOPICS if task == "topic" else ("negative", "positive")
    classifier = Classifier(inside, tokenizer, classes)
    result = train_classifier(
        classifier,
        [texts[i] for i in picked],
        [labels[i] for i in picked],
        steps=steps,
        lr=lr,
        head_lr=HEAD_RATE,
        seed=seed,
    )
    result["right"] = classifier.right(*texts_of(task, lang, "dev" if part.endswith("-dev") else "test"))
    result["score"] = share(result["right"])
    if part == "domain":
        result["right_generated"] = classifier.right(*texts_of("reviews", lang, "generated", 1))
    return result


def run_json(part: str, task: str, model: str, lang: str, seed: int, lr: float, rows: int) -> dict[str, Any]:
    """All weights trained to answer in JSON; the encoder fills in masks, one by one and all at once."""
    import torch
    from transformers import AutoModelForMaskedLM

    from experiments import heads_05 as heads

    torch.manual_seed(seed)
    asked = data.load("questions", lang, "dev" if part.endswith("-dev") else "test")
    asked = asked.select(range(0, len(asked), EVERY))
    taught = data.load("questions", lang, "train", size=rows, seed=seed)
    settings = {"steps": STEPS["json"], "lr": lr, "batch_size": 8, "seed": seed, "progress": False}
    result: dict[str, Any] = {}
    if model == "encoder":
        _, tokenizer = heads.body(full_name(model))
        writer = AutoModelForMaskedLM.from_pretrained(models.locate(full_name(model))[0], dtype="float32")
        learner = heads.MaskedAnswers(writer, tokenizer.mask_token_id)
        history = training.fit(learner, heads.answer_rows(tokenizer, taught), **settings)
        began = time.process_time()
        replies = heads.fill_in(writer, tokenizer, asked["question"], passes=PASSES)
        seconds = time.process_time() - began
        at_once = heads.fill_in(writer, tokenizer, asked["question"], passes=1)
        result["at_once"] = heads.json_scores(at_once, asked) | {"replies": at_once[:4]}
    else:
        writer, tokenizer = models.load_lm(full_name(model))
        history = training.fit(writer, list(chat.encode_pairs(tokenizer, taught)), **settings)
        began = time.process_time()
        replies = chat.reply(writer, tokenizer, asked["question"])
        seconds = time.process_time() - began
    result |= heads.json_scores(replies, asked) | {"replies": replies[:4]}
    return result | {"score": result["answer"], "loss": round(history.final, 4), "answering_seconds": round(seconds, 2)}


def run_frozen(part: str, task: str, model: str, lang: str, seed: int, lr: float, rows: int) -> dict[str, Any]:
    """Logistic regression on features of a model that is not trained, for several draws of ``rows`` training rows.

    ``generated`` is trained on generated reviews; both tasks on reviews are tested on hand-written and generated ones. For
    each test item: how many of the draws were right.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    from experiments.heads_05 import features

    sources = {"topic": ("topic", "train"), "reviews": ("reviews", "train"), "generated": ("reviews", "generated")}
    kind, split = sources[task]
    began, sets = time.process_time(), {"train": texts_of(kind, lang, split)}
    sets |= {name: texts_of(kind, lang, name) for name in ("dev", "test")}
    if kind == "reviews":
        sets["generated"] = texts_of(kind, lang, "generated", 1)
    words = model == "bag-of-words"
    inputs = {name: texts if words else features(full_name(model), tuple(texts)) for name, (texts, _) in sets.items()}

    def counts(name: str, penalty: float) -> list[int]:
        labels, total = sets["train"][1], [0] * len(sets[name][1])
        for draw in range(DRAWS):
            picked = drawn(labels, rows, draw)
            first = bag_of_words(lang) if words else StandardScaler()
            fitted = make_pipeline(first, LogisticRegression(C=penalty, max_iter=2000))
            fitted.fit([inputs["train"][i] for i in picked], [labels[i] for i in picked])
            for i, (found, label) in enumerate(zip(fitted.predict(inputs[name]), sets[name][1], strict=True)):
                total[i] += int(found == label)
        return total

    penalty = max(PENALTIES, key=lambda value: sum(counts("dev", value)))
    result = {name: counts(name, penalty) for name in sets if name not in ("train", "dev")}
    score = mean(result["test"]) / DRAWS
    return {
        "penalty": penalty,
        "score": round(score, 4),
        **result,
        "cpu_seconds": round(time.process_time() - began, 1),
    }


def run_loss(part: str, task: str, model: str, lang: str, seed: int, lr: float, rows: int) -> dict[str, Any]:
    """Loss a token, in nats, of each review: generated ones, or those of the hand-written test split."""
    import torch

    writer, tokenizer = models.load_lm(full_name(model))
    texts, _ = texts_of("reviews", lang, "generated", 1) if task == "generated" else texts_of("reviews", lang, "test")
    losses = []
    with torch.no_grad():
        for text in texts:
            ids = tokenizer(text, return_tensors="pt")["input_ids"]
            losses.append(round(writer(input_ids=ids, labels=ids).loss.item(), 3))
    return {"losses": losses, "score": round(mean(losses), 4)}


def run_speed(part: str, task: str, model: str, lang: str, seed: int, lr: float, rows: int) -> dict[str, Any]:
    """CPU milliseconds of one thread: a training step of eight questions, and a token written for one question."""
    import torch

    writer, tokenizer = models.load_lm(full_name(model))
    encoded = list(chat.encode_pairs(tokenizer, data.load("questions", lang, "train", size=96)))
    optimizer, steps, written = torch.optim.AdamW(writer.parameters(), lr=1e-5), [], []
    for start in range(0, len(encoded), 8):
        batch, began = training.collate(encoded[start : start + 8], pad=0), time.process_time()
        writer(**batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        steps.append(time.process_time() - began)
    prompt = torch.tensor([encoded[0]["input_ids"]])
    for _ in range(5):
        began = time.process_time()
        writer.generate(input_ids=prompt, min_new_tokens=32, max_new_tokens=32, do_sample=False, pad_token_id=0)
        written.append((time.process_time() - began) / 32)
    return {
        "seconds_a_step": round(median(steps), 4),
        "ms_a_token_generated": round(1000 * median(written), 2),
        "score": 0.0,
    }


def finished(journal: Path) -> Runs:
    """The runs of the journal that were made with these weights."""
    lines = journal.read_text(encoding="utf-8").splitlines() if journal.is_file() else []
    runs = [json.loads(line) for line in lines]
    return {tuple(r[key] for key in KEYS): r for r in runs if r["model_sha256"] == digest(r["model"])}


def sweep_jobs() -> list[Job]:
    """The rates of classification on dev, one seed, both languages."""
    names = {"topic": ("large", "encoder"), "reviews": ("large", "encoder", "no-reviews")}
    return [
        ("classify-dev", task, model, lang, SEED, lr, ROWS[task])
        for task in names
        for model, lang, lr in product(names[task], world.LANGUAGES, RATES)
    ]


def best(done: Runs, task: str, *names: str) -> float:
    """The rate with the best dev score over both languages and these models; of equal ones, that of the least loss."""

    def merit(lr: float) -> tuple[float, float]:
        cases = product(names, world.LANGUAGES)
        runs = [done["classify-dev", task, model, lang, SEED, lr, ROWS[task]] for model, lang in cases]
        return mean(r["score"] for r in runs), -mean(r["loss"] for r in runs)

    return max(RATES, key=merit)


def chosen(done: Runs) -> dict[str, dict[str, float]]:
    """Rates by task and model."""
    return {
        "json": dict.fromkeys((*SIZES, "encoder"), JSON_RATE),
        "topic": {"minilm": MINILM["lr"]} | {name: best(done, "topic", name) for name in ("large", "encoder")},
        "reviews": {name: best(done, "reviews", name) for name in ("large", "encoder")},
        "domain": dict.fromkeys(SIBLINGS, best(done, "reviews", *SIBLINGS)),
        "domain_own_rate": {name: best(done, "reviews", name) for name in SIBLINGS},
    }


def json_jobs(seeds: int) -> list[Job]:
    """Answers in JSON, on test."""
    return [
        ("json", "json", model, lang, seed, JSON_RATE, ROWS["json"])
        for seed, lang, model in product(range(seeds), world.LANGUAGES, (*SIZES, "encoder"))
    ]


def classify_jobs(done: Runs, seeds: int) -> dict[str, list[Job]]:
    """Classifications on test, by part."""
    rates, jobs = chosen(done), {"classify": [], "domain": [], "minilm": []}
    for seed, lang in product(range(seeds), world.LANGUAGES):
        # The decoder on 200 reviews is run as part of ``domain``.
        for task, model in (("topic", "large"), ("topic", "encoder"), ("reviews", "encoder")):
            jobs["classify"].append(("classify", task, model, lang, seed, rates[task][model], ROWS[task]))
        taken = dict.fromkeys((*rates["domain"].items(), *rates["domain_own_rate"].items()))
        for rows, (model, rate) in product(FEW, taken):
            jobs["domain"].append(("domain", "reviews", model, lang, seed, rate, rows))
        if seed < MINILM["seeds"]:
            jobs["minilm"].append(("classify", "topic", "minilm", lang, seed, MINILM["lr"], ROWS["topic"]))
    return jobs


def cheap_jobs() -> dict[str, list[Job]]:
    """What trains no transformer."""
    frozen = [(task, rows, FROZEN) for task, rows in FROZEN_ROWS.items()]
    frozen += [(task, rows, ("large", "no-reviews")) for task in ("reviews", "generated") for rows in FEW]
    jobs = [("frozen", t, m, lang, 0, 0.0, r) for t, r, names in frozen for m, lang in product(names, world.LANGUAGES)]
    losses = product(("reviews", "generated"), ("large", "no-reviews", "travel-base"), world.LANGUAGES)
    return {
        "frozen": list(dict.fromkeys(jobs)),
        "loss": [("loss", task, model, lang, 0, 0.0, 0) for task, model, lang in losses],
        "speed": [("speed", "json", model, "en", 0, 0.0, 0) for model in (*SIZES, "travel-base")],
    }


# ---- the table ----


def interval(values: Sequence[float]) -> dict[str, float]:
    """Mean and 95 % bootstrap interval over test items."""
    return dict(zip(("mean", "low", "high"), (round(v, 4) for v in metrics.bootstrap(values)), strict=True))


def difference(ours: Sequence[float], theirs: Sequence[float]) -> dict[str, Any]:
    """Of the means, with its paired interval and what that says."""
    found = interval([a - b for a, b in zip(ours, theirs, strict=True)])
    low, high = found["low"], found["high"]
    words = {"better": low > 0, "worse": high < 0, "same": -SAME < low and high < SAME, "undecided": True}
    return found | {"verdict": next(word for word, holds in words.items() if holds)}


def items(runs: Sequence[dict[str, Any]], task: str, column: str = "right") -> list[float]:
    """For each test item the share of the runs (for frozen features: of the draws) that were right; for questions, by wording."""
    if column == "right" or column.startswith("right_"):
        shares = [mean(map(int, digits)) for digits in zip(*(r[column] for r in runs), strict=True)]
    else:
        shares = [count / DRAWS for count in runs[0][column]]
    if task in ("topic", "json"):
        shares = [mean(pair) for pair in zip(shares[::2], shares[1::2], strict=True)]
    return shares


def table(done: Runs, seeds: int) -> dict[str, Any]:
    """The summary: see the keys. What has not been run yet is left out."""
    names = chosen(done)

    def of(part: str, task: str, model: str, lang: str, rate: float, rows: int, count: int) -> list[dict[str, Any]]:
        return [done[part, task, model, lang, seed, rate, rows] for seed in range(count)]

    def trained(task: str, name: str, lang: str, column: str = "right") -> list[float]:
        count = min(seeds, MINILM["seeds"]) if name == "minilm" else seeds
        part = "json" if task == "json" else "domain" if (task, name) == ("reviews", "large") else "classify"
        return items(of(part, task, name, lang, names[task][name], ROWS[task], count), task, column)

    def by_lang(make: Callable[[str], Any]) -> dict[str, Any]:
        try:
            return {lang: make(lang) for lang in world.LANGUAGES}
        except KeyError:  # a run that is missing
            return {}

    summary: dict[str, Any] = {
        "classify": {
            task: {name: by_lang(lambda lang, t=task, n=name: interval(trained(t, n, lang))) for name in names[task]}
            for task in ("topic", "reviews")
        },
        "encoder_minus_decoder": {
            task: by_lang(lambda lang, t=task: difference(trained(t, "encoder", lang), trained(t, "large", lang)))
            for task in ("topic", "reviews", "json")
        },
        "size_minus_smaller": {
            f"{big} - {less}": by_lang(
                lambda lang, b=big, s=less: difference(trained("json", b, lang), trained("json", s, lang))
            )
            for less, big in (("small", "medium"), ("medium", "large"))
        },
    }

    def answers(name: str, lang: str) -> dict[str, Any]:
        runs = of("json", "json", name, lang, JSON_RATE, ROWS["json"], seeds)
        row = {key: round(mean(r[key] for r in runs), 4) for key in ("valid", "topic", "record", "seen", "unseen")}
        row |= {"answer": interval(items(runs, "json")), "by_seed": [r["answer"] for r in runs]}
        row["answering_seconds"] = round(median(r["answering_seconds"] for r in runs), 2)
        if name == "encoder":
            keys = ("valid", "topic", "answer", "record")
            row["at_once"] = {key: round(mean(r["at_once"][key] for r in runs), 4) for key in keys}
        return row

    summary["json"] = {name: by_lang(lambda lang, n=name: answers(n, lang)) for name in names["json"]}

    def frozen(task: str, model: str, lang: str, rows: int, column: str = "test") -> list[float]:
        return items([done["frozen", task, model, lang, 0, 0.0, rows]], task, column)

    summary["frozen"] = {
        task: {m: by_lang(lambda lang, t=task, m=m, r=rows: interval(frozen(t, m, lang, r))) for m in FROZEN}
        for task, rows in FROZEN_ROWS.items()
    }
    summary["minilm_minus"] = {
        task: {
            m: by_lang(
                lambda lang, t=task, m=m, r=rows: difference(frozen(t, "minilm", lang, r), frozen(t, m, lang, r))
            )
            for m in FROZEN[1:]
        }
        for task, rows in FROZEN_ROWS.items()
    }
    summary["tokens"] = tokens()
    summary["size"] = {name: size(done, name) for name in (*SIZES, "travel-base")}
    summary["domain"] = domain(done, names["domain"], seeds)
    summary["domain_own_rate"] = domain(done, names["domain_own_rate"], seeds)["with_minus_without"]
    return without_empty(summary)


def without_empty(value: Any) -> Any:
    """A table without the branches that hold nothing."""
    if not isinstance(value, dict):
        return value
    kept = {key: without_empty(branch) for key, branch in value.items()}
    return {key: branch for key, branch in kept.items() if branch != {}}


def size(done: Runs, name: str) -> dict[str, Any]:
    """Of one decoder: parameters, tokens read, held-out loss, milliseconds."""
    facts = json.loads(course_file("assets", "models", full_name(name), "training.json").read_text(encoding="utf-8"))
    speed = done["speed", "json", name, "en", 0, 0.0, 0]
    losses = facts["loss_by_kind"]
    return {
        **{key: facts[key] for key in ("parameters", "tokens_seen")},
        "loss": {
            lang: round(mean(v for k, v in losses.items() if k.endswith(f"({lang})")), 4) for lang in world.LANGUAGES
        },
        "loss_by_kind": losses,
        **{key: speed[key] for key in ("seconds_a_step", "ms_a_token_generated")},
    }


def domain(done: Runs, rates: dict[str, float], seeds: int) -> dict[str, Any]:
    """The base that has read reviews (``large``) against the one that has not: loss, and accuracy with few training rows."""
    result: dict[str, Any] = {"loss": {}, "loss_without_minus_with": {}, "fine_tuned": {}, "with_minus_without": {}}
    result["frozen"] = {"trained on handwritten": {}, "trained on generated": {}}
    tests = {"handwritten": ("right", "test"), "generated": ("right_generated", "generated")}
    for lang, (kind, (column, frozen)) in product(world.LANGUAGES, tests.items()):
        task = "reviews" if kind == "handwritten" else kind

        def losses(model: str, lang: str = lang, task: str = task) -> list[float]:
            return done["loss", task, model, lang, 0, 0.0, 0]["losses"]

        for model in ("large", "no-reviews", "travel-base"):
            of_model = result["loss"].setdefault(model, {}).setdefault(lang, {})
            of_model[kind] = round(mean(losses(model)), 4)
        more = [without - with_ for without, with_ in zip(losses("no-reviews"), losses("large"), strict=True)]
        result["loss_without_minus_with"].setdefault(lang, {})[kind] = interval(more)
        for rows in FEW:
            pairs = {
                name: [("domain", "reviews", name, lang, s, rates[name], rows) for s in range(seeds)] for name in rates
            }
            if all(job in done for jobs in pairs.values() for job in jobs):
                scores = {name: items([done[job] for job in jobs], "reviews", column) for name, jobs in pairs.items()}
                for name, values in scores.items():
                    of_model = result["fine_tuned"].setdefault(str(rows), {}).setdefault(name, {}).setdefault(lang, {})
                    of_model[kind] = interval(values)
                gaps = result["with_minus_without"].setdefault(str(rows), {}).setdefault(lang, {})
                gaps[kind] = difference(scores["large"], scores["no-reviews"])
            for source, trained_on in (("reviews", "handwritten"), ("generated", "generated")):
                jobs = {name: ("frozen", source, name, lang, 0, 0.0, rows) for name in rates}
                if all(job in done for job in jobs.values()):
                    draws = {name: items([done[job]], "reviews", frozen) for name, job in jobs.items()}
                    row = {name: interval(values) for name, values in draws.items()}
                    row["with_minus_without"] = difference(draws["large"], draws["no-reviews"])
                    of_rows = result["frozen"][f"trained on {trained_on}"].setdefault(str(rows), {})
                    of_rows.setdefault(lang, {})[kind] = row
    return result


def tokens() -> dict[str, Any]:
    """By tokenizer and language: tokens a text and the share that is unknown, in questions, reviews and parallel sentences."""
    from transformers import AutoTokenizer

    path = course_file("assets", "data", "parallel", "sentences.tsv")
    pairs = [line.split("\t") for line in path.read_text(encoding="utf-8").splitlines()]
    found: dict[str, Any] = {}
    for name in ("minilm", "travel-base", "travel-encoder"):
        tokenizer = AutoTokenizer.from_pretrained(models.locate(name)[0])
        for lang in world.LANGUAGES:
            sets = {
                kind: texts_of(task, lang, "test")[0] for kind, task in (("questions", "topic"), ("reviews", "reviews"))
            }
            sets["parallel"] = [pair[world.LANGUAGES.index(lang)] for pair in pairs]
            for kind, texts in sets.items():
                ids = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
                unknown = sum(row.count(tokenizer.unk_token_id) for row in ids) if tokenizer.unk_token_id else 0
                count = sum(map(len, ids))
                row = {"tokens": round(count / len(texts), 2), "unknown": round(unknown / count, 4)}
                row["tokens_a_character"] = round(count / sum(map(len, texts)), 3)
                found.setdefault(name, {}).setdefault(kind, {})[lang] = row
    return found


def line(r: dict[str, Any]) -> str:
    """One run, for the screen."""
    seconds = r.get("cpu_seconds", r.get("answering_seconds", ""))
    return (
        f"{r['part']:12} {r['task']:9} {r['model']:14} {r['lang']} seed {r['seed']} lr {r['lr']:g} rows {r['rows']} · "
        f"score {r['score']:.3f} · loss {r.get('loss', '')} · {seconds} s"
    )


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    stages = ("json", "loss", "speed", "sweep", "classify", "domain", "frozen", "minilm")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument(
        "--parts", nargs="+", choices=stages, default=stages, help="what is run; the table holds what was ever run"
    )
    parser.add_argument("--only", nargs="+", help="models: run no others, and write no table")
    parser.add_argument("--out", type=Path, default=course_file("assets", "results", "lesson_05.json"))
    args = parser.parse_args()
    journal = (CHECKOUT or Path()) / "build" / "lesson_05.jsonl"
    journal.parent.mkdir(exist_ok=True)

    def complete(jobs: Sequence[Job]) -> None:
        done = finished(journal)
        kept = [job for job in jobs if not args.only or job[2] in args.only]
        run_all(run, [(*job, str(journal)) for job in kept if job not in done], line, args.processes)

    makers = {name: lambda n=name: cheap_jobs()[n] for name in ("frozen", "loss", "speed")}
    makers |= {"sweep": sweep_jobs, "json": lambda: json_jobs(args.seeds)}
    for name in ("classify", "domain", "minilm"):
        makers[name] = lambda n=name: classify_jobs(finished(journal), args.seeds)[n]
    for part in args.parts:
        complete(makers[part]())
    if args.only:
        return
    done = finished(journal)
    wanted = [job for maker in makers.values() for job in maker()]
    missing = [job for job in wanted if job not in done]
    used = sorted({job[2] for job in wanted if digest(job[2])})
    result = {
        "seeds": args.seeds,
        "missing_runs": len(missing),
        "models": {name: digest(name) for name in used},
        "margins": {"same": SAME},
        "rates": RATES,
        "chosen": chosen(done),
        "summary": table(done, args.seeds),
        "runs": [done[job] for job in wanted if job in done],
    }
    store(args.out, "experiments.lesson_05", result)
    print(f"{args.out.name}: {len(wanted) - len(missing)} runs, {len(missing)} still to do")


if __name__ == "__main__":
    main()
