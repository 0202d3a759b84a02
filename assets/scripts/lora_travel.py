"""LoRA on questions and answers, from a base to an answer: python lora_travel.py MODEL QUESTIONS.jsonl OUT [RATE STEPS]"""

import sys

import torch
from datasets import load_dataset
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer, DataCollatorForSeq2Seq, Trainer, TrainingArguments

model_name, data_file, out = sys.argv[1:4]  # a hub id such as Qwen/Qwen2.5-0.5B-Instruct, or a folder
rate, steps = float((sys.argv[4:] or [2e-4])[0]), int((sys.argv[5:] or [400])[0])
tokenizer = AutoTokenizer.from_pretrained(model_name)
rows = load_dataset("json", data_files=data_file, split="train")  # columns: question, response


def prompt(question: str) -> str:
    message = [{"role": "user", "content": question}]
    return tokenizer.apply_chat_template(message, tokenize=False, add_generation_prompt=True)


def encode(row: dict[str, str]) -> dict[str, list[int]]:
    asked = tokenizer(prompt(row["question"]), add_special_tokens=False)["input_ids"]
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
tuned = PeftModel.from_pretrained(base, out).merge_and_unload()
asked = tokenizer(prompt(rows[0]["question"]), return_tensors="pt", add_special_tokens=False).to(tuned.device)
written = tuned.generate(**asked, max_new_tokens=64, do_sample=False)[0, asked["input_ids"].shape[1] :]
print(rows[0]["question"], "->", tokenizer.decode(written, skip_special_tokens=True))
