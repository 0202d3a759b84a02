"""Pre-trains the course's base model from nothing, `make pretrain`, and its small siblings, `make pretrain-family`.

Tokenizer, corpus and model are all made here, on two CPU cores. One process a core, each with one thread and its own
half of every batch (DistributedDataParallel): a second thread gains a tenth, a second process nearly doubles the speed.
The run is cut into blocks; after each one a checkpoint is written, and the next call goes on from there.

The siblings of the family differ from one another in one respect each: in size, in what they read, or in the direction of
their attention. All use the base's tokenizer, and all draw the same windows of text in the same order.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import signal
import sys
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

os.environ.update(OMP_NUM_THREADS="1", GOMP_SPINCOUNT="0", TOKENIZERS_PARALLELISM="false", HF_HUB_OFFLINE="1")

import torch
import torch.distributed as dist
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from torch.nn.parallel import DistributedDataParallel
from transformers import (
    ModernBertConfig,
    ModernBertForMaskedLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from tunelab import chat, corpus
from tunelab import models as registry
from tunelab.paths import course_file

# A Han character is a token of its own, and a space belongs to the word before it: a name is then cut into the same tokens
# in a sentence and right after the quotation mark of a JSON string. (Where spaces belong to the word behind, a model this
# small learns two unrelated tokens for each name, and fails to copy the names that fine-tuning does not show.)
PIECES = r"\p{Han}|\p{N}|[\p{L}&&[^\p{Han}]]+ ?|[^\s\p{L}\p{N}]+ ?|\s*[\r\n]+|\s+"


@dataclass(frozen=True)
class Recipe:
    """Everything that decides what the run makes."""

    vocabulary: int = 2560
    hidden: int = 128
    layers: int = 4
    heads: int = 4
    key_value_heads: int = 2
    intermediate: int = 384
    window: int = 128  # tokens
    batch: int = 32  # windows a step, over all processes
    long_share: float = 0.1  # of the steps, at the end: windows twice as long, half as many
    steps: int = 5000
    block: int = 250  # steps between checkpoints
    muon_rate: float = 0.02  # matrices inside the layers
    adamw_rate: float = 3e-3  # embeddings and norms
    warmup: int = 100  # steps
    seed: int = 0

    # What a sibling may do otherwise.
    without: ClassVar[tuple[str, ...]] = ()
    masked: ClassVar[float] = 0.0
    stored: ClassVar[str] = "float32"


@dataclass(frozen=True)
class Sibling(Recipe):
    """A member of the family: a short run, made to be compared with the other members."""

    hidden: int = 96
    intermediate: int = 288
    steps: int = 1500
    block: int = 150
    without: tuple[str, ...] = ()  # kinds of documents that it never reads; others take their place
    masked: float = 0.0  # the share of the tokens that an encoder has to restore; 0: a decoder
    stored: str = "float16"


FAMILY = {
    "small": Sibling(hidden=32, layers=2, intermediate=96),
    "medium": Sibling(hidden=64, layers=3, intermediate=192),
    "large": Sibling(),
    "no-reviews": Sibling(without=("review",)),
    # A layer of either kind has 12 * hidden**2 weights: the decoder shares keys and values between two heads each.
    "encoder": Sibling(masked=0.3, intermediate=256),
}


def make_tokenizer(recipe: Recipe, documents: int = 60_000) -> PreTrainedTokenizerFast:
    """A byte-level BPE trained on documents of the corpus, with Qwen's special tokens and chat format."""
    stream = corpus.documents(seed=recipe.seed)
    sample = [next(stream)[2] for _ in range(documents)]
    specials = [chat.END_OF_TEXT, chat.IM_START, chat.IM_END]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PIECES), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=recipe.vocabulary,
        special_tokens=specials,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(sample, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=chat.IM_END,
        pad_token=chat.END_OF_TEXT,
        additional_special_tokens=[chat.IM_START],
        model_max_length=1024,
    )
    fast.chat_template = chat.TEMPLATE
    return fast


def sibling_tokenizer(recipe: Recipe) -> PreTrainedTokenizerFast:
    """The base's own tokenizer; for an encoder with ``[MASK]`` as one more token behind all others, whose ids stay."""
    tokenizer = PreTrainedTokenizerFast.from_pretrained(course_file("assets", "models", "travel-base"))
    if recipe.masked:
        tokenizer.add_special_tokens({"mask_token": "[MASK]"})
    return tokenizer


def make_model(recipe: Recipe) -> PreTrainedModel:
    """A model with random weights: Qwen3-shaped, or ModernBERT-shaped (Warner et al. 2024) where tokens are masked.

    The two are built of the same parts (rotary positions, norms before the blocks, gated SiLU) and differ in what a token
    may look at: in a decoder what stands before it, in an encoder everything.
    """
    torch.manual_seed(recipe.seed)
    if recipe.masked:
        return ModernBertForMaskedLM(
            ModernBertConfig(
                vocab_size=recipe.vocabulary + 1,  # [MASK]
                hidden_size=recipe.hidden,
                num_hidden_layers=recipe.layers,
                num_attention_heads=recipe.heads,
                intermediate_size=recipe.intermediate,
                hidden_activation="silu",
                max_position_embeddings=1024,
                layer_types=["full_attention"] * recipe.layers,
                rope_parameters={"full_attention": {"rope_type": "default", "rope_theta": 10_000.0}},
                pad_token_id=0,
                eos_token_id=2,
                bos_token_id=None,
                cls_token_id=None,
                sep_token_id=None,
                dtype="float32",
            )
        )
    return Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=recipe.vocabulary,
            hidden_size=recipe.hidden,
            num_hidden_layers=recipe.layers,
            num_attention_heads=recipe.heads,
            num_key_value_heads=recipe.key_value_heads,
            head_dim=recipe.hidden // recipe.heads,
            intermediate_size=recipe.intermediate,
            max_position_embeddings=1024,
            tie_word_embeddings=True,
            eos_token_id=2,
            pad_token_id=0,
            bos_token_id=None,
            dtype="float32",
        )
    )


def windows(
    tokenizer: PreTrainedTokenizerFast, seed: int, count: int, length: int, without: tuple[str, ...] = ()
) -> torch.Tensor:
    """``count`` windows of ``length`` tokens, documents one after the other: (count, length).

    Kinds in ``without`` are passed over, and later documents take their place: there are as many tokens as ever.
    """
    stream, ids = (text for kind, _, text in corpus.documents(seed) if kind not in without), []
    while len(ids) < count * length:
        texts = [next(stream) for _ in range(1000)]
        for row in tokenizer(texts, add_special_tokens=False)["input_ids"]:
            ids += row
    return torch.tensor(ids[: count * length]).view(count, length)


def masked(ids: torch.Tensor, share: float, mask: int, seed: int) -> dict[str, torch.Tensor]:
    """What an encoder is trained on: a share of the tokens replaced by ``mask``, and those alone as labels.

    Args:
        ids: (rows, length) int64.
        share: of the tokens; a decoder predicts every token, an encoder these.
        mask: id of ``[MASK]``.
        seed: of the choice.
    """
    chosen = torch.rand(ids.shape, generator=torch.Generator().manual_seed(seed)) < share
    return {"input_ids": ids.masked_fill(chosen, mask), "labels": ids.masked_fill(~chosen, -100)}


def optimizers(model: torch.nn.Module, recipe: Recipe) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the layers, AdamW for embeddings and norms."""
    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n]
    others = [p for n, p in model.named_parameters() if p.ndim != 2 or "embed" in n]
    return [
        torch.optim.Muon(matrices, lr=recipe.muon_rate, weight_decay=0.01),
        torch.optim.AdamW(others, lr=recipe.adamw_rate, betas=(0.9, 0.95), weight_decay=0.0),
    ]


def rate(step: int, recipe: Recipe) -> float:
    """The share of the learning rate at ``step``: warm-up, a plateau, then a straight line to zero over the last half."""
    if step < recipe.warmup:
        return (step + 1) / recipe.warmup
    return min(1.0, 2 * (recipe.steps - step) / recipe.steps)


def train(rank: int, processes: int, recipe: Recipe, work: Path, amp: bool) -> None:
    """One process of the run; every process holds the whole model and its own share of each batch."""
    torch.set_num_threads(1)
    if processes > 1:
        dist.init_process_group("gloo", init_method=(work / "meeting").as_uri(), rank=rank, world_size=processes)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(work / "tokenizer")
    model = make_model(recipe)
    model.set_attn_implementation("eager")  # a third faster than the fused kernels on windows this short
    model.config.use_cache = False
    parts = optimizers(model, recipe)
    checkpoint, state = work / "checkpoint.pt", {"step": 0, "seconds": 0.0, "losses": []}
    if checkpoint.exists():
        saved = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(saved["model"])
        for part, values in zip(parts, saved["optimizers"], strict=True):
            part.load_state_dict(values)
        state = saved["state"]
    begun = state["step"]  # a schedule counts from zero again after an interrupt
    schedules = [torch.optim.lr_scheduler.LambdaLR(part, lambda step: rate(begun + step, recipe)) for part in parts]
    shared = DistributedDataParallel(model) if processes > 1 else model
    share = recipe.batch // processes
    while (first := state["step"]) < recipe.steps:
        started, count = time.time(), min(recipe.block, recipe.steps - first)
        # The data of a block depends on its number alone, so that a resumed run sees what an unbroken one sees.
        seed = (recipe.seed * 1_000_003 + first) * 64 + rank + 1
        longer = 2 if first >= (1 - recipe.long_share) * recipe.steps else 1
        shape = (count, share // longer, recipe.window * longer)
        ids = windows(tokenizer, seed, shape[0] * shape[1], shape[2], recipe.without)
        inputs = {"input_ids": ids, "labels": ids}
        if recipe.masked:
            inputs = masked(ids, recipe.masked, tokenizer.mask_token_id, seed)
        total = 0.0
        for batch, labels in zip(*(part.view(shape) for part in inputs.values()), strict=True):
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=amp):
                loss = shared(input_ids=batch, labels=labels).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            for part, schedule in zip(parts, schedules, strict=True):
                part.step()
                schedule.step()
                part.zero_grad()
            total += loss.item()
        state["step"] += count
        state["seconds"] += time.time() - started
        state["losses"].append(total / count)
        if rank == 0:
            saved = {"model": model.state_dict(), "optimizers": [p.state_dict() for p in parts], "state": state}
            torch.save(saved, work / "checkpoint.part")
            os.replace(work / "checkpoint.part", checkpoint)
            print(
                f"step {state['step']:5d}/{recipe.steps} · loss {total / count:.3f} · {state['seconds'] / 60:.1f} min",
                flush=True,
            )
    if processes > 1:
        dist.destroy_process_group()


@torch.no_grad()
def loss_by_kind(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, seed: int, share: float = 0.0
) -> dict[str, float]:
    """Mean loss a token, in nats, on documents drawn with a seed that training never used, by kind and language.

    For a decoder of every token but the first; for an encoder, of the ``share`` of the tokens that it has to restore.
    """
    model.eval()
    sums: dict[str, list[float]] = {}
    stream = corpus.documents(seed)
    for number in range(1500):
        kind, lang, text = next(stream)
        ids = torch.tensor([tokenizer(text, add_special_tokens=False)["input_ids"][:1024]])
        inputs, tokens = {"input_ids": ids, "labels": ids}, ids.shape[1] - 1
        if share:
            inputs = masked(ids, share, tokenizer.mask_token_id, seed=number)
            tokens = int((inputs["labels"] != -100).sum())
            if not tokens:
                continue
        pair = sums.setdefault(f"{kind} ({lang})", [0.0, 0.0])
        pair[0] += model(**inputs).loss.item() * tokens
        pair[1] += tokens
    return {name: round(total / tokens, 3) for name, (total, tokens) in sorted(sums.items())}


def publish(recipe: Recipe, work: Path, target: Path, processes: int, amp: bool) -> None:
    """Writes weights, configuration, tokenizer and card into ``target``, all at once."""
    saved = torch.load(work / "checkpoint.pt", weights_only=True)
    model = make_model(recipe)
    model.load_state_dict(saved["model"])
    model.to(getattr(torch, recipe.stored))
    tokenizer = PreTrainedTokenizerFast.from_pretrained(work / "tokenizer")
    staging = target.with_name(target.name + ".part")
    shutil.rmtree(staging, ignore_errors=True)
    model.save_pretrained(staging)
    tokenizer.save_pretrained(staging)
    model.float()  # what is measured below is what will be loaded
    digest = hashlib.sha256((staging / "model.safetensors").read_bytes()).hexdigest()
    state = saved["state"]
    share = {"share": recipe.masked} if recipe.masked else {}
    facts = {
        "recipe": asdict(recipe),
        "parameters": model.num_parameters(),
        "tokens_seen": recipe.steps * recipe.batch * recipe.window,
        "processes": processes,
        "bf16_autocast": amp,
        "seconds": round(state["seconds"]),
        "loss_by_block": [round(x, 4) for x in state["losses"]],
        "loss_by_kind": loss_by_kind(model, tokenizer, seed=-1, **share),
        "sha256": digest,
    }
    (staging / "training.json").write_text(json.dumps(facts, indent=1), encoding="utf-8")
    sibling = isinstance(recipe, Sibling)
    if not sibling:
        (staging / "README.md").write_text(card(facts), encoding="utf-8")
    shutil.rmtree(target, ignore_errors=True)
    os.replace(staging, target)
    if sibling:
        (target.parent / "README.md").write_text(family_card(target.parent), encoding="utf-8")
    shelf = course_file("assets", "models")
    if target.is_relative_to(shelf):
        name = target.relative_to(shelf).as_posix()
        registry.register(name, {"path": name, "sha256": digest, **({"pooling": "mean"} if recipe.masked else {})})
    print(f"written to {target}: {facts['parameters']:,} parameters, SHA-256 {digest[:12]}…")


def card(facts: dict) -> str:
    """The model card, in Markdown."""
    rows = "\n".join(f"| {kind} | {loss:.3f} |" for kind, loss in facts["loss_by_kind"].items())
    recipe = "\n".join(f"| {name} | {value} |" for name, value in facts["recipe"].items())
    return f"""---
language: [en, zh]
license: cc-by-4.0
library_name: transformers
---
# travel-base

A bilingual (English, Chinese) Qwen3-shaped causal language model of {facts["parameters"]:,} parameters, pre-trained from
nothing on {facts["tokens_seen"]:,} tokens about Yunlan Province, which is fiction. It knows nothing else: it is made for
learning about fine-tuning and is of no use elsewhere. No text was downloaded; the corpus is drawn by `tunelab.corpus`.

Made by `make pretrain` (`lessons_src/pretrain.py`) in {facts["seconds"] / 60:.0f} minutes on {facts["processes"]} CPU processes of one
thread each{", products in bf16" if facts["bf16_autocast"] else ""}. SHA-256 of `model.safetensors`: `{facts["sha256"]}`.

Facts of the documented half of the places stand in articles, FAQ pages, JSON records and answered dialogues; those of the
other half stand in articles alone. Invented places occur in short reading exercises.

| recipe | |
|---|---|
{recipe}

Loss a token (nats) on documents drawn with a seed that training never used:

| text | loss |
|---|---|
{rows}
"""


def family_card(folder: Path) -> str:
    """The card of the members of the family that are finished, in Markdown."""
    facts = {name: folder / name / "training.json" for name in FAMILY}
    facts = {name: json.loads(file.read_text(encoding="utf-8")) for name, file in facts.items() if file.is_file()}

    def table(head: str, cells: dict[str, list[Any]]) -> str:
        lines = [f"| {head} | " + " | ".join(facts) + " |", "|---" * (len(facts) + 1) + "|"]
        return "\n".join(lines + [f"| {name} | " + " | ".join(map(str, row)) + " |" for name, row in cells.items()])

    recipes = [one["recipe"] for one in facts.values()]
    settings = {name: [recipe[name] for recipe in recipes] for name in recipes[0]}
    settings["without"] = [", ".join(kinds) or "-" for kinds in settings["without"]]
    made = {
        "parameters": [f"{one['parameters']:,}" for one in facts.values()],
        "tokens seen": [f"{one['tokens_seen']:,}" for one in facts.values()],
        "SHA-256": [f"`{one['sha256'][:12]}…`" for one in facts.values()],
    }
    kinds = next(iter(facts.values()))["loss_by_kind"]
    losses = {kind: [f"{one['loss_by_kind'][kind]:.3f}" for one in facts.values()] for kind in kinds}
    return f"""---
language: [en, zh]
license: cc-by-4.0
library_name: transformers
---
# travel-family

Siblings of travel-base, pre-trained alike, to be compared with one another: three sizes of one decoder, the largest of them
once more without ever reading a review, and an encoder of its shape. Each differs from `large` in what its name says. They
know Yunlan Province, which is fiction, and nothing else: they are made for learning how to choose a model and are of no use elsewhere.
No text was downloaded; the corpus is drawn by `tunelab.corpus`.

- All use travel-base's tokenizer, and read the same documents in the same order: as many tokens each, by one recipe, whose
  learning rates were set for travel-base and not tuned again for any size.
- `no-reviews` passes over the documents of kind `review`; those that follow take their place, so it reads as many tokens.
- `encoder` is a ModernBERT: the same parts as the decoder's (rotary positions, norms before the blocks, gated SiLU), but each token
  sees the whole window. It restores masked tokens. `[MASK]` is one more token behind the base's, whose ids stay as they are. A
  decoder learns from each token that it reads, an encoder from the masked share: of as many tokens it is taught less.

Made by `make pretrain-family` (`lessons_src/pretrain.py`), one CPU process of one thread each. Weights are stored in fp16. Full hashes
stand in `registry.json` and in each member's `training.json`.

{table("made", made)}

{table("recipe", settings)}

Loss a token (nats) on documents drawn with a seed that training never used, the same for all. The encoder's is that of masked
tokens, read with what stands on both sides: it cannot be compared with the others'.

{table("text", losses)}
"""


def corpus_digest() -> str:
    """SHA-256 over all that the corpus is drawn from: a run is not continued on other texts."""
    files = sorted(course_file("assets", "data", "province").iterdir())
    files += [Path(corpus.__file__), Path(corpus.world.__file__)]
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


def main() -> None:
    """Command line: makes a model, or goes on where the last call stopped."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sibling", choices=list(FAMILY), help="a member of the family; without it, the base")
    parser.add_argument("--target", type=Path, help="by default the model's folder in assets/models")
    parser.add_argument("--work", type=Path, help="checkpoints, by default in build/; delete to start anew")
    parser.add_argument(
        "--processes", type=int, help="a divisor of the batch; by default 2 for the base, 1 for a sibling"
    )
    parser.add_argument("--steps", type=int, help="fewer for a trial")
    args = parser.parse_args()
    if args.sibling:
        name, work = f"travel-family/{args.sibling}", Path("build", "pretrain-family", args.sibling)
        recipe = replace(FAMILY[args.sibling], **({"steps": args.steps} if args.steps else {}))
    else:
        name, work, recipe = "travel-base", Path("build", "pretrain"), Recipe(steps=args.steps or Recipe.steps)
    processes = args.processes or (1 if args.sibling else min(2, os.cpu_count() or 1))
    if recipe.batch % (2 * processes):
        parser.error(f"--processes {processes} does not divide half the batch of {recipe.batch} windows")
    # bf16 products pay only where the processor has instructions for them.
    amp = torch.cpu._is_avx512_bf16_supported()
    target = (args.target or course_file("assets", "models", name)).resolve()
    work = (args.work or work).resolve()
    work.mkdir(parents=True, exist_ok=True)
    described = {"recipe": asdict(recipe), "processes": processes, "corpus": corpus_digest()}
    described = json.loads(json.dumps(described))  # tuples become lists, as in the note
    note = work / "recipe.json"
    if note.exists() and json.loads(note.read_text()) != described:
        parser.error(f"{work} holds a run of another recipe or corpus: delete it, or name another folder with --work")
    note.write_text(json.dumps(described))
    if not (work / "tokenizer").exists():
        tokenizer = sibling_tokenizer(recipe) if args.sibling else make_tokenizer(recipe)
        tokenizer.save_pretrained(work / "tokenizer.part")
        os.replace(work / "tokenizer.part", work / "tokenizer")
    (work / "meeting").unlink(missing_ok=True)
    if processes == 1:
        train(0, 1, recipe, work, amp)
    else:
        # Whoever ends this process ends its workers too: left alone, they would write into a later run's checkpoint.
        signal.signal(
            signal.SIGTERM, lambda *_: sys.exit("ended; the next `make pretrain` goes on from the checkpoint")
        )
        run = (processes, recipe, work, amp)
        torch.multiprocessing.spawn(train, args=run, nprocs=processes, daemon=True)
    publish(recipe, work, target, processes, amp)


if __name__ == "__main__":
    main()
