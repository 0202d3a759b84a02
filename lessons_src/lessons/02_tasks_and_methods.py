# %% [markdown] lang="en" partner="85a384ce"
# # 02 · Tasks and methods
#
# **After this lesson you can**
# - put five tasks on one language model: classification, question answering, generation, named entities, dialogue;
# - say for each of them what a label is and which tokens carry one, and look at it before you train;
# - fine-tune in five ways (all weights, LoRA, a soft prompt, instructions, a new head) and compare what they cost;
# - tell what a held-out set drawn by a generator proves, and what it does not;
# - choose a task form and a method together, and give measured reasons.
#
# **Before you start**: lesson 01 (loss, mask, stop token).
# **Time**: about 70 minutes with the exercises; the cells themselves run for less than two minutes on one CPU core.
# **Memory**: 1.5 GB.

# %% [markdown] lang="zh" partner="39392b73"
# # 02 · 微调的任务与方法
#
# **学完这一课，你能够**
# - 在同一个语言模型上做五种任务：文本分类、问答、文本生成、命名实体识别、对话；
# - 说清每种任务的标签是什么、落在哪些词元上，并在训练之前先看一眼；
# - 用五种方法微调（全量、LoRA、软提示、指令、新的头），并比较各自的代价；
# - 分清：在生成器抽出来的留出集上得高分，说明了什么，又没有说明什么；
# - 把任务形式和方法放在一起选，并且拿得出测量结果作理由。
#
# **预备知识**：第 01 课（损失、掩码、结束符）。
# **时间**：连同练习约 70 分钟；代码本身在单核 CPU 上不到两分钟跑完。
# **内存**：1.5 GB。

# %%
from tunelab import T, check, claim, start

LANG = "en"
course = start("02", LANG)

# %% [markdown] lang="en" partner="1b54b22a"
# ## The question
#
# The information desk of Yunlan Province has five jobs for its model. Read the reviews and say which guests were
# unhappy. Find the answer in the terms of carriage. Write an itinerary. Pick out places, prices and times. Talk to the
# guests. And there are, so one reads, five ways to fine-tune:
#
# | method | what is said of it |
# |---|---|
# | full fine-tuning | adjusts all parameters: good, and expensive |
# | PEFT | adjusts few parameters: efficient |
# | prompt tuning | optimises the prompt: the cheapest of all |
# | instruction tuning | trains the model to follow instructions |
# | transfer learning | trains a new layer: simple |
#
# Is each task another model? Is one method the cheapest in everything? Think of one engine on five vehicles: the engine
# stays, the gearbox changes. We shall see how far that goes, and where the engine itself is too weak.

# %% [markdown] lang="zh" partner="79b91259"
# ## 问题
#
# 云澜省旅游咨询台有五件活要交给模型：读点评，看哪些游客不满意；从乘车须知里找答案；写行程；挑出地点、价格和时间；
# 陪游客聊天。而微调的方法，常见的说法也是五种：
#
# | 方法 | 常见的说法 |
# |---|---|
# | 全量微调 | 调整所有参数，性能好，成本高 |
# | PEFT | 只调少量参数，效率高 |
# | 提示微调 | 优化提示，成本最低 |
# | 指令微调 | 训练模型听从指令 |
# | 迁移学习 | 只训练新加的层，简单 |
#
# 五种任务就是五个模型吗？有没有一种方法样样都最便宜？不妨想象同一台引擎装进五种车：引擎不换，换的是变速箱。
# 这个比方能走多远，引擎本身又在哪里力不从心，下面一步步看。

# %% [markdown] lang="en" partner="40da581b"
# ## Step 1 · One backbone
#
# A language model is a stack of blocks and one last layer. The blocks turn each token into a vector that has taken in
# everything to its left. The last layer, the **head**, turns a vector into scores. Here is the MLP of one block of the
# base, and its head: one score for each token of the vocabulary.

# %% [markdown] lang="zh" partner="9daf068d"
# ## 第 1 步 · 同一个主干
#
# 语言模型由一层层 Transformer 块堆成，外加最后一层。这些块把每个词元变成一个向量，它左边的内容都已读进这个向量；最后一层叫**头**
# （head），把向量变成分数。下面打印的是基座一个块里的 MLP，以及它的头：词表里每个词元一个分数。

# %%
import copy

import torch

from tunelab import chat, corpus, data, metrics, models, training, world

SPLIT = "test"  # rows written by hand; the settings of this lesson were chosen on "dev"
base, tokenizer = models.load_lm()
print(base.model.layers[0].mlp, base.lm_head, sep="\n")

# %% [markdown] lang="en" partner="8ca018cd"
# For another task, keep the blocks and put on another head. `transformers` has a class for each. The new head is made of
# random numbers, so it must be trained; all of these classes have that in common. Two tasks need no new head: their
# output is text, and the base's own head writes text.

# %% [markdown] lang="zh" partner="5d4118d5"
# 换一种任务，块照旧，只换头；`transformers` 为每种任务都备好了类。新的头是随机初始化的，所以必须训练：这些类都是如此。有两种任务
# 不需要新的头：输出的就是文本，而基座自己的头本来就会写文本。


# %%
def with_head(kind, **labels):
    """A model with the base's blocks, and a new head of random numbers in place of its output layer."""
    torch.manual_seed(course.seed)
    config = copy.deepcopy(base.config)
    config.update({"pad_token_id": tokenizer.pad_token_id, **labels})
    model = kind.from_config(config).to(base.device)
    model.base_model.load_state_dict(base.model.state_dict())
    return model


def input_of(row):
    """What the model is given of a row; the rest is the answer."""
    return str([row[name] for name in ("text", "question", "context", "request", "messages") if name in row])


def fresh(task, size, split="train"):
    """Generated rows of another seed, less those whose input training happens to draw, too."""
    mine, others = course.seed, 1000 + course.seed
    drawn = {input_of(row) for row in data.load(task, LANG, split, size=1200, seed=mine)}  # no training takes more
    return [row for row in data.load(task, LANG, split, size=size, seed=others) if input_of(row) not in drawn]


scores, losses = {}, {}  # by task

# %% [markdown] lang="en" partner="020b4742"
# | task | head | label | metric | what needs no model |
# |---|---|---|---|---|
# | classification | `...ForSequenceClassification` | one a text | accuracy | the commonest class |
# | question answering | `...ForQuestionAnswering` | first and last token of the answer | token F1 | a constant answer |
# | named entities | `...ForTokenClassification` | one a word | span F1 | each word's commonest tag |
# | generation | the base's own | the tokens of the text | BLEU | always the same plan |
# | dialogue | the base's own | the assistant's tokens | facts told | the commonest fact |
#
# Each task will be scored on two sets: rows that the generator of the training set draws with another seed (less those whose
# input stands in the training set as well), and rows that people wrote by hand. Watch the distance between the two.

# %% [markdown] lang="zh" partner="9dd26243"
# | 任务 | 头 | 标签 | 指标 | 不用模型的基线 |
# |---|---|---|---|---|
# | 文本分类 | `...ForSequenceClassification` | 每段文本一个 | 准确率 | 最常见的类别 |
# | 问答 | `...ForQuestionAnswering` | 答案的首、尾词元 | 字级 F1 | 固定的答案 |
# | 命名实体识别 | `...ForTokenClassification` | 每个词一个 | 实体级 F1 | 每个词最常见的标签 |
# | 文本生成 | 基座自己的头 | 文本的词元 | BLEU | 永远同一份行程 |
# | 对话 | 基座自己的头 | 助手说的词元 | 说对的事实 | 最常见的事实 |
#
# 每种任务都在两个集合上打分：一个由训练集的生成器换个种子抽出（输入与训练集重复的去掉），一个由人逐条手写。请留意两者之间的距离。

# %% [markdown] lang="en" partner="0598dfb3"
# ## Step 2 · Classification: was the guest happy?
#
# A review gets one of two labels. Which vector should the head look at? In a causal model each token has seen only what
# stands to its left, so there is one token that has read the whole review: the last. It is the only one with a label.

# %% [markdown] lang="zh" partner="ebc48ae3"
# ## 第 2 步 · 文本分类：游客满意吗？
#
# 一条点评，两类标签。头应该看哪个向量？因果模型里，每个词元只看得见自己左边的内容，读完整条点评的只有一个：最后一个词元。
# 只有它带标签。

# %%
from transformers import AutoModelForSequenceClassification

MOODS = ["negative", "positive"]
stop = tokenizer.convert_tokens_to_ids(chat.IM_END)


def encode_review(row):
    """The tokens of a review, and one label at the end."""
    ids = [*tokenizer(row["text"])["input_ids"], stop]
    return {"input_ids": ids, "labels": [chat.IGNORED] * (len(ids) - 1) + [MOODS.index(row["label"])]}


reviews = [*data.load("reviews", LANG, "train"), *data.load("reviews", LANG, "generated", seed=course.seed)]
print(reviews[0]["label"])
chat.show_mask(tokenizer, encode_review(reviews[0]))

# %% [markdown] lang="en" partner="695ff81b"
# `training.fit` is the loop of lesson 01: its labels stand one a token. The classification head wants them one a row. A
# small wrapper stands between the two; it will serve the next task, too.

# %% [markdown] lang="zh" partner="55de51c9"
# `training.fit` 还是第 01 课的训练循环，它的标签是每个词元一个；分类头要的却是每行一个。中间就差下面这个小小的包装，下一个任务还会用到。


# %%
class OneLabelARow(torch.nn.Module):
    """Lets `fit`, whose labels stand one a token, train a head that wants them one a row."""

    def __init__(self, model, read):
        super().__init__()
        self.model, self.read, self.config = model, read, model.config

    def forward(self, input_ids, attention_mask, labels):
        return self.model(input_ids=input_ids, attention_mask=attention_mask, **self.read(labels))


def mood(labels):
    """(rows, tokens) -> (rows,): the one label of each row; all others are -100."""
    return {"labels": labels.amax(1)}


# %%
review_rows = [encode_review(row) for row in reviews]
judge = with_head(AutoModelForSequenceClassification, num_labels=len(MOODS))
claim("head-numbers", judge.score.weight.numel(), equals=len(MOODS) * base.config.hidden_size)
fitted = training.fit(OneLabelARow(judge, mood), review_rows, steps=50, lr=1e-3, seed=course.seed)
losses["classification"] = fitted.final


# %%
def outputs(model, examples, size=16):
    """What the model computes for the examples, batch by batch, without gradients."""
    model.eval()
    for first in range(0, len(examples), size):
        batch = training.collate(examples[first : first + size], pad=tokenizer.pad_token_id)
        with torch.no_grad():
            yield model(**{name: batch[name].to(base.device) for name in ("input_ids", "attention_mask")})


# %%
def moods(model, rows):
    """The mood that the model finds in each review."""
    examples = [encode_review(row) for row in rows]
    return [MOODS[i] for out in outputs(model, examples) for i in out.logits.argmax(1).tolist()]


def share_right(guesses, rows):
    """Accuracy."""
    return metrics.mean([guess == row["label"] for guess, row in zip(guesses, rows, strict=True)])


# %%
by_hand, generated = list(data.load("reviews", LANG, SPLIT)), fresh("reviews", 100, "generated")
by_hand.sort(key=lambda row: len(row["text"]))  # rows of like lengths in a batch: little padding
for row, guess in zip(by_hand[::90], moods(judge, by_hand[::90]), strict=True):
    print(row["text"], "▸", guess, f"({row['label']})")
scores["classification"] = {
    "model": share_right(moods(judge, by_hand), by_hand),
    "baseline": max(share_right([label] * len(by_hand), by_hand) for label in MOODS),
    "generated": share_right(moods(judge, generated), generated),
    "generated_baseline": max(share_right([label] * len(generated), generated) for label in MOODS),
}
print(T("two-sets").format(**scores["classification"]))

# %%
found = scores["classification"]
claim("reviews-generated", found["generated"] - found["generated_baseline"], at_least=0.3)
claim("reviews-gap", found["generated"] - found["model"], at_least=0.2)

# %% [markdown] lang="en" partner="dcbb17cb"
# Read the two claims together. On generated reviews the model is nearly perfect. On reviews that people wrote it is not
# much better than a coin, although its training set holds other reviews of that kind. Nothing is broken. The generator
# has a limited stock of sentences, and the base read them in pre-training. A held-out set of the same generator
# measures whether the *generator* has been learnt. People write differently, and this small base has never read what
# people write. **A test set from the generator of the training set tests the generator.** Step 10 gives the
# hand-written training rows to a model that has read real English.

# %% [markdown] lang="zh" partner="78fde1e8"
# 两条断言要放在一起看。在生成的点评上，模型几乎不出错；在人写的点评上，比抛硬币好不了多少，尽管训练集里也有一部分（另外的）手写点评。
# 程序没有问题。生成器会的句子就那么多，基座在预训练时都读过；由同一个生成器抽出的留出集，测的是有没有学会这个*生成器*。
# 人的写法不一样，而这个小基座从没读过人写的文字。**测试集若出自训练集的生成器，考的就是生成器**。
# 第 10 步会把训练集里手写的那部分交给一个读过真实英语的模型。

# %% [markdown] lang="en" partner="ef6a7add"
# ## Step 3 · Question answering: where does it stand?
#
# Extractive question answering does not write an answer, it points to one: a start and an end in the passage. The head
# has two numbers for each token. In a causal model the order decides: put the passage first, and its tokens are read
# before the question is known. So the question comes first.

# %% [markdown] lang="zh" partner="2750d67f"
# ## 第 3 步 · 问答：答案在哪里？
#
# 抽取式问答不写答案，只指出答案：它在文中从哪里开始、到哪里结束。头给每个词元两个数。在因果模型里，顺序决定成败：
# 先放材料，它的词元就在问题出现之前读完了。所以问题要放在前面。

# %%
from transformers import AutoModelForQuestionAnswering

START, END = 1, 2  # as bits: one token can be both


def encode_question(row):
    """Question, line break, passage; the passage's tokens are marked where the answer starts and ends."""
    question = tokenizer(row["question"] + "\n")["input_ids"]
    passage = tokenizer(row["context"], return_offsets_mapping=True)
    answer, marks = row["answer"], [0] * len(passage["input_ids"])
    spots = [i for i, (a, b) in enumerate(passage["offset_mapping"]) if a < answer["end"] and answer["start"] < b]
    marks[spots[0]] += START
    marks[spots[-1]] += END
    return {"input_ids": question + passage["input_ids"], "labels": [chat.IGNORED] * len(question) + marks}


# %%
passages = list(data.load("passage_questions", LANG, "train", size=1200, seed=course.seed))
example = encode_question(passages[0])
print([(piece, label) for piece, label, _ in chat.mask_table(tokenizer, example) if label > 0])
chat.show_mask(tokenizer, example)


# %%
def span(labels):
    """(rows, tokens) -> (rows,) twice: the positions of the two marks."""
    marks = labels.clamp(min=0)
    return {"start_positions": (marks & START).argmax(1), "end_positions": (marks & END).argmax(1)}


reader = with_head(AutoModelForQuestionAnswering)
question_rows = [encode_question(row) for row in passages]
fitted = training.fit(OneLabelARow(reader, span), question_rows, steps=75, lr=3e-3, seed=course.seed)
losses["qa"] = fitted.final

# %% [markdown] lang="en" partner="5a68c098"
# The likeliest start and the likeliest end need not fit together. So one looks for the best *pair*, with the start not
# behind the end.

# %% [markdown] lang="zh" partner="2f77f7eb"
# 分别取最可能的开头和最可能的结尾，两者未必配得上。所以要找最好的一*对*：开头不能在结尾之后。


# %%
def best_pair(start_logits, end_logits, longest=30):
    """The positions (start, end) with the highest sum of logits, start <= end < start + longest."""
    sums = start_logits[:, None] + end_logits[None, :]  # (tokens, tokens)
    allowed = torch.ones_like(sums).triu() - torch.ones_like(sums).triu(longest)
    return divmod(sums.masked_fill(allowed == 0, -torch.inf).argmax().item(), len(end_logits))


# %%
def answers(model, rows):
    """The text of the best span of each passage."""
    examples, found = [encode_question(row) for row in rows], []
    logits = [pair for out in outputs(model, examples) for pair in zip(out.start_logits, out.end_logits, strict=True)]
    for row, example, pair in zip(rows, examples, logits, strict=True):
        first = example["labels"].count(chat.IGNORED)  # where the passage begins
        start, end = best_pair(*(part[first : len(example["labels"])] for part in pair))
        places = tokenizer(row["context"], return_offsets_mapping=True)["offset_mapping"]
        found.append(row["context"][places[start][0] : places[end][1]].strip())
    return found


# %%
from collections import Counter


def overlap(texts, rows):
    """Mean token F1: a word in common counts for something, the same answer for 1."""
    return metrics.mean([metrics.token_f1(text, row["answer"]["text"]) for text, row in zip(texts, rows, strict=True)])


# %%
def constant(rows):
    """The better of two answers that need no model: the whole passage, and the commonest answer of training."""
    commonest = Counter(row["answer"]["text"] for row in passages).most_common(1)[0][0]
    return max(overlap([row["context"] for row in rows], rows), overlap([commonest] * len(rows), rows))


needed = [row for row in data.load("passage_questions", LANG, SPLIT) if row["answer"]]  # some have no answer
drawn = fresh("passage_questions", 150)
for row, answer in zip(drawn[:3], answers(reader, drawn[:3]), strict=True):
    print(row["question"], "▸", answer, f"({row['answer']['text']})")

# %%
scores["qa"] = {
    "model": overlap(answers(reader, needed), needed),
    "baseline": constant(needed),
    "generated": overlap(answers(reader, drawn), drawn),
    "generated_baseline": constant(drawn),
}
print(T("two-sets").format(**scores["qa"]))
claim("qa-generated", scores["qa"]["generated"] - scores["qa"]["generated_baseline"], at_least=0.05)

# %% [markdown] lang="en" partner="1ef32fd7"
# It has begun to learn, no more: seconds of training, generated passages. On the desk's real terms, with questions most of
# which share no content word with the passage, it finds next to nothing; lesson 09 takes those questions up again with vectors.
# The order of the two texts, however, cannot be made up for by more training:

# %% [markdown] lang="zh" partner="1e0cb495"
# 它只是刚入门：训练不过几秒，材料也是生成的。换成咨询台真正的须知，问题又大多和原文没有一个实词相同，它就几乎什么也找不到了；
# 第 09 课会用向量再来解决这些问题。不过，两段文字的先后，多训练多久也补救不了：


# %%
def start_scores(question):
    """The start logits of a passage's tokens, with the passage put in front of the question."""
    passage = tokenizer(passages[0]["context"] + "\n")["input_ids"]
    ids = torch.tensor([passage + tokenizer(question)["input_ids"]], device=base.device)
    with torch.no_grad():
        return reader(input_ids=ids).start_logits[0, : len(passage)]


one, other = (start_scores(row["question"]) for row in passages[:2])
claim("passage-first-is-blind", (one - other).abs().max().item(), at_most=1e-4)

# %% [markdown] lang="en" partner="dd02bdb5"
# Two different questions, and the same scores for each token of the passage. BERT looks both ways, and there the order is
# free. On a decoder it is part of the task's form.

# %% [markdown] lang="zh" partner="901a27b5"
# 两个不同的问题，材料里每个词元的分数却一模一样。BERT 是双向的，先后无所谓；用解码器，先后就是任务形式的一部分。

# %% [markdown] lang="en" partner="f8aece40"
# ## Step 4 · Named entities: a label a word
#
# Tags in the scheme **BIO**: `B-PLACE` begins a mention, `I-PLACE` goes on with it, `O` is outside. People annotate
# characters, the model reads tokens, and the score counts words; most bugs of this task live between the three.

# %% [markdown] lang="zh" partner="5f082018"
# ## 第 4 步 · 命名实体识别：每个词一个标签
#
# 标签用 **BIO** 标注：`B-PLACE` 是一处地点的开头，`I-PLACE` 是它的延续，`O` 是实体之外。人标注的是字符，模型读的是词元，
# 打分按词（中文按字）：这个任务的错误大多藏在三者之间。

# %%
import re

from transformers import AutoModelForTokenClassification

WORD = re.compile(r"[\u3400-\u9fff]|[^\W\u3400-\u9fff]+|[^\w\s]")  # a Chinese character, a word, a punctuation mark
KINDS = ["PLACE", "FOOD", "TRANSPORT", "TIME", "PRICE"]
TAGS = ["O", *(f"{part}-{kind}" for kind in KINDS for part in "BI")]


# %%
def bio(row):
    """The words of a sentence as (start, end), and the tag of each."""
    words, tags, before = [found.span() for found in WORD.finditer(row["text"])], [], None
    for a, b in words:
        mention = next((m for m in row["spans"] if m["start"] < b and a < m["end"]), None)
        tags.append("O" if mention is None else ("I-" if mention is before else "B-") + mention["label"])
        before = mention
    return words, tags


# %% [markdown] lang="en" partner="51798a54"
# A word can be several tokens. Guides written for BERT put the label on the *first* of them. A causal model has not yet
# read the rest of the word there. So the label goes to the **last** piece, and the others get none.

# %% [markdown] lang="zh" partner="9d2cd0fb"
# 一个词可能被切成几个词元。针对 BERT 的教程会把标签放在*第一个*词元上；可是因果模型到那里还没读完这个词。
# 所以标签放在**最后一个**词元上，其余的不带标签。


# %%
def last_pieces(row):
    """The position of the last token of each word."""
    places = tokenizer(row["text"], return_offsets_mapping=True)["offset_mapping"]
    return [max(i for i, (a, b) in enumerate(places) if a < end and start < b) for start, end in bio(row)[0]]


# %%
def encode_sentence(row):
    """Tokens, and for the last token of each word its tag; the other tokens of a word have no label."""
    ids = tokenizer(row["text"])["input_ids"]
    labels = [chat.IGNORED] * len(ids)
    for position, tag in zip(last_pieces(row), bio(row)[1], strict=True):
        labels[position] = TAGS.index(tag)
    return {"input_ids": ids, "labels": labels}


sentences = list(data.load("entities", LANG, "train", seed=course.seed))
print(*zip([sentences[0]["text"][a:b] for a, b in bio(sentences[0])[0]], bio(sentences[0])[1], strict=True))
chat.show_mask(tokenizer, encode_sentence(sentences[0]))

# %% [markdown] lang="en" partner="c4978e41"
# The generated sentences follow too few patterns. Two cheap remedies (how much each of them does is not measured here). **Distant supervision**: sentences about
# facts that we know need no annotator, since we know what must be found in them. And **strangers**: words of real
# reviews take the place of some words outside mentions, so that an unknown word is not taken for a place.

# %% [markdown] lang="zh" partner="3b0a5f1b"
# 生成的句子，句式太少。有两个便宜的补救办法（各有多大作用，这里没有测）。**远程监督**：如果句子说的是我们已知的事实，就不用人来标注，因为里面有什么，
# 我们本来就知道。**掺生词**：把真实点评里的词换进一些非实体的位置，免得模型一见生词就当成地点。

# %%
from random import Random

KIND = {"price": "PRICE", "closing": "TIME", "month": "TIME", "dish": "FOOD", "bus": "TRANSPORT", "region": "PLACE"}
documented = [place.name(LANG) for place in world.places() if place.documented]


# %%
def stated(rng):
    """A sentence about a place, labelled by what we know to stand in it."""
    name = corpus.made_up_name(rng, LANG) if rng.random() < 0.5 else rng.choice(documented)
    topic = rng.choice(world.TOPICS)
    value, asks, spans = rng.choice(world.values(topic, LANG)), rng.random() < 0.4, []
    text = world.question(name, topic, LANG, rng) if asks else corpus.statement(name, topic, value, LANG, rng)
    for mention, label in ((name, "PLACE"), (value.removeprefix("the "), KIND.get(topic))):
        start = text.lower().find(mention.lower())
        if label and start >= 0:
            spans.append({"start": start, "end": start + len(mention), "label": label})
    return {"text": text, "spans": sorted(spans, key=lambda mention: mention["start"])}


# %%
strangers = [
    word for row in data.load("reviews", LANG, "train") for word in WORD.findall(row["text"]) if word.isalpha()
]


# %%
def with_strangers(row, rng, share=0.4):
    """The sentence with words of real reviews in place of some that belong to no mention."""
    text, spans, copied = "", [], 0
    for (a, b), tag in zip(*bio(row), strict=True):
        text += row["text"][copied:a]
        word, copied = row["text"][a:b], b
        if tag == "O" and word.isalpha() and rng.random() < share:
            word = rng.choice(strangers)
        if tag[0] == "B":
            spans.append({"start": len(text), "label": tag[2:]})
        text += word
        if tag != "O":
            spans[-1]["end"] = len(text)
    return {"text": text + row["text"][copied:], "spans": spans}


# %%
rng = Random(course.seed)
labelled = [*sentences, *(stated(rng) for _ in range(1000))]
sentence_rows = [encode_sentence(with_strangers(row, rng)) for row in labelled]
tagger = with_head(AutoModelForTokenClassification, num_labels=len(TAGS))
losses["entities"] = training.fit(tagger, sentence_rows, steps=130, lr=2e-3, seed=course.seed).final


# %%
def tagged(model, rows):
    """The tags of the words of each sentence."""
    logits = [row for out in outputs(model, [encode_sentence(row) for row in rows]) for row in out.logits]
    places = [last_pieces(row) for row in rows]
    return [[TAGS[i] for i in one[at].argmax(1).tolist()] for one, at in zip(logits, places, strict=True)]


def f1(tags, rows):
    """Span F1: a mention counts where both ends and the kind are right."""
    return metrics.span_f1(tags, [bio(row)[1] for row in rows])


# %%
mentions, drawn = list(data.load("entities", LANG, SPLIT)), fresh("entities", 200)
for row, tags in zip(mentions[:3], tagged(tagger, mentions[:3]), strict=True):
    found = [(row["text"][a:b], tag) for (a, b), tag in zip(bio(row)[0], tags, strict=True) if tag != "O"]
    print(row["text"], "▸", *found)

# %%
import itertools
from collections import defaultdict

seen = defaultdict(Counter)
for row in labelled:
    for (a, b), tag in zip(*bio(row), strict=True):
        seen[row["text"][a:b].lower()][tag] += 1


# %%
def commonest_tags(rows):
    """For each word the tag that it most often had in training; O for a word never seen."""
    words = [[row["text"][a:b].lower() for a, b in bio(row)[0]] for row in rows]
    return [[seen[word].most_common(1)[0][0] if word in seen else "O" for word in sentence] for sentence in words]


# %%
scores["entities"] = {
    "model": f1(tagged(tagger, mentions), mentions),
    "baseline": f1(commonest_tags(mentions), mentions),
    "generated": f1(tagged(tagger, drawn), drawn),
    "generated_baseline": f1(commonest_tags(drawn), drawn),
}
print(T("two-sets").format(**scores["entities"]))

# %%
claim("entities-generated", scores["entities"]["generated"] - scores["entities"]["generated_baseline"], at_least=0.05)
claim("entities-hand", scores["entities"]["model"] - scores["entities"]["baseline"], at_least=0.05)


# %%
def first_word_scores(text):
    """The logits of the last token of the first word: (tags,)."""
    row = {"text": text, "spans": []}
    (out,) = outputs(tagger, [encode_sentence(row)])
    return out.logits[0, last_pieces(row)[0]]


one, other = (first_word_scores(T(name)) for name in ("moon-lake", "moon-cake"))
claim("no-look-ahead", (one - other).abs().max().item(), at_most=1e-4)

# %% [markdown] lang="en" partner="e176c073"
# Two sentences with the same first word. The last claim shows what a causal backbone cannot do: the tag of that word is
# given before the next one is read. An encoder would see both. The remedy that costs nothing is in use above: the label
# stands at the last piece of a word, where the model has at least read the whole word.

# %% [markdown] lang="zh" partner="1fdb0178"
# 两个句子的第一个词相同；最后这条断言说明了因果主干做不到什么：下一个词还没读到，前一个词的标签就定了。编码器则两边都看得到。
# 不花代价的补救，上面已经用了：标签放在词的最后一个词元上，到那里，模型至少读完了这个词。

# %% [markdown] lang="en" partner="db871097"
# ## Step 5 · Generation: write an itinerary
#
# Here the label is the text itself. No new head: the request is the user's turn, the plan is the assistant's, and the
# mask of lesson 01 does the rest.

# %% [markdown] lang="zh" partner="7de3a60f"
# ## 第 5 步 · 文本生成：写行程
#
# 这里标签就是文本本身。不需要新的头：要求放在用户那一轮，行程放在助手那一轮，其余交给第 01 课的掩码。

# %%
plans = data.load("itineraries", LANG, "train", seed=course.seed)
plan_rows = chat.encode_pairs(tokenizer, plans, prompt="request", response="plan")
planner = copy.deepcopy(base)
losses["generation"] = training.fit(planner, plan_rows, steps=80, batch_size=4, lr=2e-3, seed=course.seed).final

# %%
wishes, drawn, written = list(data.load("itineraries", LANG, SPLIT)), fresh("itineraries", 40), {}
for name, rows in (("model", wishes), ("generated", drawn)):
    written[name] = chat.reply(planner, tokenizer, [row["request"] for row in rows], max_new_tokens=170)
for row, plan in list(zip(wishes, written["model"], strict=True))[:3]:
    print("▸", row["request"], plan, sep="\n")


# %%
def bleu(texts, rows):
    """How many of a plan's word sequences stand in the reference, less a penalty for short plans; from 0 to 1."""
    return metrics.bleu(texts, [row["plan"] for row in rows], LANG) / 100


always = plans[0]["plan"]  # whatever was asked for
scores["generation"] = {
    "model": bleu(written["model"], wishes),
    "baseline": bleu([always] * len(wishes), wishes),
    "generated": bleu(written["generated"], drawn),
    "generated_baseline": bleu([always] * len(drawn), drawn),
}
print(T("two-sets").format(**scores["generation"]))
claim("plans-generated", scores["generation"]["generated"] - scores["generation"]["generated_baseline"], at_least=0.02)
claim("bleu-of-nothing", scores["generation"]["baseline"], at_least=0.1)

# %% [markdown] lang="en" partner="3be7b2e6"
# Take the look that the metric cannot take. The form is there: days, parts of the day, mostly one line each. Now and
# then a phrase repeats itself or the days are miscounted, and the places are often not those that were asked for.
# And BLEU hardly notices: it counts shared sequences of words, the labels of the lines are the same in every plan,
# and one plan that ignores all requests gets a good part of the score. For facts, count facts:

# %% [markdown] lang="zh" partner="4be6bb8d"
# 指标看不到的，自己看一眼。形式大致有了：第几天、什么时段，多半一行一句；有时重复半句话，天数也不一定对。地点却常常不是要求的那些。
# BLEU 几乎察觉不到：它数的是相同的词串，而每份行程的行首标签都一样，一份无视一切要求的行程也能拿到不少分。要看事实，就去数事实：


# %%
def places_kept(texts, rows):
    """Share of the places asked for that the plan names."""
    hits = [world.place(p).name(LANG) in text for text, row in zip(texts, rows, strict=True) for p in row["places"]]
    return metrics.mean(hits)


kept = {name: places_kept(written[name], rows) for name, rows in (("model", wishes), ("generated", drawn))}
kept["nothing"] = places_kept([always] * len(wishes), wishes)
print(T("places-kept").format(**kept))
claim("places-kept", kept["model"], at_most=0.5)

# %% [markdown] lang="en" partner="b3c0402f"
# ## Step 6 · Dialogue: only what the assistant says
#
# A dialogue has several turns, and "And on Sunday?" means nothing without the turns before. The chat template turns the
# whole talk into one row. Every answer of the assistant is trained on, the guest's words never, all in one pass.

# %% [markdown] lang="zh" partner="931d5aaf"
# ## 第 6 步 · 对话：只学助手说的话
#
# 对话有好几轮，一句“那星期天呢？”离开上文就没有意义。对话模板把整段对话拼成一行。助手的每次回答都参与训练，游客的话从不参与，
# 一次前向就全部算完。


# %%
def conversation(row):
    """The messages of a dialogue, as the chat template takes them."""
    return [{"role": message["role"], "content": message["content"]} for message in row["messages"]]


dialogues = data.load("dialogues", LANG, "train", seed=course.seed)
dialogue_rows = [chat.encode(tokenizer, conversation(row)) for row in dialogues]
chat.show_mask(tokenizer, dialogue_rows[0])

# %% [markdown] lang="en" partner="9b83d538"
# ### The mask inspector
#
# This mask is worth a check of its own, since a wrong one trains without an error. The mask can be empty. The labels can
# be shifted by hand. The stop token of an answer can be without a label, so that the model never learns to stop.

# %% [markdown] lang="zh" partner="a07d022c"
# ### 掩码检查器
#
# 这个掩码值得专门检查，因为它出了错，训练照样不报错：掩码是空的；标签被手动错开了一位；回答的结束符没有标签，
# 模型于是永远学不会停。


# %%
def check_mask(row):
    """Raises ValueError where an encoded conversation would teach the wrong thing, or nothing."""
    ids, labels = row["input_ids"], row["labels"]
    trained = [i for i, label in enumerate(labels) if label != chat.IGNORED]
    if not trained:
        raise ValueError(T("error-empty"))
    if any(labels[i] != ids[i] for i in trained):
        raise ValueError(T("error-shifted"))
    ends = [i for i in trained if i + 1 == len(ids) or labels[i + 1] == chat.IGNORED]  # where an answer ends
    if any(ids[i] != stop for i in ends):
        raise ValueError(T("error-endless"))


for row in [*plan_rows, *dialogue_rows]:
    check_mask(row)

# %%
ids, labels = dialogue_rows[0]["input_ids"], dialogue_rows[0]["labels"]
faulty = {
    "empty": [chat.IGNORED] * len(ids),
    "shifted": [*labels[1:], chat.IGNORED],
    "endless": [label if label != stop else chat.IGNORED for label in labels],
}
for name, wrong in faulty.items():
    try:
        check_mask({"input_ids": ids, "labels": wrong})
    except ValueError as error:
        print(f"{T('mask-' + name)}: {error}")

# %%
spoken = [sum(message["role"] == "assistant" for message in row["messages"]) for row in dialogues]
stops = [sum(label == stop for label in row["labels"]) for row in dialogue_rows]
claim("stop-trained", stops == spoken, equals=True)
share = sum(label != chat.IGNORED for row in dialogue_rows for label in row["labels"])
claim("mask-share", share / sum(len(row["labels"]) for row in dialogue_rows), between=(0.2, 0.6))

# %%
clerk = copy.deepcopy(base)
losses["dialogue"] = training.fit(clerk, dialogue_rows, steps=90, batch_size=4, lr=1.5e-3, seed=course.seed).final


# %%
def turns(rows):
    """Each answer that must state a fact: the talk up to there, and the value."""
    found = []
    for row in rows:
        for number, expected in enumerate(row["expect"]):
            if expected["value"]:
                talk = conversation(row)[: 2 * number + 1]
                talk = tokenizer.apply_chat_template(talk, tokenize=False, add_generation_prompt=True)
                found.append((talk, expected["value"]))
    return found


# %%
def facts_told(model, rows):
    """Share of the answers that hold the value."""
    talks, values = zip(*turns(rows), strict=True)
    replies = chat.complete(model, tokenizer, list(talks), max_new_tokens=32)
    return metrics.mean([value.lower() in reply.lower() for reply, value in zip(replies, values, strict=True)])


# %%
talks, drawn = data.load("dialogues", LANG, SPLIT), fresh("dialogues", 50)
shown = turns(talks)[:3]
for (talk, value), reply in zip(shown, chat.complete(clerk, tokenizer, [talk for talk, _ in shown]), strict=True):
    print(talk.split("user\n")[-1].split(chat.IM_END)[0], "▸", reply, f"({value})")
commonest = Counter(value for _, value in turns(dialogues)).most_common(1)[0][0]
scores["dialogue"] = {
    "model": facts_told(clerk, talks),
    "baseline": metrics.mean([value == commonest for _, value in turns(talks)]),
    "generated": facts_told(clerk, drawn),
    "generated_baseline": metrics.mean([value == commonest for _, value in turns(drawn)]),
}
print(T("two-sets").format(**scores["dialogue"]))

# %%
claim("talk-generated", scores["dialogue"]["generated"] - scores["dialogue"]["generated_baseline"], at_least=0.4)
claim("talk-hand", scores["dialogue"]["model"] - scores["dialogue"]["baseline"], at_least=0.1)

# %% [markdown] lang="en" partner="19b060c3"
# Here is what carries over: the base has read the facts of these answers in its articles, and it has read dialogues.
# Hand-written questions are harder, but a good part of the answers hold the right value.
#
# ## Step 7 · Five tasks, one picture
#
# The dots are your run. The bands are five seeds (`make experiments`), the bars the baselines.

# %% [markdown] lang="zh" partner="b5762c5f"
# 这里看得到什么能迁移过来：这些回答里的事实，基座在文章里读到过；对话这种形式，基座也读过。手写的问题更难，
# 但仍有相当一部分回答说对了。
#
# ## 第 7 步 · 五种任务，一张图
#
# 圆点是你这次运行的结果，色带是五个种子的范围（`make experiments`），竖线是基线。

# %% tags=["stored"]
import json

import matplotlib.pyplot as plt

from tunelab import figures
from tunelab.paths import course_file

stored = json.loads(course_file("assets", "results", "lesson_02.json").read_text(encoding="utf-8"))
runs = [run for run in stored["runs"] if run["lang"] == LANG]


# %% tags=["stored"]
def draw(ax, name, floor):
    """Bands of the seeds, this run's dots and the baselines of all tasks."""
    values = [[run["scores"][task][name] for run in runs] for task in scores]
    bands, dots = [(min(v), max(v)) for v in values], [scores[task][name] for task in scores]
    labels = [T(f"task-{task}") for task in scores]
    figures.dot_on_band(ax, labels, bands, dots, band_label=T("five-seeds"), dot_label=T("this-run"))
    for row, task in enumerate(scores):
        ax.vlines(scores[task][floor], row - 0.35, row + 0.35, color="#333333", linewidth=2)


# %% tags=["stored"]
fig, (left, right) = plt.subplots(1, 2, figsize=(8.4, 3.4), sharey=True)
draw(left, "generated", "generated_baseline")
draw(right, "model", "baseline")
left.set(xlabel=T("score-generated"), xlim=(-0.03, 1.03))
right.set(xlabel=T("score-by-hand"), xlim=(-0.03, 1.03))
right.get_legend().remove()
figures.show(fig, alt=T("alt-tasks"))


# %% tags=["stored"]
def least(name, floor):
    """By task, the smallest lead over the baseline: five seeds in each language."""
    leads = {
        task: [run["scores"][task][name] - run["scores"][task][floor] for run in stored["runs"]] for task in scores
    }
    return {task: min(values) for task, values in leads.items()}


generated_leads = least("generated", "generated_baseline")
lead_of_plans = generated_leads.pop("generation")
claim("four-beat-generated", min(generated_leads.values()), at_least=0.05)
claim("plans-ahead", lead_of_plans, between=(0.02, 0.05))
claim("two-beat-by-hand", min(least("model", "baseline")[task] for task in ("entities", "dialogue")), at_least=0.05)
behind = [run["scores"]["qa"]["model"] - run["scores"]["qa"]["baseline"] for run in stored["runs"]]
claim("qa-behind-by-hand", max(behind), at_most=0)
reviews_ahead, plans_ahead = (
    [run["scores"][task]["model"] - run["scores"][task]["baseline"] for run in stored["runs"] if run["lang"] in langs]
    for task, langs in (("classification", ("en",)), ("generation", ("en", "zh")))
)
claim("reviews-by-hand", max(reviews_ahead), at_most=0.05)
claim("plans-by-hand", sum(lead >= 0.05 for lead in plans_ahead), at_most=2)

# %% [markdown] lang="en" partner="b3b2bc9c"
# Before the runs we set a margin: five points above the baseline. On rows from the generator four tasks keep it with every
# seed and in both languages. Plans are ahead in every run too, but once by less than the margin, so we claim no five points there.
# On rows written by people two tasks keep it: entities and dialogue. Classification does in Chinese, if barely, and in no
# English run; plans do in hardly any; and question answering is behind its constant answer every time. We had hoped for
# five. The engine is small and has read one book; a new gearbox does not change that.

# %% [markdown] lang="zh" partner="cdc848e7"
# 运行之前，我们定好了一条线：要比基线高出五个百分点。在生成器抽出的数据上，四种任务在两种语言、每个种子上都过了线。写行程也次次领先，
# 但有一次的差距低于这条线，所以这里不能说“高出五个百分点”。在人写的数据上，只有两种做到了：命名实体识别和对话；分类在中文上勉强过线，在英文上一次也没有；写行程几乎没有过线的；问答则每一次都不如固定的答案。我们原本希望五种都行。引擎小，又只读过一本书，换个变速箱改变不了这一点。

# %% [markdown] lang="en" partner="2dad938a"
# ## Step 8 · Five methods on one task
#
# Back to the reviews, since there the methods can be compared cleanly. `pay` trains and writes the bill: how many
# numbers move, how many bytes they take in a file, the predicted peak of memory for a batch with the longest row
# (lesson 03 checks such predictions for full, LoRA and head), and seconds of processor time a step.

# %% [markdown] lang="zh" partner="d9cda77a"
# ## 第 8 步 · 一种任务，五种方法
#
# 回到点评，在这个任务上方法之间最好比较。`pay` 一边训练一边记账：训练了多少参数，存成文件多少字节，
# 内存峰值预计多少（按含最长一行的批次算，第 03 课会检验这个预计），每步花多少秒处理器时间。

# %%
import time

from safetensors.torch import save

from tunelab import accounting

bill, tuned = {}, {}


# %%
def pay(name, model, rows, steps, lr, batch_size=16, virtual=0):
    """Trains the model and enters what that costs; `virtual` tokens stand in front of each row."""
    moving = {key: weight for key, weight in model.named_parameters() if weight.requires_grad}
    longest = virtual + max(len(row["input_ids"]) for row in rows)
    memory = accounting.training_memory(model, batch=batch_size, length=longest).peak
    began = time.process_time()
    training.fit(model, rows, steps=steps, lr=lr, batch_size=batch_size, seed=course.seed)
    seconds = (time.process_time() - began) / steps
    size = len(save({key: weight.detach().clone() for key, weight in moving.items()}))
    trained = sum(weight.numel() for weight in moving.values())
    bill[name] = {"trained": trained, "bytes": size, "memory": memory, "seconds": seconds}


# %% [markdown] lang="en" partner="7cf89912"
# **Full fine-tuning.** Everything moves, blocks and head: that is how `judge` was trained in step 2. Some more steps, on a
# copy, make out its bill.

# %% [markdown] lang="zh" partner="f7ff6ed6"
# **全量微调**。块和头全都参与训练：第 2 步的 `judge` 就是这样练出来的。它还差一份账单，拿副本再走几步来记。

# %%
tuned["full"] = judge
pay("full", OneLabelARow(copy.deepcopy(judge), mood), review_rows, steps=25, lr=1e-3)

# %% [markdown] lang="en" partner="e6eb7fc1"
# **PEFT**, here LoRA: the blocks are frozen, a pair of low-rank matrices beside each linear layer moves, and the new
# head. With `TaskType.SEQ_CLS`, `peft` knows that the head is new and trains it whole.

# %% [markdown] lang="zh" partner="edf3ae08"
# **PEFT**，这里用 LoRA：各块冻结，参与训练的是每个线性层旁边的一对低秩矩阵，还有新的头。写明 `TaskType.SEQ_CLS`，`peft` 就知道头是
# 新的，会完整地训练它。

# %%
from peft import LoraConfig, TaskType, get_peft_model

config = LoraConfig(r=8, lora_alpha=32, target_modules="all-linear", task_type=TaskType.SEQ_CLS)
tuned["lora"] = get_peft_model(with_head(AutoModelForSequenceClassification, num_labels=2), config)
pay("lora", OneLabelARow(tuned["lora"], mood), review_rows, steps=50, lr=5e-3)

# %% [markdown] lang="en" partner="31e8fdc8"
# **Transfer learning** in its narrow sense: the backbone computes features and stays as it is, only the new head learns.
# No gradient has to travel through the blocks at all.

# %% [markdown] lang="zh" partner="6fdf0653"
# **迁移学习**（狭义）：主干只管算特征，保持原样，只有新的头在学。梯度根本不用穿过那些块。

# %%
tuned["head"] = with_head(AutoModelForSequenceClassification, num_labels=2)
tuned["head"].model.requires_grad_(False)  # the blocks; what is left is the head
pay("head", OneLabelARow(tuned["head"], mood), review_rows, steps=50, lr=1e-2)

# %% [markdown] lang="en" partner="0bb6a0dd"
# **Prompts**: two different things share the word. *Writing* a prompt trains nothing: somebody finds words that make
# the model do the job. Let us try, with wordings that serve large chat models well.

# %% [markdown] lang="zh" partner="447c6145"
# **提示**：同一个词指两件不同的事。*写提示词*什么都不训练：由人找到合适的措辞，让模型照办。下面用几种在大型对话模型上很管用的说法试一试。

# %%
wordings = {split: defaultdict(list) for split in ("train", "test")}
for split in wordings:
    for row in data.load("instructions", LANG, split):
        wordings[split][row["task"]].append(row["instruction"])


def asked(texts, given):
    """Each input in one of the wordings, which take turns."""
    return [texts[i % len(texts)].replace("{input}", one) for i, one in enumerate(given)]


some = wordings["train"]["classification"][:3]
replies = chat.reply(base, tokenizer, asked(some, [generated[0]["text"]] * len(some)))
for wording, reply in zip(some, replies, strict=True):
    print(" ".join(wording.replace("{input}", "…").split()), "▸", reply)

# %% [markdown] lang="en" partner="889179f8"
# The base chats on. A written prompt works as far as the model has learnt to obey one, and this base has not.
#
# **Prompt tuning** trains. A few *virtual tokens*, vectors that belong to no word, stand in front of each text, and the
# gradient moves them. The blocks stay frozen. Here they start from the embeddings of real words. (We let a head score
# every token and give the last one the label: exhibit 3 tells why.)

# %% [markdown] lang="zh" partner="2f089e3a"
# 基座自顾自地聊。写提示词管不管用，取决于模型有没有学过听从指令，而这个基座没学过。
#
# **提示微调**则是训练：在每段文本前面放几个*虚拟词元*，也就是不属于任何词的向量，由梯度来调整它们，各块保持冻结。这里用真实词语的嵌入
# 作为起点。（这里让头给每个词元打分，只有最后一个带标签，原因见展品三。）

# %%
from peft import PromptTuningConfig, PromptTuningInit
from torch.nn.functional import pad

VIRTUAL = 16
config = PromptTuningConfig(
    task_type=TaskType.TOKEN_CLS,
    num_virtual_tokens=VIRTUAL,
    prompt_tuning_init=PromptTuningInit.TEXT,
    prompt_tuning_init_text=T("soft-start"),
    tokenizer_name_or_path=base.name_or_path,
)
tuned["prompt"] = get_peft_model(with_head(AutoModelForTokenClassification, num_labels=2), config)
in_front = OneLabelARow(tuned["prompt"], lambda labels: {"labels": pad(labels, (VIRTUAL, 0), value=chat.IGNORED)})
pay("prompt", in_front, review_rows, steps=60, lr=2e-2, virtual=VIRTUAL)


# %%
def last_moods(model, rows):
    """The mood at the last token of each review, behind the soft prompt."""
    examples = [encode_review(row) for row in rows]
    logits = [row for out in outputs(model, examples) for row in out.logits]  # each (VIRTUAL + tokens, 2)
    ends = [VIRTUAL + len(example["input_ids"]) - 1 for example in examples]
    return [MOODS[row[end].argmax()] for row, end in zip(logits, ends, strict=True)]


judged = scores["classification"]  # in step 2
results = {"full": {"generated": judged["generated"], "hand": judged["model"]}}
classes = ("full", "lora", "head", "prompt")
for name in classes[1:]:
    model = tuned[name]
    judged_by = last_moods if name == "prompt" else moods
    results[name] = {
        "generated": share_right(judged_by(model, generated), generated),
        "hand": share_right(judged_by(model, by_hand), by_hand),
    }

# %% [markdown] lang="en" partner="1ad08dbf"
# ## Step 9 · Instruction tuning: one model for all five
#
# The fifth method does not choose other parameters, it chooses another *training set*: every task becomes text, with an
# instruction around it that says what to do. One model, its own head, all five tasks. Six wordings a task are trained on,
# two are kept away.

# %% [markdown] lang="zh" partner="1e738e77"
# ## 第 9 步 · 指令微调：一个模型做五件事
#
# 第五种方法变的不是参数，而是*训练集*：每种任务都写成文本，再配上一句指令说明要做什么。一个模型，用它自己的头，五种任务全包。每种任务用
# 六种说法训练，另留两种不让它见到。

# %%
WORDS = {"negative": T("word-negative"), "positive": T("word-positive")}


def listed(row):
    """The mentions of a sentence, one a line, with their kinds."""
    return "\n".join(f"{m['label']}: {row['text'][m['start'] : m['end']]}" for m in row["spans"]) or "-"


AS_TEXT = {
    "classification": lambda row: (row["text"], WORDS[row["label"]]),
    "qa": lambda row: (f"{row['context']}\n{row['question']}", row["answer"]["text"]),
    "generation": lambda row: (row["request"], row["plan"]),
    "entities": lambda row: (row["text"], listed(row)),
    "dialogue": lambda row: tuple(message["content"] for message in row["messages"][:2]),
}

# %%
shelves = {"classification": reviews, "qa": passages, "generation": plans, "entities": labelled, "dialogue": dialogues}
shelves = {task: list(rows) for task, rows in shelves.items()}
rng, mixed = Random(course.seed), []
for _ in range(800):
    task = rng.choice(list(shelves))
    given, wanted = AS_TEXT[task](rng.choice(shelves[task]))
    wording = rng.choice(wordings["train"][task]).replace("{input}", given)
    mixed.append(chat.encode(tokenizer, [*chat.prompt(wording), {"role": "assistant", "content": wanted}]))
for row in mixed:
    check_mask(row)

# %%
tuned["instruction"] = copy.deepcopy(base)
pay("instruction", tuned["instruction"], mixed, steps=200, lr=2e-3, batch_size=4)

# %%
trials = {"classification": generated[:30], "qa": fresh("passage_questions", 30)}
trials |= {
    "generation": fresh("itineraries", 12),
    "entities": fresh("entities", 30),
    "dialogue": fresh("dialogues", 30),
}


# %%
def mark(task, reply, wanted, row):
    """How good a reply is, from 0 to 1."""
    if task == "dialogue":
        return float(row["expect"][0]["value"].lower() in reply.lower())
    if task == "generation":
        return metrics.bleu([reply], [wanted], LANG) / 100
    if task == "entities":
        mine, theirs = (Counter(text.splitlines()) for text in (reply, wanted))
        return 2 * (mine & theirs).total() / (mine.total() + theirs.total())
    return float(metrics.exact_match(reply, wanted))


# %%
def obeys(model, splits):
    """Mean marks by split and task, the trials asked in the wordings of each split in turn; and the replies."""
    means, replies = defaultdict(dict), defaultdict(dict)
    for task, rows in trials.items():
        given, wanted = zip(*map(AS_TEXT[task], rows), strict=True)
        questions = [question for split in splits for question in asked(wordings[split][task], given)]
        said = chat.reply(model, tokenizer, questions, max_new_tokens=150 if task == "generation" else 48)
        for number, split in enumerate(splits):
            replies[split][task] = said[number * len(rows) : (number + 1) * len(rows)]
            marked = zip(replies[split][task], wanted, rows, strict=True)
            means[split][task] = metrics.mean([mark(task, *three) for three in marked])
    return means, replies


# %% [markdown] lang="en" partner="284d19ba"
# How would one see that the instruction is *read*? Good marks do not show it: a review looks like a review, and whoever
# has seen the text can guess what is wanted. Wordings never seen do not show it either, for the same reason. So the same
# inputs are asked a third time, bare, without any instruction.

# %% [markdown] lang="zh" partner="6b3e5597"
# 怎样才看得出指令真的被*读*了？得分高说明不了：点评一看就是点评，看过文本就猜得到要做什么。换成没见过的说法也说明不了，道理一样。
# 所以同样的输入再问第三遍：光给输入，不给任何指令。

# %%
wordings["none"] = {task: ["{input}"] for task in trials}  # the bare input, without a word about what is wanted
marks, replies = obeys(tuned["instruction"], ("train", "test", "none"))
known, unseen, bare = marks.values()
for task, said in replies["test"].items():
    print(f"{T('task-' + task)} ▸ {said[0].splitlines()[:2]}")
print(T("mean-marks"))
for task in known:
    print(f"{T('task-' + task)}: {known[task]:.2f} · {unseen[task]:.2f} · {bare[task]:.2f}")

# %%
average = {
    name: metrics.mean(list(found.values())) for name, found in (("known", known), ("unseen", unseen), ("bare", bare))
}
claim("instructions-known", average["known"], at_least=0.2)
claim("instructions-unseen", average["unseen"] / average["known"], at_least=0.6)
claim("instructions-bare", average["known"] - average["bare"], at_most=0.1)

# %% [markdown] lang="en" partner="5c738b23"
# On average the marks are about as high with no instruction at all. So they say that five tasks have been learnt to some
# degree, and nothing about obedience. (They are low, too: each task has had only its share of the steps.)
#
# The clean test is **one input, two instructions**. Reviews are asked for their mood and for their entities, and so are
# the sentences of step 4. What we count is the form of the reply: one of the two mood words, or lines with labels. A
# model that looks at the text alone gives one form to each text, so over the four lines it cannot exceed one half.

# %% [markdown] lang="zh" partner="486b141a"
# 一句指令都不给，平均得分也差不多。可见这些分数只说明五种任务多少学会了一点，和听不听指令无关。（分数也不高：步数由五种任务平分。）
#
# 最干净的检验是：**同一个输入，两种指令**。点评既拿来判断好评差评，也拿来找实体；第 4 步的句子也一样。数的是回答的形式：是那两个词之一，
# 还是一行行带标签的实体。只看文本的模型，对一段文本只有一种形式，所以四行平均下来不会超过一半。


# %%
def form(reply):
    """What a reply looks like: an answer to "classification", to "entities", or None."""
    if reply in WORDS.values():
        return "classification"
    lines = reply.splitlines()
    return "entities" if lines and all(line == "-" or line.split(":")[0] in KINDS for line in lines) else None


def crossed(model, split):
    """The texts of two tasks with the wordings of either: share of the replies that have the form asked for."""
    questions = {}
    for given, task in itertools.product(("classification", "entities"), repeat=2):
        questions[given, task] = asked(wordings[split][task], [row["text"] for row in trials[given]])
    forms = map(form, chat.reply(model, tokenizer, list(itertools.chain(*questions.values()))))
    return {
        f"{given} > {task}": metrics.mean([found == task for found in itertools.islice(forms, len(texts))])
        for (given, task), texts in questions.items()
    }


# %%
cross = {split: crossed(tuned["instruction"], split) for split in ("train", "test")}
for pair in cross["train"]:
    given, task = (T(f"task-{name}") for name in pair.split(" > "))
    print(T("crossed").format(given=given, task=task, known=cross["train"][pair], unseen=cross["test"][pair]))
form_kept = {split: metrics.mean(list(shares.values())) for split, shares in cross.items()}
claim("two-instructions", form_kept["train"], at_least=0.65)
claim("two-instructions-unseen", form_kept["train"] - form_kept["test"], at_least=0.1)


# %% tags=["stored"]
def over(marks):
    """The mean of a dictionary's values."""
    return metrics.mean(list(marks.values()))


claim("seeds-bare", max(over(run["known"]) - over(run["bare"]) for run in stored["runs"]), at_most=0.1)
claim("seeds-two-instructions", min(over(run["cross"]["train"]) for run in stored["runs"]), at_least=0.65)
lost = [over(run["cross"]["train"]) - over(run["cross"]["test"]) for run in stored["runs"]]
claim("seeds-two-instructions-unseen", min(lost), at_least=0.1)


# %%
def told(model, rows, split):
    """The mood that the instruction-tuned model names, asked in the wordings of a split; None for anything else."""
    names = {word: name for name, word in WORDS.items()}
    questions = asked(wordings[split]["classification"], [row["text"] for row in rows])
    return [names.get(reply) for reply in chat.reply(model, tokenizer, questions, max_new_tokens=8)]


results["instruction"] = {
    "generated": share_right(told(tuned["instruction"], generated, "train"), generated),
    "hand": share_right(told(tuned["instruction"], by_hand, "train"), by_hand),
}

# %% [markdown] lang="en" partner="012a4900"
# So the instruction is read, where it is one of those trained on: the same text gets a different reply. With wordings
# that the model never saw, much of that is gone, and the text decides again what is done: among the replies printed
# above, which are to such wordings, not all do what was asked. The marks hid much of the difference, since the text
# alone is often enough. Six wordings on a small base teach six wordings. For instructions that anybody may word, models
# are tuned on hundreds of tasks, and they are far larger.
#
# ## The bill
#
# Which blocks move? The picture is drawn from `requires_grad`, not from memory: grey is frozen, orange moves, a stripe is
# a pair of LoRA matrices beside a frozen block.

# %% [markdown] lang="zh" partner="8eb5367b"
# 可见只要是训练用过的说法，指令确实被读了：同一段文本，回答跟着指令变。换成没见过的说法，这种本领就丢了不少，做什么又由文本说了算：
# 上面打印的回答对应的就是这些说法，并不是每一条都照办了。得分把这个差别掩盖了大半，因为光看文本往往就够了。六种说法、一个小基座，
# 学会的就是这六种说法。要让人随便怎么说都听得懂，得用几百种任务来调，模型也要大得多。
#
# ## 账单
#
# 哪些块在训练？下图是根据 `requires_grad` 画的，不是凭印象：灰色是冻结的，橙色是参与训练的，条纹是冻结的块旁边的一对 LoRA 矩阵。

# %%
import matplotlib.pyplot as plt

from tunelab import figures

DEPTH = base.config.num_hidden_layers
PARTS = ["prompt", "embeddings", *range(DEPTH), "head"]


def part(name):
    """Which part of the model a parameter belongs to; the last norm counts with the last block."""
    if found := re.search(r"layers\.(\d+)", name):
        return int(found[1])
    names = {"prompt_encoder": "prompt", "embed_tokens": "embeddings", "norm": DEPTH - 1, "score": "head"}
    return next(owner for key, owner in names.items() if key in name)


# %%
def moving(model):
    """By part, the share of its numbers that move."""
    total, trained = Counter(), Counter()
    for name, weight in model.named_parameters():
        if "original_module" not in name:  # peft keeps the untrained head beside the trained one
            total[part(name)] += weight.numel()
            trained[part(name)] += weight.numel() * weight.requires_grad
    return {name: trained[name] / total[name] for name in total}


# %%
fig, ax = plt.subplots(figsize=(8, 3.2))
for y, model in enumerate(tuned.values()):
    shares = moving(model)
    shares.setdefault("head", shares["embeddings"])  # the base's own head is its embedding matrix
    for x, piece in enumerate(PARTS):
        if piece in shares:
            frozen = figures.PALETTE["orange"] if shares[piece] == 1 else "#DDDDDD"
            ax.add_patch(plt.Rectangle((x - 0.42, y - 0.36), 0.84, 0.72, facecolor=frozen, edgecolor="#444444"))
        if 0 < shares.get(piece, 0) < 1:
            ax.add_patch(plt.Rectangle((x + 0.2, y - 0.36), 0.14, 0.72, facecolor=figures.PALETTE["orange"]))
ax.set_xticks(range(len(PARTS)), [T(f"part-{p}") if isinstance(p, str) else f"{T('block')} {p + 1}" for p in PARTS])
ax.set_yticks(range(len(tuned)), [T(f"method-{name}") for name in tuned])
ax.set(xlim=(-0.6, len(PARTS) - 0.4), ylim=(len(tuned) - 0.4, -0.6), xlabel=T("parts"))
ax.grid(visible=False)
figures.show(fig, alt=T("alt-frozen"))

# %%
from IPython.display import Markdown

header = "| | " + " | ".join(
    T(f"column-{name}") for name in ("trained", "bytes", "memory", "seconds", "generated", "hand")
)
lines = [header + " |", "|---|---:|---:|---:|---:|---:|---:|"]
for name, cost in bill.items():
    memory, seconds = (cost[key] / bill["full"][key] for key in ("memory", "seconds"))
    numbers = f"{cost['trained']:,} | {cost['bytes']:,} | {memory:.0%} | {seconds:.0%}"
    lines.append(
        f"| {T('method-' + name)} | {numbers} | {results[name]['generated']:.0%} | {results[name]['hand']:.0%} |"
    )
Markdown("\n".join(lines))

# %%
width = base.config.hidden_size
shapes = [layer.weight.shape for layer in base.model.modules() if isinstance(layer, torch.nn.Linear)]
claim("lora-numbers", bill["lora"]["trained"], equals=accounting.lora_parameters(shapes, 8) + 2 * width)
claim("prompt-numbers", bill["prompt"]["trained"], equals=VIRTUAL * width + 2 * (width + 1))
claim("methods-learn", min(results[name]["generated"] for name in classes), at_least=0.75)
claim("methods-by-hand", max(results[name]["hand"] for name in classes), at_most=0.65)

# %% [markdown] lang="en" partner="b9313379"
# The bytes are those of the numbers that move, and these two columns differ by far more than the others. The scores on
# generated reviews differ much less, and on reviews by hand no method helps: where the engine is too weak, the choice
# of a method does not matter. (The instruction model saw fewer reviews, in batches a quarter as large of longer rows:
# compare its seconds and memory with that in mind.)
#
# ### "Prompt tuning costs least"
#
# In what?

# %% [markdown] lang="zh" partner="1d5c5a4e"
# 字节数只算动过的部分；参数量和字节这两列，相差比其他各列都大得多。在生成的点评上，得分的差距就小了；在人写的点评上，
# 哪种方法都帮不上忙：引擎太弱的时候，选什么方法都不要紧。（指令模型见到的点评更少，批大小只有四分之一，每行却更长：比较它的秒数和内存时要记得这一点。）
#
# ### “提示微调成本最低”
#
# 哪一种成本？

# %%
prompt, lora, head, full = (bill[name] for name in ("prompt", "lora", "head", "full"))
claim("lora-file", lora["bytes"] / full["bytes"], at_most=0.1)
claim("prompt-file", prompt["bytes"] / lora["bytes"], at_most=0.1)
claim("article-prompt-cheapest-bytes", prompt["bytes"] / head["bytes"], at_most=1, expected=False)
claim("article-prompt-cheapest-memory", prompt["memory"] / head["memory"], at_most=1, expected=False)
claim("prompt-memory", prompt["memory"] / lora["memory"], at_most=1)
claim("prompt-no-faster", prompt["seconds"] / full["seconds"], at_least=0.5)
claim("head-cheapest", max(head[key] / min(lora[key], full[key], prompt[key]) for key in head), at_most=0.6)

# %% tags=["stored"]
costs = [run["methods"] for run in stored["runs"]]
claim("prompt-seconds", max(cost["prompt"]["seconds"] / cost["lora"]["seconds"] for cost in costs), at_most=1)

# %% [markdown] lang="en" partner="98879b9b"
# Against LoRA, in the file, by far, and a little in memory and time. Against everything, no. To reach the virtual
# tokens the gradient has to pass through every block, and the prompt has made the texts longer. Cheapest by every
# measure here is the method called "simple": the new head, since no gradient enters the blocks. What prompt tuning
# saves is storage: thousands of tasks on one base. And it wants a large base, as lesson 04 shows.
#
# The other lines of the table: *full is good and expensive*: it learns what the others learn, and is dearest in
# bytes, and in memory where the rows are the same. *PEFT is efficient*: in bytes and memory; a step takes about as
# long. *Instruction tuning follows instructions*: here, those it was trained on. And it says nothing about how many
# parameters move; one can do it with LoRA.

# %% [markdown] lang="zh" partner="98b20c65"
# 和 LoRA 比，文件确实小得多，内存和每步的时间也略省。说它样样最低，却不对：梯度要到达虚拟词元，必须穿过每一个块，
# 而文本又因为提示变长了。这里各项都最便宜的，是那个“简单”的方法：只训练新的头，因为梯度根本不进那些块。提示微调省的是存储：
# 一个基座可以带成千上万个任务。而且它需要大的基座，第 04 课会看到。
#
# 其余几行：*全量微调性能好、成本高*：别的方法学得会的，它也学得会；字节最多，数据相同时内存也最多。*PEFT 效率高*：省在字节和内存上，每一步的时间差不多。
# *指令微调让模型听指令*：在这里，只听训练用过的那些。它也没有规定动多少参数，用 LoRA 同样能做指令微调。

# %% [markdown] lang="en" partner="11f867ab"
# ## Step 10 · The same reviews, a real encoder
#
# MiniLM has read real English. It is far larger than our base, and, what matters more, its text was written by people. It
# is English only, so this step uses English reviews in both editions. LoRA is trained on two hundred of the hand-written
# reviews, in five draws, and judged on the test reviews (`make experiments`, since one run takes more than a minute).
# Beside it, two rivals without any fine-tuning: bags of words, and MiniLM's own frozen embeddings, each with logistic
# regression.

# %% [markdown] lang="zh" partner="0359190c"
# ## 第 10 步 · 同样的点评，换一个真正的编码器
#
# MiniLM 读过真实的英语：它比我们的基座大得多，更要紧的是，它读的文字是人写的。它只懂英语，所以两个语言版本的这一步都用英文点评。
# 用 LoRA 在二百条手写点评上微调，抽样五次，在测试点评上评测（一次要一分多钟，所以放在 `make experiments` 里）。旁边放两个不做微调的
# 对手：词袋，以及 MiniLM 自己的冻结句向量，各配一个逻辑回归。

# %% tags=["stored"]
minilm = stored["minilm"]
ours = [run["scores"]["classification"]["model"] for run in stored["runs"] if run["lang"] == "en"]
rows = {"ours": (metrics.mean(ours), min(ours), max(ours))}
rows |= {name: tuple(minilm[name].values()) for name in ("bag_of_words", "frozen", "lora")}
fig, ax = plt.subplots(figsize=(6.4, 2.8))
means, *ends = zip(*rows.values(), strict=True)
figures.bars_with_intervals(ax, [T(f"encoder-{name}") for name in rows], means, list(zip(*ends, strict=True)))
ax.axvline(0.5, linestyle="--", color="#444444", linewidth=1)
ax.set(xlabel=T("accuracy-by-hand"), xlim=(0, 1.1))
figures.show(fig, alt=T("alt-minilm"))

# %% tags=["stored"]
for name in ("bag_of_words", "frozen"):
    print(T("difference").format(name=T(f"encoder-{name}"), **minilm[f"lora_minus_{name}"]))
claim("minilm-over-ours", minilm["lora"]["mean"] - rows["ours"][0], at_least=0.1)
claim("minilm-over-words", minilm["lora_minus_bag_of_words"]["mean"], at_least=0.02)
claim("minilm-in-doubt", minilm["lora_minus_bag_of_words"]["low"], at_most=0.01)
claim("minilm-short-of-eight", minilm["lora_minus_bag_of_words"]["mean"], at_most=0.08)
claim("frozen-no-better", minilm["frozen"]["mean"] - minilm["bag_of_words"]["mean"], at_most=0)

# %% [markdown] lang="en" partner="2e636f51"
# (The line of the travel base spans five seeds; the others are 95 % intervals over the test reviews.) Same task, rows
# of the same kind: with a pre-training that fits, fine-tuning works. But look at the rivals. Bags of words come
# close. Before the runs we had asked for a lead of eight points over them; on average it is smaller, and its interval
# begins next to zero; perhaps because two hundred rows, many of them dry humour, teach little. The frozen vectors do no better than the
# words. They were trained to bring texts of one *topic* together, and mood is another matter. That is what LoRA had
# to learn.
#
# Two settings were fixed beforehand, and what others would have done is not measured here. A review's vector is the
# mean of its token vectors, as MiniLM's makers take it, not the output of the *pooler*, on which the stock
# classification class puts its head. And the new head, which starts from random numbers, has ten times the rate of
# LoRA.

# %% [markdown] lang="zh" partner="824177fc"
# （travel-base 的横线是五个种子的范围，其余是在测试点评上的 95% 区间。）同样的任务，同一类数据：预训练对路，微调就管用。不过也要看看
# 对手。词袋追得很近。运行之前，我们要求领先词袋八个百分点；平均下来没有达到，区间的下端几乎就是零；也许是因为只有二百条，又多是冷幽默，
# 能教会的不多。冻结的句向量并不比词袋强：它当初学的是把*话题*相近的文本放在一起，而情感是另一回事，这正是 LoRA 要学的东西。
#
# 有两项设置是事先定好的，换一种会怎样，这里没有测。一条点评的向量取词元向量的平均，MiniLM 的作者就是这样用的，而不是取 *pooler* 的输出
# （现成的分类类会把头接在 pooler 上）。新的头从随机数开始，学习率是 LoRA 的十倍。

# %% [markdown] lang="en" partner="06d13b68"
# ## Step 11 · Task and method, chosen together
#
# The article's example: travel questions, LoRA, an answer in JSON. Could another pair have done it? A head cannot write,
# it only chooses among labels. The others can write. Two of them are asked here, on 34 of the test questions; for the
# others, lessons 01 and 04 have stored what five seeds reach on more of these questions.

# %% [markdown] lang="zh" partner="200ad128"
# ## 第 11 步 · 任务和方法一起选
#
# 常见的例子是：旅游问答，用 LoRA，回答写成 JSON。换一种组合行不行？头不会写字，只会在给定的标签里选。其余的都会写：有两种就在这里问，
# 用 34 道测试题；另外几种，第 01 课和第 04 课已经存下了五个种子的成绩，问的题更多。

# %%
import json

from tunelab.paths import course_file

elsewhere = {
    n: json.loads(course_file("assets", "results", f"lesson_{n}.json").read_text("utf-8")) for n in ("01", "04")
}
questions = data.load("questions", LANG, "test").select(range(0, 768, 23))
in_json = [T("in-json").format(question=question) for question in questions["question"]]
way = {"prompt-written": metrics.score_json(chat.reply(base, tokenizer, in_json), questions)}
way["instruction"] = metrics.score_json(chat.reply(tuned["instruction"], tokenizer, in_json), questions)
way = {name: {key: metrics.mean(found[key]) for key in ("valid", "answer")} for name, found in way.items()}
kinds = ("methods", "prompt", LANG)
soft_prompts = [r for r in elsewhere["04"]["runs"] if (r["part"], r.get("method"), r["lang"]) == kinds]
chosen = {"prompt": soft_prompts}
for method in ("full", "lora"):
    found = [r for r in elsewhere["01"]["runs"] if (r["method"], r["lang"]) == (method, LANG)]
    chosen[method] = [r[half] for r in found for half in ("seen", "unseen")]
way |= {
    name: {key: metrics.mean([r[key] for r in rows]) for key in ("valid", "answer")} for name, rows in chosen.items()
}

# %%
head_row = f"| {T('method-head')} | {T('cannot-write')} | | |"
lines = [
    f"| {T('way')} | {T('valid-json')} | {T('right-answers')} | {T('column-bytes')} |",
    "|---|---|---|---|",
    head_row,
]
whole = bill["instruction"]["bytes"]  # all of the language model, without a new head
sizes = {"prompt-written": 0, "instruction": whole, "full": whole}
numbers = {"lora": accounting.lora_parameters(shapes, 8), "prompt": soft_prompts[0]["trained"]}
sizes |= {name: 4 * count for name, count in numbers.items()}  # four bytes a number
for name, found in way.items():
    lines.append(f"| {T('method-' + name)} | {found['valid']:.0%} | {found['answer']:.0%} | {sizes[name]:,} |")
Markdown("\n".join(lines))

# %%
claim("json-by-asking", way["prompt-written"]["valid"], at_most=0.05)
claim("json-by-soft-prompt", max(run["valid"] for run in soft_prompts), at_most=0.05)
claim("json-by-lora", way["lora"]["valid"], at_least=0.95)
claim("lora-as-good", way["lora"]["answer"] - way["full"]["answer"], at_least=-0.05)

# %% [markdown] lang="en" partner="aa47a419"
# | you need | task form | method to try first |
# |---|---|---|
# | one of a few labels | classification | bags of words as the bar; then LoRA on an encoder |
# | a passage pointed out | extractive questions, question first | an encoder; full or LoRA |
# | a label a word | tagging, label at the last piece | LoRA or full, and varied sentences |
# | text in a fixed form (JSON) | generation, mask on the answer | LoRA |
# | many tasks in one model | instructions | instruction tuning, by LoRA where memory is short |
# | thousands of tasks, a large base | any | soft prompts or small adapters |
#
# The example's choice holds: JSON has to be *written*, the form must be trained, and LoRA reaches what full fine-tuning
# reaches with a file less than a tenth in size. The soft prompt has a far smaller file still and, begun from real
# tokens, writes no JSON on this base; lesson 04 looks for the reason and tries other starts.

# %% [markdown] lang="zh" partner="28740d1c"
# | 你需要 | 任务形式 | 先试的方法 |
# |---|---|---|
# | 几个标签里选一个 | 分类 | 先用词袋立一条线；再用 LoRA 调编码器 |
# | 指出原文在哪里 | 抽取式问答，问题在前 | 编码器；全量或 LoRA |
# | 每个词一个标签 | 序列标注，标签放在最后一个词元 | LoRA 或全量，句式要多样 |
# | 固定格式的文本（JSON） | 生成，掩码只留答案 | LoRA |
# | 一个模型做许多任务 | 指令 | 指令微调，内存紧就用 LoRA 来做 |
# | 成千上万个任务，基座又大 | 都行 | 软提示或小适配器 |
#
# 例子里的选择站得住：JSON 要*写*出来，格式必须训练，而 LoRA 达到了全量微调的水平，文件不到它的十分之一。软提示的文件还要小得多，
# 可是从真实词元出发，在这个基座上写不出 JSON；第 04 课会找原因，也会试别的起点。

# %% [markdown] lang="en" partner="999d0ac8"
# ## What should my loss be?
#
# The five seeds, mean loss of the last steps. Losses of different tasks cannot be compared: they are means over one label
# a text, two a passage, one a word, or all tokens of an answer.

# %% [markdown] lang="zh" partner="4c94d8c5"
# ## 我的损失应该是多少？
#
# 下面是五个种子最后若干步的平均损失。不同任务的损失不能互相比较：有的是每段文本一个标签，有的是每段材料两个，有的每个词一个，
# 有的是答案的所有词元，平均的对象不同。

# %% tags=["stored"]
for task in scores:
    seeds = [run["losses"][task] for run in runs]
    print(f"{T('task-' + task)}: {min(seeds):.3f} – {max(seeds):.3f} · {T('this-run')} {losses[task]:.3f}")

# %% [markdown] lang="en" partner="8111d2ef"
# ## Bug museum
#
# Three exhibits; nothing crashes. Symptom first, guess the cause before you read on.
#
# **Exhibit 1.** "Our tagger has a high accuracy." Here is one, scored word by word, and by mentions.

# %% [markdown] lang="zh" partner="0d55aa65"
# ## 错误博物馆
#
# 三件展品，程序都不报错。先看症状，猜猜原因，再往下读。
#
# **展品一**。“我们的标注模型准确率很高。”下面就有一个，按词打分和按实体打分各一次。

# %%
truth = [bio(row)[1] for row in mentions]
lazy = [["O"] * len(tags) for tags in truth]  # it finds nothing, ever
claim("lazy-accuracy", metrics.mean([tag == "O" for tags in truth for tag in tags]), at_least=0.55)
claim("lazy-f1", f1(lazy, mentions), equals=0.0)

# %% [markdown] lang="en" partner="dcd63073"
# Most words are outside every mention, so a tagger that has learnt nothing is right most of the time. *The repair*: score
# mentions (span F1), and always score the silent tagger, too.
#
# **Exhibit 2.** To save memory a colleague cuts the dialogues to a fixed length. The training runs, and its loss is a
# number like any other. What was lost?

# %% [markdown] lang="zh" partner="f0e2c5b7"
# 大多数词都在实体之外，什么都没学会的模型也大半是“对”的。*修理方法*：按实体打分（实体级 F1），并且永远给“一声不吭”的模型也打一次分。
#
# **展品二**。为了省内存，同事把对话截到固定长度。训练照跑，损失看上去也没什么异样。丢掉了什么？


# %%
def refused(row):
    """Whether the mask inspector refuses a row."""
    try:
        check_mask(row)
    except ValueError:
        return True
    return False


longer = [row for row in dialogue_rows if len(row["input_ids"]) > 64]
found = metrics.mean([refused({name: values[:64] for name, values in row.items()}) for row in longer])
claim("cut-refused", found, at_least=0.2)
claim("cut-passes", 1 - found, at_least=0.3)
claim("whole-refused", metrics.mean([refused(row) for row in dialogue_rows]), equals=0.0)

# %% [markdown] lang="en" partner="ab963d67"
# In the rows that are refused, the end of an answer is cut off, and there stands the stop token: they train the model to
# begin an answer and not to end it. The other cut rows pass: the cut falls between two answers, and the later ones are gone
# without a trace. *The repair*: drop whole turns or raise the limit, count the tokens before and after, and run the
# inspector over every row before training. (`chat.encode` cuts nothing.)
#
# **Exhibit 3.** A soft prompt in front of the stock sequence classifier. One review alone gets a score. In a batch, next
# to a longer one, it gets another.

# %% [markdown] lang="zh" partner="f3de87ff"
# 被检查器拦下的行，截掉的是回答的末尾，而结束符就在那里：这些行只教模型怎样开口，不教它怎样收尾。其余被截的行检查器查不出来：刀口
# 落在两次回答之间，后面的回答就不声不响地没了。*修理方法*：整轮整轮地删，或者放宽长度上限；截断前后各数一遍词元；训练前用检查器把
# 每一行都过一遍。（`chat.encode` 不会截断。）
#
# **展品三**。把软提示放在现成的序列分类模型前面。一条点评单独送进去，得一个分；和更长的点评放在同一批里，得另一个分。

# %%
import logging

short, long = encode_review(by_hand[0]), encode_review(by_hand[-1])
stock = PromptTuningConfig(task_type=TaskType.SEQ_CLS, num_virtual_tokens=VIRTUAL)
soft = get_peft_model(with_head(AutoModelForSequenceClassification, num_labels=2), stock)
logging.getLogger("transformers").setLevel(logging.ERROR)  # there is a warning; here it would tell the ending
shifts = {}
for name, model in (("soft", soft), ("plain", judge)):
    (alone,), (together,) = outputs(model, [short]), outputs(model, [short, long])
    shifts[name] = (alone.logits[0] - together.logits[0]).abs().max().item()
claim("reads-padding", shifts["soft"], at_least=0.01)
claim("ignores-padding", shifts["plain"], at_most=1e-3)

# %% [markdown] lang="en" partner="2ef64305"
# The classifier looks for the last token that is not padding, by its *id*. With a soft prompt it is given vectors and no
# ids, so it takes the last position, which in a padded batch is padding. *The repair*: a head that scores every token
# and a label at the right one, as above; or batches of equal length.

# %% [markdown] lang="zh" partner="1d18f16f"
# 分类模型按*编号*找最后一个不是填充符的词元。用了软提示，送进去的就只有向量，没有编号，它便取最后一个位置，而在填充过的批次里，那里正是
# 填充符。
# *修理方法*：像上面那样，让头给每个词元打分，把标签放对位置；或者每批只放等长的文本。

# %% [markdown] lang="en" partner="e1a49485"
# ## Exercises
#
# Each one checks itself. A wrong answer gets a reason, and you can try as often as you like.

# %% [markdown] lang="zh" partner="bbc3306a"
# ## 练习
#
# 每道题都会自己检查。答错了会告诉你原因，想试多少次都行。


# %% exercise="prompt_like_lora"
def prompt_like_lora(rank, shapes, hidden):
    """The most virtual tokens whose vectors hold no more numbers than LoRA of this rank on weights of these shapes."""
    # solution
    return rank * sum(out + inside for out, inside in shapes) // hidden


# %% exercise="blocks_to_move"
# Between "head only" and "full" there is a dial: let the last k blocks move, too. What is the smallest k with which at least half of
# all numbers of the classifier move? (The embeddings stay frozen.) Then train it for 50 steps and compare it with the table.
# solution
def moving_with(blocks):
    """Share of the classifier's numbers that move with the head and the last blocks."""
    model = AutoModelForSequenceClassification.from_config(models.load_lm()[0].config)
    model.model.requires_grad_(False)
    for block in model.model.layers[len(model.model.layers) - blocks :]:
        block.requires_grad_(True)
    return accounting.count(model).share


blocks_to_move = next(k for k in range(5) if moving_with(k) >= 0.5)


# %% exercise="dialogue_labels"
# A colleague wrote this. In a long talk the model soon begins to ask itself questions. Write it anew: each token has the name of its speaker.
#
#     def dialogue_labels(ids, speakers):
#         first = speakers.index("assistant")
#         return [-100] * first + ids[first:]
def dialogue_labels(ids, speakers):
    """Labels with which the model learns what the assistant says, in every turn, and nothing else."""
    # solution
    return [i if speaker == "assistant" else -100 for i, speaker in zip(ids, speakers, strict=True)]


# %% [markdown] lang="en" partner="d0d7147d"
# ## Recap
#
# - A task is a form: where the labels stand. The backbone can stay the same; a new head is a tiny part of it.
# - A causal backbone reads to the left. Question before passage, label on the last piece, verdict on the last token.
# - Compare with something that needs no model, and test on rows that people wrote. A generator's held-out set tests the generator.
# - The five "methods" are answers to different questions: which numbers move (full, LoRA, soft prompt, head), and on what
#   (instructions).
# - Whether an instruction is read is seen when one input gets two instructions. Good marks do not show it.
# - Cheap in bytes, in memory and in time are three things. The new head wins all three, where it suffices.
# - No method replaces pre-training that fits.

# %% [markdown] lang="zh" partner="8bcb3c77"
# ## 小结
#
# - 任务是一种形式：标签放在哪里。主干可以不变，新的头只占极小一部分。
# - 因果主干只往左看：问题放在材料前面，标签放在词的最后一个词元，结论放在全文的最后一个词元。
# - 要和不用模型的基线比，要在人写的数据上测。生成器的留出集考的是生成器。
# - 五种“方法”回答的不是同一个问题：训练哪些参数（全量、LoRA、软提示、头），以及用什么数据（指令）。
# - 指令有没有被读到，要用同一个输入配两种指令来检验；得分高说明不了。
# - 省字节、省内存、省时间是三回事。新的头三样都省，只要它够用。
# - 预训练不对路，什么方法都补不上。

# %% [markdown] insert="quiz"

# %% [markdown] insert="glossary"

# %% [markdown] lang="en" partner="5e18cd02"
# ## Read next
#
# - Lester and others, *The Power of Scale for Parameter-Efficient Prompt Tuning* (arXiv 2104.08691): soft prompts, and why size matters.
# - Wei and others, *Finetuned Language Models Are Zero-Shot Learners* (arXiv 2109.01652): instruction tuning.
# - Mintz and others, *Distant supervision for relation extraction without labeled data* (ACL 2009).
# - Next in this course: the bill in detail, why PEFT (lesson 03), then its methods by hand (lesson 04).
#
# Below is the ledger: each claim of this lesson, as measured in this run.

# %% [markdown] lang="zh" partner="031996ca"
# ## 延伸阅读
#
# - Lester 等，《The Power of Scale for Parameter-Efficient Prompt Tuning》（arXiv 2104.08691）：软提示，以及规模为什么重要。
# - Wei 等，《Finetuned Language Models Are Zero-Shot Learners》（arXiv 2109.01652）：指令微调。
# - Mintz 等，《Distant supervision for relation extraction without labeled data》（ACL 2009）：远程监督。
# - 本课程的下两课：细算账单，为什么要用 PEFT（第 03 课）；再亲手实现它的各种方法（第 04 课）。
#
# 最后是账本：本课的每一条说法，以及这次运行测得的结果。

# %%
from tunelab.claims import print_ledger

print_ledger()
