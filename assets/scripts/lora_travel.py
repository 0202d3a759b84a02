"""LoRA on questions and answers, from a base to an answer: python lora_travel.py MODEL QUESTIONS.jsonl OUT [RATE STEPS]"""

import sys

import torch
from datasets import load_dataset
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer, DataCollatorForSeq2Seq, Trainer, TrainingArguments

model_name, data_file, out = sys.argv[1:4]  # a hub id such as Qwen/Qwen2.5-0.5B-Instruct, or a folder
rate, steps = float((sys.argv[4:] or [2e-4])[0]), int((sys.argv[5:] or [400])[0])
tokenizer = AutoTokenizer.from_pretrained(model_name)
tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token  # padding has no label, so the stop token is learnt
rows = load_dataset("json", data_files=data_file, split="train")
kinds = {name: getattr(kind, "dtype", "nested") for name, kind in rows.features.items()}
if {kinds.get("question"), kinds.get("response")} != {"string"} or None in [*rows["question"], *rows["response"]]:
    sys.exit(f"{data_file}: every row needs a question and a response, both text; its columns are {kinds}")


def encode(row: dict[str, str]) -> dict[str, list[int]]:
    message = [{"role": "user", "content": row["question"]}]
    asked = tokenizer.apply_chat_template(message, add_generation_prompt=True, return_dict=False)
    answer = tokenizer(row["response"] + tokenizer.eos_token, add_special_tokens=False)["input_ids"]
    return {"input_ids": asked + answer, "labels": [-100] * len(asked) + answer}  # train on the answer alone


config = LoraConfig(r=8, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
model = get_peft_model(AutoModelForCausalLM.from_pretrained(model_name, dtype="float32"), config)
gpu = torch.cuda.is_available()
bf16 = gpu and torch.cuda.get_device_capability() >= (8, 0)  # a T4 has fp16 only
options = {"lr_scheduler_type": "cosine", "warmup_steps": 20, "bf16": bf16, "fp16": gpu and not bf16}
arguments = TrainingArguments(out, max_steps=steps, learning_rate=rate, report_to="none", logging_steps=20, **options)
Trainer(model, arguments, DataCollatorForSeq2Seq(tokenizer), rows.map(encode, remove_columns=rows.column_names)).train()
model.save_pretrained(out)  # the adapter alone
base = AutoModelForCausalLM.from_pretrained(model_name, dtype="float32").to(model.device)
tuned, first = PeftModel.from_pretrained(base, out).merge_and_unload(), encode(rows[0])
asked = torch.tensor([first["input_ids"][: first["labels"].count(-100)]], device=tuned.device)
settings = {"max_new_tokens": 64, "do_sample": False, "repetition_penalty": 1.0}  # Qwen's own penalizes copied names
written = tuned.generate(asked, attention_mask=torch.ones_like(asked), **settings)[0, asked.shape[1] :]
print(rows[0]["question"], "->", tokenizer.decode(written, skip_special_tokens=True))
