# %% [markdown] lang="en" partner="e0afdfb6"
# # 01 · Pre-training and fine-tuning
#
# **After this lesson you can**
# - say what a language model is trained on in pre-training and in fine-tuning, and show that the loss is the same;
# - pre-train a small Qwen-shaped model yourself and tell from its loss what it has learnt so far;
# - fine-tune a model to answer travel questions in JSON, and measure it on questions written by hand;
# - tell *knowledge* from *task*: what a model can only have from pre-training, and what fine-tuning gave it.
#
# **Before you start**: Python, and what a neural network and a loss are. No GPU, no network.
# **Time**: about 60 minutes with the exercises; the cells themselves run for about two minutes on one CPU core.
# **Memory**: 1.5 GB.

# %% [markdown] lang="zh" partner="40f2564b"
# # 01 · 预训练与微调
#
# **学完这一课，你能够**
# - 说清楚语言模型在预训练和微调时分别学什么，并亲手验证两者用的是同一个损失函数；
# - 自己预训练一个 Qwen 结构的小模型，并从损失看出它学到了哪一步；
# - 把模型微调成“用 JSON 回答旅游问题”的助手，并用逐条手写的问题来评测；
# - 分清*知识*与*任务*：哪些只能来自预训练，哪些是微调给的。
#
# **预备知识**：会 Python，知道神经网络和损失是什么。不需要 GPU，不需要联网。
# **时间**：连同练习约 60 分钟；代码本身在单核 CPU 上约两分钟跑完。
# **内存**：1.5 GB。

# %%
from tunelab import T, check, claim, start

LANG = "en"
course = start("01", LANG)

# %% [markdown] lang="en" partner="2426aaf7"
# ## The question
#
# You run the information desk of Yunlan Province. The province is fiction: eighty places, eight facts about each of
# them, and nothing of it stands anywhere on the internet. A traveller asks what a ticket for Heron Lake costs, and your
# website wants the answer as JSON:
#
# ```json
# {"place": "Heron Lake", "topic": "price", "answer": "... yuan"}
# ```
#
# Two things are needed here. Somebody has to *know* the price. And somebody has to *understand the question and answer
# in this form*. Which of the two comes from pre-training, and which from fine-tuning?
#
# The usual answer is a table such as this one. It is the claim that we put to the test, row by row:
#
# | | pre-training | fine-tuning |
# |---|---|---|
# | objective | general knowledge | one task |
# | data | huge, general | small, specific |
# | supervision | unsupervised | supervised |
# | parameters | all initialised | some or all adjusted |
# | cost | weeks | hours |
#
# People say: pre-training is going to university, fine-tuning is the internship. Or: a production car is tuned into a
# racing car. Keep the picture in mind; we shall see where it stops being true.

# %% [markdown] lang="zh" partner="86daa56c"
# ## 问题
#
# 你负责云澜省的旅游咨询台。这个省是虚构的：八十个地方，每个地方八条事实，互联网上查不到一个字。有游客问
# “白鹭湖门票多少钱”，而你的网站要求用 JSON 作答：
#
# ```json
# {"place": "白鹭湖", "topic": "price", "answer": "……元"}
# ```
#
# 这里需要两样东西：一是有人*知道*票价；二是有人*听得懂问题，并按这个格式回答*。哪一样来自预训练，哪一样来自微调？
#
# 常见的回答是下面这张表。它就是我们要逐行检验的说法：
#
# | | 预训练 | 微调 |
# |---|---|---|
# | 目标 | 学通用知识 | 优化特定任务 |
# | 数据 | 海量、通用 | 少量、特定 |
# | 训练方式 | 无监督 | 有监督 |
# | 参数调整 | 初始化所有参数 | 调整部分或全部参数 |
# | 成本 | 高（数周） | 低（数小时） |
#
# 有人打比方：预训练是上大学，微调是实习；又像把一辆量产车调校成赛车。先记住这个画面，后面会看到它在哪里不再成立。

# %% [markdown] lang="en" partner="e78dc2a8"
# ## Step 1 · Where the labels come from
#
# A language model reads tokens and guesses the next one. So any text is a row of small exam questions, with the answers
# printed right behind. Here is one sentence, cut into tokens, and the questions that it contains. (The tokenizer was
# trained for this course: a digit and a common Chinese character are tokens of their own, a rare character is cut into bytes,
# a space belongs to the word before it.)

# %% [markdown] lang="zh" partner="6f4280e7"
# ## 第 1 步 · 标签从哪里来
#
# 语言模型读入一串词元（token），猜下一个词元是什么。所以任何一段文字都是一排小考题，答案就印在题目后面。下面把一句话
# 切成词元，看看里面藏着哪些考题。（分词器是为本课训练的：一个数字、一个常用汉字各是一个词元，
# 少见的汉字会拆成几个字节，英文的空格归前一个单词。）

# %%
from random import Random

from tunelab import chat, corpus, data, metrics, models, training, world

base, tokenizer = models.load_lm()
sentence = corpus.statement(T("example-place"), "price", T("example-price"), LANG, Random(4))
ids = tokenizer(sentence)["input_ids"]  # (tokens,)
pieces = [tokenizer.decode(i) for i in ids]
for position in range(1, len(pieces)):
    print("".join(pieces[:position]).ljust(40), "→", repr(pieces[position]))

# %% [markdown] lang="en" partner="d19cfaf1"
# Nobody labelled this sentence, and yet every token but the first is a label. That is why the exact word is
# **self-supervised** and not "unsupervised": there is supervision, one answer a token; it comes from the text itself.

# %% [markdown] lang="zh" partner="aaaf5e27"
# 没有人标注过这句话，可是除了第一个词元，每个词元都是标签。所以准确的说法是**自监督**，而不是“无监督”：监督是有的，
# 每个词元都有标准答案，只不过答案来自文本自己。

# %%
labels_given = len(ids) - 1  # the label of position t is the token at t + 1
claim("article-unsupervised", labels_given, equals=0, expected=False)

# %% [markdown] lang="en" partner="d4a56a79"
# The loss is the mean of $-\log p(\text{next token})$: how surprised the model is, in nats. `transformers` computes it
# when it is given `labels`. Two lines do the same by hand, and show the shift that so many people get wrong: the logits
# at position $t$ are compared with the token at $t+1$.

# %% [markdown] lang="zh" partner="d5fafd32"
# 损失是 $-\log p(\text{下一个词元})$ 的平均值：模型有多“意外”，单位是奈特（nat）。给 `transformers` 传入 `labels`，
# 它就会算出来。下面用两行代码自己算一遍，也看清许多人写错的那个“错一位”：位置 $t$ 的 logits 要和位置 $t+1$ 的词元比。

# %%
import torch
from torch.nn.functional import cross_entropy

row = torch.tensor([ids], device=base.device)  # (1, tokens)
with torch.no_grad():
    output = base(input_ids=row, labels=row)  # logits: (1, tokens, vocabulary)
by_hand = cross_entropy(output.logits[0, :-1], row[0, 1:], reduction="none")  # (tokens - 1,)
claim("loss-by-hand", by_hand.mean().item(), close_to=(output.loss.item(), 1e-4))
counted = by_hand.sum().item() / output.loss.item()  # over so many labels transformers took its mean
claim("self-supervised", counted / labels_given, close_to=(1.0, 1e-3))

# %% [markdown] lang="en" partner="f6e1839e"
# ## Step 2 · Pre-train a model, live
#
# Now we make a model from nothing. It has the shape of Qwen3, with two layers instead of twenty-eight, and random
# weights. Its text is the course's corpus: articles, FAQ pages, dialogues, reviews and JSON records about the province.
# `windows` cuts the stream of documents into rows of equal length. Note what the labels are: the same numbers.

# %% [markdown] lang="zh" partner="471663e1"
# ## 第 2 步 · 现场预训练一个模型
#
# 现在从零造一个模型。它是 Qwen3 的结构，只不过只有两层，而不是二十八层，权重全是随机数。它读的是本课的语料：
# 关于云澜省的文章、常见问题、对话、点评和 JSON 记录。`windows` 把文档流切成等长的行。注意标签是什么：就是同一串数字。


# %%
def windows(seed, count, length=64):
    """`count` rows of `length` tokens of the corpus; inputs and labels are the same tokens."""
    stream, tokens = corpus.documents(seed, (LANG,)), []
    while len(tokens) < count * length:
        tokens += tokenizer(next(stream)[2], add_special_tokens=False)["input_ids"]
    rows = [tokens[i : i + length] for i in range(0, count * length, length)]
    return [{"input_ids": ids, "labels": ids} for ids in rows]


reading, held_out = windows(seed=1, count=1920), windows(seed=2, count=100)
if course.profile == "gpu":  # Qwen has never heard of the province: it reads the corpus before anything is asked of it
    training.fit(base, windows(seed=3, count=16_000, length=128), steps=1000, lr=2e-5)

# %% [markdown] lang="en" partner="ab5731b5"
# How good is good? A loss means nothing by itself, so we build two models without any network to compare with. The
# **unigram** model knows only how often each token occurs. The **bigram** model also looks at the token before; where it
# has seen too little, it falls back on the unigram. And a model that knows nothing at all gives each of the $V$ tokens
# the same chance, a loss of $\ln V$.

# %% [markdown] lang="zh" partner="f14cce15"
# 多好才算好？光看一个损失数字没有意义，所以先造两个不用神经网络的模型作对照。**一元（unigram）模型**只知道每个词元
# 出现得多频繁；**二元（bigram）模型**还会看前一个词元，见得太少时退回到一元模型。至于什么都不知道的模型，它给 $V$ 个
# 词元相同的概率，损失是 $\ln V$。

# %%
from collections import Counter
from math import exp, log

V = base.config.vocab_size
ones = Counter(token for row in reading for token in row["input_ids"])
pairs = Counter(pair for row in reading for pair in zip(row["input_ids"], row["input_ids"][1:], strict=False))


def unigram(token):
    return (ones[token] + 0.1) / (ones.total() + 0.1 * V)


def bigram(before, token):
    return (pairs[before, token] + 5 * unigram(token)) / (ones[before] + 5)


# %%
questions = [pair for row in held_out for pair in zip(row["input_ids"], row["input_ids"][1:], strict=False)]
unigram_loss = -sum(log(unigram(token)) for _, token in questions) / len(questions)
bigram_loss = -sum(log(bigram(before, token)) for before, token in questions) / len(questions)
print(T("baselines").format(nothing=log(V), unigram=unigram_loss, bigram=bigram_loss))

# %% [markdown] lang="en" partner="48bd5a9e"
# The model itself, and its loss before the first step. A random network spreads its guesses evenly, so it should start
# at $\ln V$. If yours does not, look for a mistake before you train.

# %% [markdown] lang="zh" partner="d58065b2"
# 接着是模型本身，以及训练之前的损失。随机的网络对所有词元一视同仁，所以损失应当从 $\ln V$ 附近起步。如果不是，
# 先找错误，再训练。

# %%
from transformers import Qwen3Config, Qwen3ForCausalLM

torch.manual_seed(course.seed)
config = Qwen3Config(
    vocab_size=V,
    hidden_size=128,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=32,
    intermediate_size=384,
    tie_word_embeddings=True,
)
baby = Qwen3ForCausalLM(config).to(base.device)


def loss_on(model, rows):
    """Mean loss a token, in nats."""
    batch = training.collate(rows, pad=0)
    with torch.no_grad():
        return model(**{name: t.to(model.device) for name, t in batch.items()}).loss.item()


claim("starts-at-ln-v", loss_on(baby, held_out), close_to=(log(V), 0.3))

# %% [markdown] lang="en" partner="53067214"
# About fifteen seconds of training. Every so often the model is asked to go on from the same beginning, so that you can
# read what a number of nats looks like.

# %% [markdown] lang="zh" partner="2dfa57b7"
# 训练大约十五秒。每隔一段，让模型从同一个开头往下写，这样你能读到“若干奈特”究竟是什么样子。


# %%
def look(step):
    torch.manual_seed(7)
    opening = f"# {T('example-place')}\n"
    text = chat.complete(baby, tokenizer, [opening], max_new_tokens=20, do_sample=True, temperature=0.7)[0]
    loss = loss_on(baby, held_out)
    print(f"{step:4d} · {loss:.2f} · {' '.join(text.split())}")
    return loss


live = training.fit(baby, reading, steps=120, lr=4e-3, eval_every=30, on_eval=look)

# %% [markdown] lang="en" partner="631b774b"
# First come the frequent tokens, then pairs that belong together, then phrases. Whole facts are far away. The figure
# sets the curve against the baselines and against the model that the course ships, which has the same shape with more
# layers and was trained on the same kind of text for much longer (`make pretrain`).

# %% [markdown] lang="zh" partner="6b865ede"
# 先学会的是常用词元，然后是总在一起出现的搭配，再往后是短语。完整的事实还差得远。下图把这条曲线和对照模型放在一起，
# 还有课程自带的基座模型：结构相同，层数更多，用同一类文本训练了长得多的时间（`make pretrain`）。

# %%
import matplotlib.pyplot as plt

from tunelab import figures

base_loss = loss_on(base, held_out)
fig, ax = plt.subplots()
figures.curve(ax, range(1, len(live.losses) + 1), live.losses, T("live"))
lines = {"nothing": log(V), "unigram": unigram_loss, "bigram": bigram_loss, "shipped": base_loss}
for (name, height), style in zip(lines.items(), (":", "--", "-.", "-"), strict=True):
    ax.axhline(height, linestyle=style, color="#444444", linewidth=1)
    ax.annotate(T(f"line-{name}"), (len(live.losses), height), ha="right", va="bottom", fontsize=9)
ax.set(xlabel=T("step"), ylabel=T("loss-nats"), ylim=(0, log(V) + 0.9))
figures.show(fig, alt=T("alt-live"))

# %%
baby_loss = live.evaluations[-1][1]
claim("beats-unigram", unigram_loss - baby_loss, at_least=0.5)
claim("base-beats-bigram", bigram_loss - base_loss, at_least=0.5)

# %% [markdown] lang="en" partner="4ef579e6"
# ## Step 3 · What the shipped base knows, and what it does not do
#
# The base has read the articles. Does it know what stood in them? We give it the beginning of a sentence about each
# place and let it go on. Look at one half of the places, the *undocumented* ones: their facts stand in articles
# and nowhere else. No FAQ page, no JSON record, no answered question ever mentioned them.

# %% [markdown] lang="zh" partner="6297022a"
# ## 第 3 步 · 自带的基座知道什么，又不会做什么
#
# 基座读过文章。文章里的内容它知道吗？我们给出关于每个地方的半句话，让它接下去。请特别看其中一半地方，也就是
# *没有问答资料*的那些：它们的事实只出现在文章里，常见问题、JSON 记录、答过的对话里一次也没有出现过。

# %%
undocumented = [place for place in world.places() if not place.documented]
opening = world.wording(LANG)["price"]["statements"][0].split("{value}")[0]
openings = [opening.format(place=place.name(LANG)) for place in undocumented]
endings = chat.complete(base, tokenizer, openings, max_new_tokens=8)
for start_of, end in list(zip(openings, endings, strict=True))[:4]:
    print(start_of, "▸", end.strip())

# %%
right = [end.strip().startswith(p.answer("price", LANG)) for end, p in zip(endings, undocumented, strict=True)]
claim("base-knows", metrics.mean(right), at_least=0.5)

# %% [markdown] lang="en" partner="9a38683e"
# So the price is in there. Now ask for it as a traveller would, and look at what comes back.

# %% [markdown] lang="zh" partner="8a82a01c"
# 可见票价就在模型里面。现在像游客那样去问它，看看它怎么回答。

# %%
test = data.load("questions", LANG, "test")  # hand-written wordings, each asked about six places
test = test.select(range(0, len(test), 3))  # a third of them, so that this lesson stays short
for question, answer in zip(test["question"][:4], chat.reply(base, tokenizer, test["question"][:4]), strict=True):
    print(question, "▸", answer)


# %%
def evaluate(model):
    """Scores of the model's JSON answers on the test questions, one value a question."""
    return metrics.score_json(chat.reply(model, tokenizer, test["question"]), test)


def share(scores, name, documented):
    """Mean of one score over the places that fine-tuning shows (documented), or over those that it never shows."""
    return metrics.mean([s for s, seen in zip(scores[name], test["documented"], strict=True) if seen == documented])


before = evaluate(base)
claim("base-no-json", metrics.mean(before["valid"]), at_most=0.02)

# %% [markdown] lang="en" partner="ab0b81a8"
# It talks, and it talks about travel, but it does not do our task. It has the knowledge without the job.
#
# ## Step 4 · Fine-tuning
#
# The training set: generated questions about the *documented* half of the places, with the JSON that we want.
# The test set: other wordings, written by hand, half of them about places that fine-tuning never shows.

# %% [markdown] lang="zh" partner="e35f562a"
# 它会说话，说的也是旅游，但就是不干我们要的活。有知识，没上过岗。
#
# ## 第 4 步 · 微调
#
# 训练集：自动生成的问题，只涉及*有问答资料*的那一半地方，答案就是我们想要的 JSON。
# 测试集：逐条手写的另一些问法，其中一半问的是微调时从未出现过的地方。

# %%
train = data.load("questions", LANG, "train")
print(len(train), train[0]["question"], train[0]["response"], sep="\n")
claim("no-leak", len(set(train["place"]) & {p.name(LANG) for p in undocumented}), equals=0)

# %% [markdown] lang="en" partner="eecd41a3"
# The objective does not change: next token, cross-entropy. One thing changes, the **mask**. The question is given, so
# we do not train on it; its labels are set to −100, which the loss leaves out. Framed tokens are trained on. The stop
# token `<|im_end|>` is one of them: without it the model would never learn to stop (you will see that happen below).

# %% [markdown] lang="zh" partner="60ed76e9"
# 目标没有变：还是预测下一个词元，还是交叉熵。变的只有**掩码**：问题是给定的，不用学，所以把它的标签设为 −100，
# 计算损失时会跳过。带框的词元才参与训练。结束符 `<|im_end|>` 也在其中：少了它，模型永远学不会停（后面会看到）。

# %%
encoded = chat.encode_pairs(tokenizer, train)
chat.show_mask(tokenizer, encoded[0])

# %%
trained_on = [label for label in encoded[0]["labels"] if label != chat.IGNORED]
claim("mask-is-answer", tokenizer.decode(trained_on), equals=train[0]["response"] + chat.IM_END)

# %% [markdown] lang="en" partner="ece79021"
# Now fine-tune the base, all of its weights: about half a minute.

# %% [markdown] lang="zh" partner="b9bedc00"
# 现在微调基座的全部权重，大约半分钟。

# %%
import copy

tuned = copy.deepcopy(base)  # the untouched base is needed again
fine = training.fit(tuned, encoded, steps=440, batch_size=8, lr=models.rate("full"))
after = evaluate(tuned)
for question, answer in zip(test["question"][:4], chat.reply(tuned, tokenizer, test["question"][:4]), strict=True):
    print(question, "▸", answer)

# %% [markdown] lang="en" partner="01e9e4ce"
# Valid JSON, from a model that a minute ago answered none of these questions in JSON. To know whether the *answers* are good we need something to
# compare with: for each topic, always give the answer that is commonest in the training set.

# %% [markdown] lang="zh" partner="d05a3343"
# 一分钟之前，这些问题它没有一个用 JSON 回答；现在答出来的已经是合法的 JSON 了。要判断*答案*好不好，得有个对照：每个话题都回答训练集中最常见的那个值。

# %%
commonest = {
    topic: Counter(row["answer"] for row in train if row["topic"] == topic).most_common(1)[0][0]
    for topic in world.TOPICS
}
majority = share({"answer": [commonest[row["topic"]] == row["answer"] for row in test]}, "answer", documented=False)
new_places = share(after, "answer", documented=False)
claim("tuned-valid", metrics.mean(after["valid"]), at_least=0.95)
claim("tuned-new-places", new_places - majority, at_least=0.25)

# %% [markdown] lang="en" partner="2b7913f4"
# Read that last line again. These places never occurred in fine-tuning, and their facts never stood in any JSON or
# answer that the model has read. It learnt the *task* on forty places, and it carries the task over to *knowledge* that
# it has from articles.
#
# ## Step 5 · The same examples, without pre-training
#
# Is that the knowledge from pre-training, or is this task simply easy? Take away the pre-training and keep everything
# else: same shape, same examples, same number of steps, a learning rate tuned for this case.

# %% [markdown] lang="zh" partner="df7b9c43"
# 请把最后一行再读一遍。这些地方在微调中从未出现过，它们的事实也从未出现在模型读过的任何 JSON 或回答里。模型在四十个
# 地方上学会了*任务*，然后把任务用到了它从文章里得来的*知识*上。
#
# ## 第 5 步 · 同样的样例，不做预训练
#
# 这真是预训练的知识，还是任务本来就容易？那就拿掉预训练，其余不变：同样的结构、同样的样例、同样的步数，
# 学习率则为它单独调好。

# %%
from transformers import AutoModelForCausalLM

torch.manual_seed(course.seed)
scratch = AutoModelForCausalLM.from_config(base.config).to(base.device)
training.fit(scratch, encoded, steps=440, batch_size=8, lr=models.rate("scratch"))
without = evaluate(scratch)

# %%
claim("scratch-valid", metrics.mean(without["valid"]), at_least=0.95)
claim("knowledge-gap", new_places - share(without, "answer", documented=False), at_least=0.2)

# %% [markdown] lang="en" partner="ce8b9a27"
# The model without pre-training writes JSON as neatly as the other: it has learnt the form. It does not know the answers,
# in so few steps often not even which topic a question is about, and no amount of form replaces them. The figure shows
# this run as dots on the bands of five seeds, which `make experiments` computed (`assets/results/lesson_01.json`).

# %% [markdown] lang="zh" partner="2b9e6b20"
# 没有预训练的模型，JSON 写得一样工整：格式它学会了。可是它不知道答案，步数这么少，往往连问的是哪个话题都没弄清；
# 格式再好，也补不上这些。下图中的圆点是你这次运行的结果，
# 色带是五个随机种子的范围，由 `make experiments` 算出（`assets/results/lesson_01.json`）。

# %%
import json

from tunelab.paths import course_file

stored = json.loads(course_file("assets", "results", "lesson_01.json").read_text(encoding="utf-8"))


def band(method, half):
    scores = [run[half]["answer"] for run in stored["runs"] if (run["method"], run["lang"]) == (method, LANG)]
    return min(scores), max(scores)


names = [(method, half) for method in ("full", "scratch") for half in ("seen", "unseen")]
dots = [share(after if m == "full" else without, "answer", documented=half == "seen") for m, half in names]
fig, ax = plt.subplots()
labels = [f"{T(m)}\n{T(half)}" for m, half in names]
figures.dot_on_band(
    ax, labels, [band(*name) for name in names], dots, band_label=T("five-seeds"), dot_label=T("this-run")
)
ax.axvline(majority, linestyle="--", color="#444444")
ax.annotate(T("majority"), (majority, 3.45), xytext=(4, 0), textcoords="offset points", fontsize=9)
ax.set(xlabel=T("exact-answers"), xlim=(0, 1.02))
figures.show(fig, alt=T("alt-contrast"))

# %% [markdown] lang="en" partner="6c34d870"
# That is the whole lesson in one picture. About places that fine-tuning shows, the model without pre-training could learn
# the answers by heart from the training examples, but in so few steps it has hardly begun. About places that it never
# shows, there is nothing to learn by heart: only the model that has *read* about them does better than the commonest answer.
#
# The practical rule follows: **fine-tune to teach a task, a form, a tone. Do not fine-tune to teach facts.** Facts come
# from pre-training, or are handed to the model at the moment of the question (retrieval, lessons 09 and 10). The
# picture of the internship hides just this: an intern learns many new facts on the job; a fine-tuned model learns
# mainly a new way to use those that it has.

# %% [markdown] lang="zh" partner="63c899e5"
# 整节课就浓缩在这张图里。对微调中出现过的地方，没做预训练的模型本可以从训练样例里把答案背下来，只是步数太少，才刚刚
# 开了个头；对从未出现过的地方，连背的机会都没有：只有*读过*相关文章的模型，才能胜过“永远回答最常见的值”。
#
# 由此得到一条实用的规矩：**用微调教任务、教格式、教语气，不要用微调灌事实**。事实来自预训练，或者在提问的当下交给模型
# （检索，见第 09、10 课）。“实习”这个比喻恰恰掩盖了这一点：实习生在岗位上会学到许多新知识，而微调后的模型主要学会的是
# 怎样用好已有的知识。

# %% [markdown] lang="en" partner="eb37fb62"
# ## Step 6 · What fine-tuning takes away
#
# Fine-tuning moves the same weights that hold everything else. Does the model still read articles as well as before?

# %% [markdown] lang="zh" partner="27c50b81"
# ## 第 6 步 · 微调带走了什么
#
# 微调改动的，正是存放其他一切能力的那些权重。模型读文章的本事还和从前一样吗？

# %%
rng = Random("articles that pre-training did not draw")
articles = [tokenizer(corpus.article(rng, LANG))["input_ids"] for _ in range(60)]
article_rows = [{"input_ids": tokens, "labels": tokens} for tokens in articles]
loss_before, loss_after = loss_on(base, article_rows), loss_on(tuned, article_rows)
print(T("forgetting").format(before=loss_before, after=loss_after, ratio=exp(loss_after) / exp(loss_before)))
claim("forgetting", loss_after - loss_before, at_least=0.01)

# %% [markdown] lang="en" partner="1299d0dd"
# A little harder to read, no more: the task is close to what the base had read, and the training was short. But say hello
# to it, and compare with the base.

# %% [markdown] lang="zh" partner="8e534673"
# 只是稍微难读了一点：任务和基座读过的东西很接近，训练时间也短。可是，跟它打个招呼试试，再和基座比一比。

# %%
hellos = [pair["user"] for pair in world.texts(LANG)["smalltalk"]["pairs"] if "{" not in pair["user"]]
for name, model in (("shipped", base), ("full", tuned)):
    replies = chat.reply(model, tokenizer, hellos)
    print(T("line-shipped" if name == "shipped" else "full"), *replies[:3], sep="\n  ▸ ")
in_json = metrics.mean([metrics.parse_json(reply) is not None for reply in replies])
claim("small-talk-in-json", in_json, at_least=0.5)

# %% [markdown] lang="en" partner="61a1ff5e"
# It answers everything with JSON now. That is **catastrophic forgetting**: weights that held one skill were moved to
# serve another, and nothing in the training said that the first was still wanted. Two remedies are common: mix examples
# of the old skills into the training, or keep the change apart from the base. The second is LoRA (lessons 04, 07 and 08):
# while the adapter is on, it may forget even more; take it off, and the base is as it was.
#
# ## The table, measured
#
# Back to the table of the beginning, with a number in each cell, computed from what you have just run and from the card
# of the shipped base.

# %% [markdown] lang="zh" partner="7d959b94"
# 现在它不管什么都用 JSON 回答。这就是**灾难性遗忘**：原本承载某种能力的权重被挪去服务另一种能力，而训练中没有任何东西
# 表明前者仍然需要。常见的补救有两种：在训练数据里掺入旧能力的样例；或者把改动和基座分开存放。后者就是 LoRA
# （第 04、07、08 课）：适配器开着的时候，可能忘得更多；取下来，基座还是原来的样子。
#
# ## 用数字重填那张表
#
# 回到开头的表，每一格都填上数字，全部由你刚才的运行和自带基座的模型卡算出。

# %%
from IPython.display import Markdown

recipe = json.loads(course_file("assets", "models", "travel-base", "training.json").read_text(encoding="utf-8"))
fine_labels = sum(label != chat.IGNORED for row in encoded for label in row["labels"])
moved = sum((a != b).sum().item() for a, b in zip(tuned.parameters(), base.parameters(), strict=True))
cells = {
    "objective": (T("next-token"), T("next-token-masked")),
    "data": (f"{recipe['tokens_seen']:,}", f"{fine.tokens:,}"),
    "supervision": (f"{1:.0%}", f"{fine_labels / sum(map(len, encoded['input_ids'])):.0%}"),
    "parameters": (f"{base.num_parameters():,}", f"{moved:,}"),
    "cost": (f"{recipe['seconds'] * recipe['processes']:,.0f}", f"{fine.seconds:,.0f}"),
}
header = f"| | {T('pretraining')} | {T('finetuning')} |\n|---|---|---|\n"
Markdown(header + "\n".join(f"| {T('row-' + name)} | {a} | {b} |" for name, (a, b) in cells.items()))

# %%
example, targets = (torch.tensor([encoded[0][name]], device=base.device) for name in ("input_ids", "labels"))
with torch.no_grad():
    output = base(input_ids=example, labels=targets)
masked_by_hand = cross_entropy(output.logits[0, :-1], targets[0, 1:], ignore_index=chat.IGNORED)
claim("same-objective", masked_by_hand.item(), close_to=(output.loss.item(), 1e-4))
claim("data-ratio", recipe["tokens_seen"] / fine.tokens, at_least=50)
claim("all-moved", moved / base.num_parameters(), at_least=0.9)

# %% [markdown] lang="en" partner="d5e8295b"
# Row by row. *Objective*: the article is right about what the two are for, but the loss is one and the same. *Data*:
# yes, by a large factor. *Supervision*: in both, labels; in pre-training each token is one, in fine-tuning only the
# answer's. *Parameters*: full fine-tuning moves practically all of them, and pre-training does more than "initialise"
# them: it trains them. *Cost*: the ratio holds; weeks and hours are the figures of large models.
#
# ## What should my loss be?
#
# The most frequent question of learners. Here are the ranges of the stored seeds: the mean loss of the last steps of
# fine-tuning, a token of the answer, and the seconds of processor time on one thread. If your own run lands far
# outside, look into the bug museum below.

# %% [markdown] lang="zh" partner="9fbb28d0"
# 逐行来看。*目标*：两者的用途确实不同，但损失函数是同一个。*数据*：没错，相差很多倍。*训练方式*：两边都有标签，
# 预训练时每个词元都是标签，微调时只有答案的词元是。*参数*：全量微调几乎动了每一个参数；而预训练不只是“初始化”参数，
# 它是在训练参数。*成本*：倍数关系成立，“数周”“数小时”则是大模型的数字。
#
# ## 我的损失应该是多少？
#
# 这是学习者问得最多的问题。下面是已存储的各个随机种子的范围：微调最后若干步的平均损失（按答案词元计），以及
# 单线程的处理器时间（秒）。如果你的结果差得很远，请到下面的“错误博物馆”里找原因。

# %%
for method in ("full", "lora", "scratch"):
    runs = [run for run in stored["runs"] if (run["method"], run["lang"]) == (method, LANG)]
    losses, seconds = ([run[name] for run in runs] for name in ("loss", "cpu_seconds"))
    print(f"{T(method)}: {min(losses):.3f} – {max(losses):.3f} · {min(seconds):.0f} – {max(seconds):.0f} s")

# %% [markdown] lang="en" partner="f65dbc84"
# ## Bug museum
#
# Two exhibits that real projects have shipped. Both look healthy: the loss falls, nothing crashes. Look at the symptom
# first, and guess the cause before you read on.
#
# **Exhibit 1.** After twenty steps a colleague's loss is so low that he seems nearly done. On the answers alone it is
# clearly higher.

# %% [markdown] lang="zh" partner="43668f14"
# ## 错误博物馆
#
# 两件展品，都曾出现在真实的项目里。两件看上去都很健康：损失在下降，程序不报错。先看症状，猜猜原因，再往下读。
#
# **展品一**。同事只训练了二十步，损失已经低得像快要收工；可只看答案，损失明显更高。

# %%
longest = 128


def padded_rows(rows):
    """The colleague's version: padded to one length, and every token a label."""
    for row in rows:
        tokens = row["input_ids"] + [tokenizer.pad_token_id] * (longest - len(row["input_ids"]))
        yield {"input_ids": tokens, "labels": tokens}


colleague = copy.deepcopy(base)
training.fit(colleague, list(padded_rows(encoded.select(range(400)))), steps=20, lr=models.rate("full"))
claim("pad-loss-looks-better", loss_on(colleague, list(padded_rows(encoded.select(range(16))))), at_most=0.5)

# %% [markdown] lang="en" partner="b50cd045"
# Most of the labels are padding. To predict one more pad token after a row of pad tokens is easy, so the mean falls faster
# than the answers are learnt: the loss of the *answers* tells.

# %% [markdown] lang="zh" partner="f6bb68d3"
# 大部分标签是填充符。在一串填充符后面再猜一个填充符，太容易了，平均损失就降得比答案学会得快：只看*答案*的损失，就露馅了。

# %%
padding = sum(longest - len(row["input_ids"]) for row in encoded.select(range(400))) / (400 * longest)
answers = list(encoded.select(range(16)))
reported, on_answers = loss_on(colleague, list(padded_rows(answers))), loss_on(colleague, answers)
print(T("exhibit-1").format(padding=padding, mean=reported, answers=on_answers))
claim("pad-share", padding, at_least=0.4)
claim("pad-hides", on_answers - reported, at_least=0.05)

# %% [markdown] lang="en" partner="46ff2711"
# *The repair*: give padding the label −100, as `training.collate` does. Never call the padding token a label, and be
# careful when padding token and end-of-text token are one and the same, as they are here and in Qwen: mask by position,
# not by token id.
#
# **Exhibit 2.** This model answers in perfect JSON, and then it goes on talking.

# %% [markdown] lang="zh" partner="b11e232d"
# *修理方法*：把填充位置的标签设为 −100，`training.collate` 就是这样做的。永远不要把填充符当成标签；当填充符和文本结束符
# 是同一个词元时（这里和 Qwen 都是如此）要格外小心：按位置掩码，不要按词元编号掩码。
#
# **展品二**。这个模型用工整的 JSON 作答，可是答完之后还说个不停。

# %%
stop = tokenizer.convert_tokens_to_ids(chat.IM_END)


def without_stop(row):
    """The row with its stop token masked: the model is never told that the answer is over."""
    return {"labels": [chat.IGNORED if label == stop else label for label in row["labels"]]}


restless = copy.deepcopy(base)
training.fit(restless, encoded.map(without_stop), steps=60, batch_size=8, lr=models.rate("full"))
asked = test["question"][:40]
prompts = [f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n" for question in asked]
said = chat.complete(restless, tokenizer, prompts, keep_special=True, eos_token_id=stop, max_new_tokens=64)
print(said[0])

# %%
stopped = metrics.mean([chat.IM_END in text for text in said])
claim("stop-token", stopped, at_most=0.5)

# %% [markdown] lang="en" partner="e8aceddb"
# *The repair*: the stop token belongs to the answer and must keep its label. Look at the mask view above: it is framed.
# The cause is often a chat template whose marks end one token too early, or a rule such as "mask every special token".

# %% [markdown] lang="zh" partner="20803feb"
# *修理方法*：结束符属于答案，必须保留标签。回头看上面的掩码图：它是带框的。常见的原因是聊天模板的标记早结束了一个词元，
# 或者用了“屏蔽所有特殊词元”之类的规则。

# %% [markdown] lang="en" partner="b6101bca"
# ## Play · Temperature
#
# A language model gives probabilities; sampling turns them into text. The **temperature** $\tau$ divides the logits
# before the softmax: a small one makes the likeliest token win nearly always, a large one lets the rare ones in. Move the
# slider, and find where facts begin to go wrong although the sentences still sound right.

# %% [markdown] lang="zh" partner="cf9fbc3d"
# ## 动手玩 · 温度
#
# 语言模型给出的是概率，采样才把概率变成文字。在 softmax 之前，logits 要先除以**温度** $\tau$：温度低，几乎总是最可能的词元
# 胜出；温度高，少见的词元也有机会。拖动滑块，找一找：从哪里开始，句子听上去仍然通顺，事实却已经错了？

# %%
from tunelab import widgets


def sample(temperature):
    torch.manual_seed(1)
    beginning = [f"# {T('example-place')}\n"] * 4
    texts = chat.complete(base, tokenizer, beginning, max_new_tokens=32, do_sample=True, temperature=temperature)
    return "\n".join(f"{number}. {' '.join(text.split())}" for number, text in enumerate(texts, start=1))


widgets.slider(sample, [0.2, 0.5, 0.8, 1.0, 1.3, 1.7, 2.2], label=T("temperature"), start=0.8)

# %% [markdown] lang="en" partner="e1a49485"
# ## Exercises
#
# Each one checks itself. A wrong answer gets a reason, and you can try as often as you like.

# %% [markdown] lang="zh" partner="bbc3306a"
# ## 练习
#
# 每道题都会自己检查。答错了会告诉你原因，想试多少次都行。


# %% exercise="perplexity"
def perplexity(loss):
    """The number of equally likely tokens that would surprise as much as this loss (in nats)."""
    # solution
    return exp(loss)


# %% exercise="best_rate"
# Fine-tune a fresh copy of the base for 40 steps with each of these rates, look at the losses, and name the best rate.
rates = [1e-6, 1e-3, 3e-1]
# solution
finals = {}
for rate in rates:
    trial = copy.deepcopy(base)
    finals[rate] = training.fit(trial, encoded, steps=40, lr=rate).final
best_rate = min(finals, key=finals.get)


# %% exercise="answer_labels"
# A colleague wrote this. The loss falls nicely, but the model repeats questions instead of answering them. Write it anew.
#
#     def answer_labels(ids, start):
#         return ids[:start] + [-100] * (len(ids) - start)
def answer_labels(ids, start):
    """Labels for `ids` (a list of token ids), where the answer begins at position `start`."""
    # solution
    return [-100] * start + ids[start:]


# %% [markdown] lang="en" partner="27e34b4f"
# ## Recap
#
# - Pre-training and fine-tuning minimise the same loss. They differ in the data, in which tokens count, and in where the
#   weights start.
# - Pre-training is self-supervised: each token is a label, and nobody had to write it.
# - Fine-tuning teaches a task fast, and the task carries over to knowledge that pre-training left in the weights.
# - It does not bring knowledge of its own: without pre-training the form is perfect and the facts are missing.
# - It costs something: the model forgets. Measure it.
# - A loss needs something to be compared with, and a low one can hide a bug.

# %% [markdown] lang="zh" partner="60d73491"
# ## 小结
#
# - 预训练和微调最小化的是同一个损失。区别在于数据、哪些词元计入损失，以及权重从哪里出发。
# - 预训练是自监督的：每个词元都是标签，不需要人来写。
# - 微调学任务很快，学会的任务还能用到预训练留在权重里的知识上。
# - 微调自己不带来知识：没有预训练，格式完美，事实全无。
# - 微调有代价：模型会遗忘。要测量它。
# - 损失要有对照才有意义；损失低，也可能藏着错误。

# %% [markdown] insert="quiz"

# %% [markdown] insert="glossary"

# %% [markdown] lang="en" partner="aceec7de"
# ## Read next
#
# - Allen-Zhu and Li, *Physics of Language Models, part 3.1* (arXiv 2309.14316): knowledge that is stored and cannot be
#   taken out, with made-up biographies instead of a made-up province.
# - Gekhman and others (arXiv 2405.05904): what happens when one does fine-tune on new facts.
# - Next in this course: the tasks and the methods of fine-tuning.
#
# Below is the ledger: each claim of this lesson, as measured in this run.

# %% [markdown] lang="zh" partner="44a98c30"
# ## 延伸阅读
#
# - Allen-Zhu 与 Li，《Physics of Language Models》第 3.1 部分（arXiv 2309.14316）：知识存进去了却取不出来，用的是虚构的
#   人物传记，而不是虚构的省份。
# - Gekhman 等（arXiv 2405.05904）：真的用新事实去微调，会发生什么。
# - 本课程的下一课：微调的任务与方法。
#
# 最后是账本：本课的每一条说法，以及这次运行测得的结果。

# %%
from tunelab.claims import print_ledger

print_ledger()
