"""The training of lora_travel.py on one process or several: accelerate launch accelerate_lora.py MODEL QUESTIONS.jsonl OUT

A step sees the same rows however many processes share them, so the losses are the same, too. Two processes without a GPU:
ACCELERATE_USE_CPU=true accelerate launch --multi_gpu --num_processes 2 accelerate_lora.py ... (`--cpu --num_processes 2`
starts a single one).
"""

import json
import sys
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import DataLoaderConfiguration, set_seed
from datasets import load_dataset
from peft import LoraConfig, get_peft_model
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader
from transformers import AutoModelForCausalLM, AutoTokenizer, DataCollatorForSeq2Seq

model_name, data_file, out = sys.argv[1:4]
rate, steps, batch = float((sys.argv[4:] or [2e-4])[0]), int((sys.argv[5:] or [400])[0]), 8
accelerator = Accelerator(dataloader_config=DataLoaderConfiguration(split_batches=True))  # 8 rows in all, not 8 each
set_seed(0)  # LoRA's random matrices: the same on every process
tokenizer = AutoTokenizer.from_pretrained(model_name)
tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token  # padding has no label, so the stop token is learnt
rows = load_dataset("json", data_files=data_file, split="train")
kinds = {name: getattr(kind, "dtype", "nested") for name, kind in rows.features.items()}
if {kinds.get("question"), kinds.get("response")} != {"string"} or None in [*rows["question"], *rows["response"]]:
    sys.exit(f"{data_file}: every row needs a question and a response, both text; its columns are {kinds}")
if len(rows) < batch:
    sys.exit(f"{data_file}: {len(rows)} rows, a step takes {batch}")  # the loop below would never end


def encode(row: dict[str, str]) -> dict[str, list[int]]:
    message = [{"role": "user", "content": row["question"]}]
    asked = tokenizer.apply_chat_template(message, add_generation_prompt=True, return_dict=False)
    answer = tokenizer(row["response"] + tokenizer.eos_token, add_special_tokens=False)["input_ids"]
    return {"input_ids": asked + answer, "labels": [-100] * len(asked) + answer}


with accelerator.main_process_first():  # the others read what the first has prepared
    data = rows.map(encode, remove_columns=rows.column_names)
# Shuffled here and not by the loader, whose random order changes with the number of processes.
loader = DataLoader(data.shuffle(seed=0), batch, collate_fn=DataCollatorForSeq2Seq(tokenizer), drop_last=True)
config = LoraConfig(r=8, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
model = get_peft_model(AutoModelForCausalLM.from_pretrained(model_name, dtype="float32"), config)
optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=rate, weight_decay=0.0)
model, optimizer, loader = accelerator.prepare(model, optimizer, loader)

losses: list[float] = []
model.train()
while len(losses) < steps:
    for rows_here in loader:
        labels = rows_here.pop("labels")[:, 1:]  # (rows, tokens - 1)
        logits = model(**rows_here).logits[:, :-1]
        surprise = cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum")
        # Processes hold different numbers of answer tokens, and DDP averages gradients over processes. The mean over all
        # tokens of the step is therefore: sum here, times processes, divided by the tokens of all.
        tokens = accelerator.reduce((labels != -100).sum())
        loss = surprise * accelerator.num_processes / tokens
        accelerator.backward(loss)
        accelerator.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(accelerator.reduce(loss.detach(), "mean").item())
        if len(losses) == steps:
            break

if accelerator.is_main_process:
    accelerator.unwrap_model(model).save_pretrained(out)
    backend = torch.distributed.get_backend() if accelerator.num_processes > 1 else None
    result = {"processes": accelerator.num_processes, "backend": backend, "losses": losses}
    Path(out, "losses.json").write_text(json.dumps(result), encoding="utf-8")
    print(f"{accelerator.num_processes} process(es), loss of the last step {losses[-1]:.6f}")
accelerator.end_training()
