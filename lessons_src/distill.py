"""Distils the course's bilingual sentence encoder from all-MiniLM-L6-v2: the second half of `make pretrain`.

The teacher reads English alone. The student learns to put an English text, and the Chinese text of the same meaning, where
the teacher puts the English one (Reimers & Gurevych 2020, "Making Monolingual Sentence Embeddings Multilingual"). The
parallel text is small: a hand-written word list, hand-written sentences, and statements and questions about documented
places. So most examples are *compositions*: several pieces joined into one text, whose target is the weighted mean of the
pieces' teacher vectors. That costs no teacher time, and what is learnt is how meanings add up.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random

os.environ.update(OMP_NUM_THREADS="1", GOMP_SPINCOUNT="0", TOKENIZERS_PARALLELISM="false", HF_HUB_OFFLINE="1")

import numpy as np
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from torch.nn.functional import cross_entropy
from transformers import AlbertConfig, AlbertModel, PreTrainedTokenizerFast

from tunelab import data, world
from tunelab import models as registry
from tunelab.embedding import Embedder
from tunelab.paths import course_file

TEACHER = "minilm"


@dataclass(frozen=True)
class Recipe:
    """Everything that decides what the run makes. The width is the teacher's, so that their vectors can be compared."""

    vocabulary: int = 8000
    embedding: int = (
        128  # narrower than the layers, as in ALBERT: most of the weights of a small encoder are embeddings
    )
    layers: int = 2  # sharing their weights, as in ALBERT
    heads: int = 6
    intermediate: int = 768
    max_tokens: int = 256
    facts: int = 1500  # parallel statements and questions drawn from the province
    single: float = 0.3  # share of the batches whose texts are one piece each
    longest: int = 8  # pieces in a composition
    english: float = 0.35  # share of the texts that are English
    temperature: float = 0.05  # of the contrastive loss
    batch: int = 64
    steps: int = 2500
    block: int = 250  # steps between checkpoints
    rate: float = 1e-3
    warmup: int = 100
    seed: int = 0


@dataclass(frozen=True)
class Piece:
    """One meaning: the ways to say it in English and in Chinese."""

    en: tuple[str, ...]
    zh: tuple[str, ...]


def pieces(recipe: Recipe) -> dict[str, list[Piece]]:
    """By source: words and sentences (``assets/data/parallel``) and facts of documented places.

    Raises:
        ValueError: a line without exactly two columns, with its file and number.
    """
    found: dict[str, list[Piece]] = {}
    for name in ("words", "sentences"):
        path = course_file("assets", "data", "parallel", f"{name}.tsv")
        rows = []
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            columns = line.split("\t")
            if len(columns) != 2 or not all(columns):
                raise ValueError(f"{path.name}, line {number}: expected English, a tab and Chinese, got {line!r}")
            # The hint in brackets, as in "bill (to pay)", tells the teacher which meaning is meant; the marks say nothing.
            english = columns[0].replace("(", "").replace(")", "")
            several = name == "words"
            rows.append(Piece(*(tuple(c.split("|")) if several else (c,) for c in (english, columns[1]))))
        found[name] = rows
    rng, documented = Random(recipe.seed), [spot for spot in world.places() if spot.documented]
    found["facts"] = []
    for _ in range(recipe.facts):
        spot, topic, kind = rng.choice(documented), rng.choice(world.TOPICS), rng.choice(("statements", "questions"))
        said = [
            rng.choice(world.wording(lang)[topic][kind]).format(place=spot.name(lang), value=spot.answer(topic, lang))
            for lang in world.LANGUAGES
        ]
        found["facts"].append(Piece((said[0],), (said[1],)))
    return found


def make_tokenizer(recipe: Recipe, sources: dict[str, list[Piece]]) -> PreTrainedTokenizerFast:
    """WordPiece over the parallel text; a Han character is a token of its own."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(
        vocab_size=recipe.vocabulary,
        limit_alphabet=recipe.vocabulary - 1000,
        special_tokens=["[PAD]", "[UNK]"],
        show_progress=False,
    )
    texts = (text for rows in sources.values() for piece in rows for text in piece.en + piece.zh)
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", model_max_length=recipe.max_tokens
    )


def make_student(recipe: Recipe, tokenizer: PreTrainedTokenizerFast, width: int) -> Embedder:
    """An ALBERT-shaped encoder with random weights, as wide as the teacher's vectors."""
    torch.manual_seed(recipe.seed)
    config = AlbertConfig(
        vocab_size=len(tokenizer),
        embedding_size=recipe.embedding,
        hidden_size=width,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads,
        intermediate_size=recipe.intermediate,
        max_position_embeddings=recipe.max_tokens,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        type_vocab_size=1,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = AlbertModel(config, add_pooling_layer=False)
    return Embedder("travel-encoder", model, tokenizer, max_tokens=recipe.max_tokens)


def compose(
    rng: Random, sources: dict[str, list[Piece]], taught: dict[str, np.ndarray], recipe: Recipe, count: int
) -> tuple[str, np.ndarray]:
    """A text of ``count`` pieces in one language, and where the teacher would put it: (width,), length 1."""
    # A sentence says more than a word; facts are many, and alike.
    weights = [share * len(sources[name]) for name, share in (("words", 1), ("sentences", 3), ("facts", 0.3))]
    lang = "en" if rng.random() < recipe.english else "zh"
    texts, target = [], 0
    for source in rng.choices(("words", "sentences", "facts"), weights, k=count):
        piece = rng.choice(sources[source])
        english = rng.choice(piece.en)
        texts.append(english if lang == "en" else rng.choice(piece.zh))
        target = (
            target + taught[english] * len(english.split()) ** 0.5
        )  # longer pieces weigh more, as in a mean of tokens
    marks = {"en": (", ", " ", ". "), "zh": ("，", "", "。", " ")}[lang]
    return rng.choice(marks).join(texts), target / np.linalg.norm(target)


def train(recipe: Recipe, work: Path) -> tuple[Embedder, dict]:
    """Trains the student, or goes on from the checkpoint in ``work``; returns it and what the run was like."""
    torch.set_num_threads(1)
    sources = pieces(recipe)
    teacher = registry.load_embedder(TEACHER)
    english = sorted({text for rows in sources.values() for piece in rows for text in piece.en})
    taught = dict(zip(english, teacher.encode(english), strict=True))
    # Kept with the checkpoint: pieces that occur equally often may be numbered differently when it is trained again.
    if not (work / "tokenizer").exists():
        make_tokenizer(recipe, sources).save_pretrained(work / "tokenizer.part")
        os.replace(work / "tokenizer.part", work / "tokenizer")
    student = make_student(recipe, PreTrainedTokenizerFast.from_pretrained(work / "tokenizer"), teacher.dim)
    model = student.model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.rate, weight_decay=0.01)
    checkpoint, state = work / "checkpoint.pt", {"step": 0, "seconds": 0.0, "cosines": []}
    if checkpoint.exists():
        saved = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        state = saved["state"]
    amp = torch.cpu._is_avx512_bf16_supported()
    while (first := state["step"]) < recipe.steps:
        started, total, count = time.time(), 0.0, min(recipe.block, recipe.steps - first)
        rng = Random(f"{recipe.seed} {first}")  # a resumed run sees what an unbroken one sees
        for step in range(first, first + count):
            # As many pieces in each text of a batch: little padding, and length gives no text away to the contrast.
            pieces_each = 1 if rng.random() < recipe.single else rng.randint(2, recipe.longest)
            batch = [compose(rng, sources, taught, recipe, pieces_each) for _ in range(recipe.batch)]
            texts, targets = zip(*batch, strict=True)
            target = torch.tensor(np.stack(targets), dtype=torch.float32)  # (batch, width)
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=amp):
                vectors = student.pooled(list(texts)).float()  # (batch, width)
            cosine = (vectors * target).sum(1).mean()
            # Near its own target, and nearer to it than to the targets of the other texts.
            contrast = cross_entropy(vectors @ target.T / recipe.temperature, torch.arange(recipe.batch))
            (3 * (1 - cosine) + 0.5 * contrast).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            for group in optimizer.param_groups:
                group["lr"] = recipe.rate * min((step + 1) / recipe.warmup, 1.0, 2 * (1 - step / recipe.steps))
            optimizer.step()
            optimizer.zero_grad()
            total += cosine.item()
        state["step"] += count
        state["seconds"] += time.time() - started
        state["cosines"].append(round(total / count, 4))
        saved = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "state": state}
        torch.save(saved, work / "checkpoint.part")
        os.replace(work / "checkpoint.part", checkpoint)
        minutes = state["seconds"] / 60
        print(f"step {state['step']:4d}/{recipe.steps} · cosine {total / count:.3f} · {minutes:.1f} min", flush=True)
    model.eval()
    return student, state


def hits(embedder: Embedder, questions: str, passages: str, kind: str) -> float:
    """Share of the dev questions whose nearest dev passage answers them (hit@1)."""
    texts = data.load("passages", passages, "dev")
    asked = data.load("passage_questions", questions, "dev").filter(lambda row: row["kind"] == kind)
    found = embedder.encode(list(asked["question"])) @ embedder.encode(list(texts["text"])).T
    nearest = [texts["id"][row] for row in found.argmax(1)]
    return sum(near in right for near, right in zip(nearest, asked["passages"], strict=True)) / len(nearest)


def publish(recipe: Recipe, student: Embedder, state: dict, target: Path) -> None:
    """Writes weights (fp16), configuration, tokenizer and card into ``target``, all at once."""
    staging = target.with_name(target.name + ".part")
    shutil.rmtree(staging, ignore_errors=True)
    student.model.half().save_pretrained(staging)
    student.tokenizer.save_pretrained(staging)
    student.model.float()  # what is measured below is what will be loaded
    digest = hashlib.sha256((staging / "model.safetensors").read_bytes()).hexdigest()
    pairs = [("zh", "zh"), ("en", "en"), ("en", "zh")]
    facts = {
        "recipe": asdict(recipe),
        "teacher": {"name": TEACHER, "sha256": registry.registry()[TEACHER]["sha256"]},
        "parameters": student.model.num_parameters(),
        "seconds": round(state["seconds"]),
        "cosine_by_block": state["cosines"],
        "dev_hit_at_1": {
            f"{asked} questions, {read} passages, {kind}": round(hits(student, asked, read, kind), 3)
            for asked, read in pairs
            for kind in ("paraphrase", "keyword")
        },
        "sha256": digest,
    }
    (staging / "training.json").write_text(json.dumps(facts, indent=1), encoding="utf-8")
    (staging / "README.md").write_text(card(facts), encoding="utf-8")
    shutil.rmtree(target, ignore_errors=True)
    os.replace(staging, target)
    if target.parent == course_file("assets", "models"):
        entry = {"path": target.name, "sha256": digest, "pooling": "mean", "settings": {"add_pooling_layer": False}}
        registry.register(target.name, entry)
    print(f"written to {target}: {facts['parameters']:,} parameters, SHA-256 {digest[:12]}…")


def card(facts: dict) -> str:
    """The model card, in Markdown."""
    rows = "\n".join(f"| {name} | {share:.3f} |" for name, share in facts["dev_hit_at_1"].items())
    recipe = "\n".join(f"| {name} | {value} |" for name, value in facts["recipe"].items())
    return f"""---
language: [en, zh]
license: cc-by-4.0
library_name: transformers
---
# travel-encoder

A bilingual (English, Chinese) ALBERT-shaped sentence encoder of {facts["parameters"]:,} parameters: the mean over the token
vectors, scaled to length 1. It was distilled from all-MiniLM-L6-v2 (Apache-2.0), so a Chinese text lands near MiniLM's vector
of its translation. It knows everyday and travel words and no more: it is made for learning about retrieval. For English
alone, its teacher is better. SHA-256 of the teacher's weights: `{facts["teacher"]["sha256"]}`.

Made by `make pretrain` (`lessons_src/distill.py`) in {facts["seconds"] / 60:.0f} minutes on one CPU thread, from `assets/data/parallel/` and
statements and questions about documented places. Its writers had not seen the passages and questions that it is measured
on. Weights are stored in fp16. SHA-256 of `model.safetensors`: `{facts["sha256"]}`.

| recipe | |
|---|---|
{recipe}

Nearest passage answers the question (hit@1), on the hand-written dev split, by which the recipe was chosen:

| | |
|---|---|
{rows}
"""


def main() -> None:
    """Command line: makes the encoder, or goes on where the last call stopped."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", type=Path, default=course_file("assets") / "models" / "travel-encoder")
    parser.add_argument(
        "--work", type=Path, default=Path("build") / "distill", help="checkpoints; delete to start anew"
    )
    parser.add_argument("--steps", type=int, default=Recipe.steps, help="fewer for a trial")
    args = parser.parse_args()
    recipe = Recipe(steps=args.steps)
    args.target = args.target.resolve()
    args.work.mkdir(parents=True, exist_ok=True)
    sources = {name: [asdict(piece) for piece in rows] for name, rows in pieces(recipe).items()}
    text = hashlib.sha256(json.dumps(sources, ensure_ascii=False).encode()).hexdigest()
    described, note = {"recipe": asdict(recipe), "text": text}, args.work / "recipe.json"
    if note.exists() and json.loads(note.read_text()) != described:
        parser.error(
            f"{args.work} holds a run of another recipe or text: delete it, or name another folder with --work"
        )
    note.write_text(json.dumps(described))
    publish(recipe, *train(recipe, args.work), args.target)


if __name__ == "__main__":
    main()
