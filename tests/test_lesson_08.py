"""Lesson 08 beyond its notebook: the scripts it shows, the loading path of the GPU profile, and input that is wrong."""

import ast
import copy
import dataclasses
import json
import os
import re
import subprocess
import sys
from types import SimpleNamespace

import jupytext
import matplotlib
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    DataCollatorForSeq2Seq,
    Qwen2Config,
    Qwen2ForCausalLM,
    Trainer,
    TrainingArguments,
)

import tiny
import tunelab
from tunelab import chat, data, metrics, models, paths, session, training
from tunelab.claims import ledger

SCRIPTS = paths.course_file("assets", "scripts")
BASE = paths.course_file("assets", "models", "travel-base")
# One thread: the cores of a test machine are shared, and threads that wait for each other cost more than they bring.
QUIET = os.environ | {
    "OMP_NUM_THREADS": "1",
    "GOMP_SPINCOUNT": "0",
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
}


def config() -> LoraConfig:
    """Made anew for each use: peft writes the names of the layers that it found into the configuration."""
    return LoraConfig(r=2, lora_alpha=4, target_modules="all-linear", task_type="CAUSAL_LM")


def source_cells():
    """The code cells of the lesson's source."""
    (source,) = paths.course_file("lessons").glob("08_*.py")
    notebook = jupytext.read(source, fmt={"extension": ".py", "format_name": "percent", "comment_magics": False})
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def run_cells(**instead):
    """Executes the lesson's cells but for the exercises; `name = None` becomes `name = value` for what is given here."""
    matplotlib.use("agg")
    scope = {}
    for cell in source_cells():
        if "exercise" not in cell.metadata:
            text = cell.source
            for name, value in instead.items():
                text = text.replace(f"{name} = None", f"{name} = {value!r}")
            exec(compile(text, "lesson 08", "exec"), scope)
    return SimpleNamespace(**scope)


@pytest.fixture(autouse=True)
def no_session(monkeypatch):
    monkeypatch.setattr(session, "_current", None)


@pytest.fixture(scope="module")
def lesson():
    """The functions that the lesson's cells define, with the lesson's imports and nothing run."""
    kept = (ast.Import, ast.ImportFrom, ast.FunctionDef)
    scope = {}
    for cell in source_cells():
        if "exercise" not in cell.metadata:
            chosen = [node for node in ast.parse(cell.source).body if isinstance(node, kept)]
            # A default such as questions=test belongs to the state of the notebook.
            chosen = [node for node in chosen if not (isinstance(node, ast.FunctionDef) and node.args.defaults)]
            exec(compile(ast.Module(chosen, []), "lesson 08", "exec"), scope)
    return SimpleNamespace(**scope)


@pytest.fixture(scope="module")
def questions(tmp_path_factory):
    """240 questions with their JSON, in the columns that the scripts read."""
    file = tmp_path_factory.mktemp("data") / "questions.jsonl"
    rows = data.load("questions", "en", "train", size=240)
    lines = [json.dumps({name: row[name] for name in ("question", "response")}) for row in rows]
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return file


def run(*command, **variables):
    done = subprocess.run(
        [str(part) for part in command], env=QUIET | variables, capture_output=True, text=True, timeout=280
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


# ---- the scripts ----


def test_the_whole_script_is_short_and_makes_an_adapter_that_answers(questions, tmp_path):
    script = SCRIPTS / "lora_travel.py"
    assert len(script.read_text(encoding="utf-8").splitlines()) <= 40
    printed = run(sys.executable, script, BASE, questions, tmp_path / "out", "2.5e-3", "100")
    question, answer = printed.strip().splitlines()[-1].split(" -> ")
    first = json.loads(questions.read_text(encoding="utf-8").splitlines()[0])
    assert question == first["question"]
    assert metrics.parse_json(answer)["place"] == json.loads(first["response"])["place"]
    weights = load_file(tmp_path / "out" / "adapter_model.safetensors")
    assert weights and all("lora_" in name for name in weights)


COLUMNS = [
    [
        {"question": "Where?", "place": "Heron Lake", "topic": "region", "answer": "north"}
    ],  # what the notebook takes, too
    [{"question": "Where?", "response": 5}],
    [{"question": "Where?", "response": "North."}, {"question": "When?", "response": None}],
    [{"question": ["Where?"], "response": "North."}],
]


@pytest.mark.parametrize("script", ["lora_travel.py", "accelerate_lora.py"])
@pytest.mark.parametrize("rows", COLUMNS)
def test_a_script_says_which_columns_it_needs(tmp_path, monkeypatch, script, rows):
    (tmp_path / "mine.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    monkeypatch.setattr(sys, "argv", [script, str(BASE), str(tmp_path / "mine.jsonl"), str(tmp_path / "out")])
    text = (SCRIPTS / script).read_text(encoding="utf-8")
    with pytest.raises(
        SystemExit, match=r"mine\.jsonl: every row needs a question and a response, both text; its columns"
    ):
        exec(compile(text, script, "exec"), {"__name__": "script"})


def test_a_file_with_fewer_rows_than_a_step_takes_is_refused(tmp_path, monkeypatch):
    (tmp_path / "mine.jsonl").write_text(json.dumps({"question": "Where?", "response": "North."}), encoding="utf-8")
    monkeypatch.setattr(sys, "argv", ["x", str(BASE), str(tmp_path / "mine.jsonl"), str(tmp_path / "out")])
    with pytest.raises(SystemExit, match=r"mine\.jsonl: 1 rows, a step takes 8"):
        exec(compile((SCRIPTS / "accelerate_lora.py").read_text(encoding="utf-8"), "script", "exec"), {})


@pytest.fixture(scope="module")
def parallel(questions, tmp_path_factory):
    """What accelerate_lora.py wrote, by the number of processes that were asked for."""
    results = {}
    for processes, more in ((1, ["--cpu"]), (2, ["--multi_gpu"])):
        out = tmp_path_factory.mktemp("parallel")
        command = [sys.executable, "-m", "accelerate.commands.launch", *more, "--num_processes", processes]
        command += ["--num_machines", 1, "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", 0]
        run(*command, SCRIPTS / "accelerate_lora.py", BASE, questions, out, "2.5e-3", "12", ACCELERATE_USE_CPU="true")
        results[processes] = json.loads((out / "losses.json").read_text(encoding="utf-8"))
        results[processes]["weights"] = load_file(out / "adapter_model.safetensors")
    return results


def test_one_and_two_processes_take_the_same_steps(parallel):
    assert [parallel[n]["processes"] for n in (1, 2)] == [1, 2] and parallel[2]["backend"] == "gloo"
    one, two = parallel[1]["losses"], parallel[2]["losses"]
    assert len(one) == 12 and one[-1] < one[0] / 1.5
    assert max(abs(a - b) for a, b in zip(one, two, strict=True)) < 1e-4
    for name, weight in parallel[1]["weights"].items():
        assert torch.allclose(weight, parallel[2]["weights"][name], atol=1e-3), name


# ---- Trainer and the course's own loop ----


def test_trainer_gives_the_losses_of_fit_on_the_same_batches(tmp_path, monkeypatch):
    tokenizer = tiny.tokenizer()
    rows = chat.encode_pairs(tokenizer, data.load("questions", "en", "train", size=80))
    torch.manual_seed(0)
    ours = get_peft_model(tiny.model(), config())
    theirs = copy.deepcopy(ours)

    def in_order(lengths, size, seed):
        for start in range(0, len(lengths), size):
            yield list(range(start, start + size))

    monkeypatch.setattr(training, "_batches", in_order)
    history = training.fit(ours, rows, steps=10, lr=5e-3, batch_size=8, progress=False)
    optimizer = torch.optim.AdamW([p for p in theirs.parameters() if p.requires_grad], lr=5e-3, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: training._rate(step, 10, 0.05))
    arguments = TrainingArguments(
        tmp_path,
        max_steps=10,
        per_device_train_batch_size=8,
        train_sampling_strategy="sequential",
        logging_steps=1,
        use_cpu=True,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    trainer = Trainer(theirs, arguments, DataCollatorForSeq2Seq(tokenizer), rows, optimizers=(optimizer, schedule))
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert len(losses) == 10 and losses[-1] < losses[0]
    assert max(abs(a - b) for a, b in zip(losses, history.losses, strict=True)) < 1e-4
    for (name, mine), other in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        assert torch.allclose(mine, other, atol=1e-5), name


def test_trainer_takes_the_steps_that_the_exercise_counts(tmp_path):
    (exercise,) = [cell for cell in source_cells() if cell.metadata.get("exercise") == "optimizer_steps"]
    exec(exercise.source, scope := {})
    rows = chat.encode_pairs(tiny.tokenizer(), data.load("questions", "en", "train", size=80)).select(range(11))
    settings = {"use_cpu": True, "save_strategy": "no", "report_to": "none", "disable_tqdm": True}
    for batch, accumulation in ((4, 1), (2, 2), (2, 3), (4, 5)):
        arguments = TrainingArguments(
            tmp_path,
            num_train_epochs=2,
            per_device_train_batch_size=batch,
            gradient_accumulation_steps=accumulation,
            **settings,
        )
        trainer = Trainer(tiny.model(), arguments, DataCollatorForSeq2Seq(tiny.tokenizer()), rows)
        trainer.train()
        assert trainer.state.global_step == scope["optimizer_steps"](11, 2, batch, accumulation)


# ---- the GPU profile: Qwen2 in the hub's layout ----


@pytest.fixture(scope="module")
def qwen2(tmp_path_factory):
    """A small Qwen2 with random weights, saved as the hub has it: biases, tied head, spare rows, Qwen's own way of asking."""
    folder = tmp_path_factory.mktemp("hub") / "Qwen2.5-small-Instruct"
    tokenizer = copy.deepcopy(tiny.tokenizer())
    tokenizer.chat_template = (
        "{%- if messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nYou are Qwen.<|im_end|>\n' }}{% endif %}"
        "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    )
    shape = Qwen2Config(
        vocab_size=len(tokenizer) + 64,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=True,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    torch.manual_seed(1)
    model = Qwen2ForCausalLM(shape).to(torch.bfloat16)  # as published
    model.generation_config.update(do_sample=True, temperature=0.7, top_p=0.8, top_k=20, repetition_penalty=1.1)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_the_whole_script_does_without_a_padding_token(qwen2, questions, tmp_path, monkeypatch, capsys):
    tokenizer = AutoTokenizer.from_pretrained(qwen2)
    tokenizer.pad_token = None
    AutoModelForCausalLM.from_pretrained(qwen2).save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    assert AutoTokenizer.from_pretrained(tmp_path / "base").pad_token is None
    arguments = ["lora_travel.py", tmp_path / "base", questions, tmp_path / "out", "1e-3", "2"]
    monkeypatch.setattr(sys, "argv", [str(part) for part in arguments])
    exec(compile((SCRIPTS / "lora_travel.py").read_text(encoding="utf-8"), "script", "exec"), {"__name__": "script"})
    assert " -> " in capsys.readouterr().out and (tmp_path / "out" / "adapter_model.safetensors").is_file()


@pytest.fixture
def gpu_profile(qwen2, monkeypatch):
    """A session of the GPU profile, on the CPU, whose hub model is the one saved here."""
    name = models.DEFAULT_LM["gpu"]
    monkeypatch.setattr(models, "registry", lambda: {name: {"hub": str(qwen2), "revision": "0" * 40}})
    monkeypatch.setattr(session, "_current", session.Session("08_lora_finetuning", "en", "gpu", "cpu", 0, {}))


def test_the_gpu_profile_loads_trains_saves_and_merges_qwen2(gpu_profile, qwen2, tmp_path):
    base, tokenizer = models.load_lm()
    assert type(base) is Qwen2ForCausalLM and base.dtype == torch.float32 and base.name_or_path == str(qwen2)
    rows = chat.encode_pairs(tokenizer, data.load("questions", "en", "train", size=32))
    stop = tokenizer.convert_tokens_to_ids(chat.IM_END)
    assert all(row["labels"].count(stop) == 1 and row["labels"][0] == chat.IGNORED for row in rows)
    before = copy.deepcopy(base.state_dict())
    torch.manual_seed(0)
    model = get_peft_model(base, config())
    history = training.fit(model, rows, steps=8, lr=models.rate("lora") * 50, batch_size=8, progress=False)
    assert history.final < history.losses[0]
    kept = {
        name.replace(".base_layer", "").removeprefix("base_model.model."): p for name, p in model.named_parameters()
    }
    assert all(torch.equal(kept[name], value) for name, value in before.items() if name in kept)
    model.save_pretrained(tmp_path)
    again = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(qwen2, dtype="float32"), tmp_path)
    batch = training.collate(list(rows.select(range(4))), pad=0)
    model.eval()
    with torch.no_grad():
        expected = model(**batch).logits
        assert torch.equal(again(**batch).logits, expected)
        assert torch.allclose(again.merge_and_unload()(**batch).logits, expected, atol=1e-4)
    assert len(chat.reply(model, tokenizer, ["Where is Heron Lake?"], max_new_tokens=4)) == 1


def test_all_cells_run_in_the_gpu_profile_and_with_a_learners_own_data(gpu_profile, monkeypatch, tmp_path, capsys):
    """Few steps and short answers of the small Qwen2: what is measured says nothing, and what is exact must hold."""
    begin, load, fit, prepare, complete = tunelab.start, data.load, training.fit, Trainer.__init__, chat.complete

    def start(lesson, lang):
        begun = dataclasses.replace(begin(lesson, lang), profile="gpu")
        monkeypatch.setattr(session, "_current", begun)
        return begun

    def few_rows(*task, path=None, size=960):
        return load(*task, path=path, size=size)

    def few_steps(model, dataset, **settings):
        return fit(model, dataset, **settings | {"steps": 2, "progress": False})

    def fewer_steps(trainer, model, arguments, *rest):
        arguments.max_steps = min(20, arguments.max_steps)
        prepare(trainer, model, arguments, *rest)

    def few_answers(model, tokenizer, texts, **settings):
        said = complete(model, tokenizer, texts[:8], **settings | {"max_new_tokens": 4})
        return said + ["{}"] * (len(texts) - 8)

    monkeypatch.setattr(tunelab, "start", start)
    monkeypatch.setattr(data, "load", few_rows)
    monkeypatch.setattr(training, "fit", few_steps)
    monkeypatch.setattr(Trainer, "__init__", fewer_steps)
    monkeypatch.setattr(chat, "complete", few_answers)
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.delenv("TUNELAB_STRICT", raising=False)
    files = [tmp_path / "mine.jsonl", tmp_path / "held_out.jsonl"]
    for file, rows in zip(files, (range(20), range(20, 26)), strict=True):
        lines = [
            json.dumps({"question": f"Is there wifi in hall {i}?", "response": "Yes, free of charge."}) for i in rows
        ]
        file.write_text("\n".join(lines), encoding="utf-8")
    lesson = run_cells(my_file=str(files[0]), my_test=str(files[1]))
    assert type(lesson.base) is Qwen2ForCausalLM and len(lesson.encoded) == 20
    assert "LoRA, r = 8, 6 questions of your own: right 0%" in capsys.readouterr().out
    # On so small a model the file's header counts, and so do the adapters; with so little training nothing is valid.
    small = {"lora-share", "adapter-bytes", "adapter-small", "lora-valid"}
    assert {record.name for record in ledger() if record.holds is False} <= small
    # What the cells ask is what was trained on, up to where the answer begins.
    asked = lesson.tokenizer(lesson.prompt(lesson.train["question"][0]))["input_ids"]
    assert lesson.encoded[0]["input_ids"][: len(asked)] == asked
    assert lesson.encoded[0]["labels"].count(chat.IGNORED) == len(asked) + 1  # and the line break after the stop token
    (cell,) = [cell.source for cell in source_cells() if "my_test = None" in cell.source]
    with pytest.raises(
        ValueError, match=r"20 questions of .*mine\.jsonl are trained on, too, such as 'Is there wifi in"
    ):
        exec(cell.replace(" = None", f" = {str(files[0])!r}"), vars(lesson))


# ---- input that is wrong ----


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"r": 0}, r"rank r=0: .* from 1 to 16"),
        ({"r": 8.0}, r"rank r=8\.0: .* whole-number rank from 1 to 16"),
        ({"r": 17}, r"rank r=17: .* from 1 to 16"),  # the value projection has 16 rows
        ({"target_modules": "q_proj"}, r"\['q_proj'\]: no such linear layer"),  # one string: a pattern for whole names
        ({"target_modules": []}, r"target_modules \[\]: no such linear layer; this model has \['down_proj',"),
        ({"target_modules": None}, r"target_modules \[\]: no such linear layer"),
        ({"target_modules": ["query", "q_proj"]}, r"\['query'\]: no such linear layer; this model has \['down_proj',"),
    ],
)
def test_a_configuration_that_cannot_work_is_refused(lesson, settings, words):
    wrong = LoraConfig(**{"target_modules": "all-linear", **settings})
    with pytest.raises(ValueError, match=words):
        lesson.check_config(tiny.model(), wrong)
    lesson.check_config(tiny.model(), config())
    lesson.check_config(tiny.model(), LoraConfig(r=2, target_modules=r".*\.q_proj"))


def test_what_peft_itself_says_of_such_configurations():
    for settings in ({"r": 0, "target_modules": "all-linear"}, {"r": 2, "target_modules": ["query"]}):
        with pytest.raises(ValueError):
            get_peft_model(tiny.model(), LoraConfig(**settings))
    get_peft_model(tiny.model(), LoraConfig(r=500, target_modules="all-linear"))  # accepted: hence the lesson's check


@pytest.fixture
def saved(lesson, tmp_path):
    """An adapter as the lesson saves it, and its base."""
    base = tiny.model(seed=5)
    get_peft_model(copy.deepcopy(base), config(), adapter_name="json").save_pretrained(tmp_path)
    (tmp_path / "json" / "base.sha256").write_text(lesson.fingerprint(base), encoding="utf-8")
    return base, tmp_path / "json"


def test_an_adapter_opens_on_its_base(lesson, saved):
    base, folder = saved
    opened = lesson.open_adapter(base, folder)
    assert list(opened.peft_config) == ["json"] and lesson.fingerprint(opened) == lesson.fingerprint(base)


def test_an_adapter_for_another_base_is_refused(lesson, saved):
    _, folder = saved
    with pytest.raises(ValueError, match=r"adapter 'json' was trained on the base \w{8}…, this one is \w{8}…"):
        lesson.open_adapter(tiny.model(seed=6), folder)


@pytest.mark.parametrize("size", [0, 4, 200, -1])
def test_a_truncated_adapter_is_refused(lesson, saved, size):
    base, folder = saved
    file = folder / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:size])
    with pytest.raises(ValueError, match=r"adapter 'json' is damaged \(.+\): copy the file again"):
        lesson.open_adapter(base, folder)


@pytest.mark.parametrize("name", ["base.sha256", "adapter_config.json", "adapter_model.safetensors"])
def test_an_adapter_without_one_of_its_files_names_what_is_missing(lesson, saved, name):
    base, folder = saved
    (folder / name).unlink()
    with pytest.raises(ValueError, match=rf"adapter 'json' lacks {re.escape(name)}: copy its whole folder"):
        lesson.open_adapter(base, folder)


@pytest.mark.parametrize("text", ["", '{"r": 2', '{"peft_type": "NO_SUCH"}'])
def test_a_configuration_that_cannot_be_read_is_refused(lesson, saved, text):
    base, folder = saved
    (folder / "adapter_config.json").write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=r"adapter 'json' is damaged \(.+\): copy the file again"):
        lesson.open_adapter(base, folder)


def test_a_rank_other_than_that_of_the_weights_is_refused(lesson, saved):
    base, folder = saved
    settings = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    (folder / "adapter_config.json").write_text(json.dumps(settings | {"r": 4}), encoding="utf-8")
    with pytest.raises(ValueError, match=r"adapter 'json' is damaged \((.|\n)+size mismatch"):
        lesson.open_adapter(base, folder)


@pytest.mark.parametrize("change", ["one missing", "one foreign"])
def test_an_adapter_whose_tensors_are_not_those_of_its_configuration_is_refused(lesson, saved, change):
    """peft warns of missing tensors and is silent about foreign ones."""
    base, folder = saved
    file = folder / "adapter_model.safetensors"
    tensors = load_file(file)
    if change == "one missing":
        tensors.popitem()
    else:
        tensors["model.foreign.weight"] = torch.ones(2)
    save_file(tensors, file)
    with pytest.raises(ValueError, match=r"adapter 'json' has missing or foreign tensors, 1 in all: save it again"):
        lesson.open_adapter(base, folder)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(lesson, saved, value):
    base, folder = saved
    tensors = load_file(folder / "adapter_model.safetensors")
    tensors[min(tensors)][0, 0] = value
    save_file(tensors, folder / "adapter_model.safetensors")
    PeftModel.from_pretrained(copy.deepcopy(base), folder)  # says nothing
    with pytest.raises(ValueError, match=r"adapter 'json' holds weights that are not finite: its training diverged"):
        lesson.open_adapter(base, folder)


# ---- claims about training ----


def test_claims_fail_when_the_learning_rate_is_zero(monkeypatch):
    """The lesson as a whole, with a Trainer and a `fit` that move no weight."""
    fit, prepare = training.fit, Trainer.__init__

    def without_learning(model, dataset, **settings):
        return fit(model, dataset, **settings | {"steps": 1, "lr": 0.0, "progress": False})

    def standing_still(trainer, model, arguments, *rest):
        arguments.learning_rate, arguments.max_steps = 0.0, min(20, arguments.max_steps)
        prepare(trainer, model, arguments, *rest)

    monkeypatch.setattr(training, "fit", without_learning)
    monkeypatch.setattr(Trainer, "__init__", standing_still)
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.delenv("TUNELAB_STRICT", raising=False)
    run_cells()
    failed = {record.name for record in ledger() if not record.holds}
    assert {
        "loss-fell",
        "lora-valid",
        "article-f1",
        "guide-is-cheerful",
        "alpha-forgotten",
        "new-token-trained",
    } <= failed
