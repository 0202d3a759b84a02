# %% [markdown] lang="en" partner="82b826b0"
# # 10 · RAG and deployment: the travel assistant goes live
#
# **After this lesson you can**
# - say which answers go stale when a fact changes, and what each repair costs, from a measurement;
# - build retrieval-augmented generation (RAG) with a LoRA model: chunks in tokens, sources, a threshold for "I don't know";
# - evaluate retrieval and answer apart, so that you repair the part that fails;
# - run the assistant behind an HTTP API that switches adapters per request and fine-tunes new ones;
# - store documents so that a killed process loses nothing that was acknowledged, and say what changes as all this grows.
#
# **Before you start**: lesson 08 (LoRA, adapters) and lesson 09 (embeddings, HNSW, Chroma).
# **Time**: about 90 minutes with the exercises; the cells themselves run for about two minutes on one CPU core.
# **Memory**: 1.5 GB.

# %% [markdown] lang="zh" partner="7fea05b9"
# # 10 · 检索增强与部署：旅游助手上线
#
# **学完这一课，你能够**
# - 用测量结果说清：事实变了以后，哪些回答会过时，各种补救办法要花多少代价；
# - 用 LoRA 模型搭建检索增强生成（RAG）：按词元切块、注明来源、用阈值决定何时说“不知道”；
# - 把检索和回答分开评测，哪一环坏了就修哪一环；
# - 把助手放到 HTTP API 后面：每个请求可以切换适配器，还能通过接口微调新的适配器；
# - 让文档存储经得起进程被杀：凡是确认过的写入都不丢；并说清规模变大时要换什么。
#
# **预备知识**：第 08 课（LoRA 与适配器）和第 09 课（嵌入、HNSW、Chroma）。
# **时间**：连同练习约 90 分钟；代码本身在单核 CPU 上约两分钟跑完。
# **内存**：1.5 GB。

# %%
from tunelab import T, check, claim, start

LANG = "en"
course = start("10", LANG)

# %% [markdown] lang="en" partner="1d1151ea"
# ## The question
#
# The information desk's model knows every ticket price of Yunlan Province by heart. On the first of the month half of the
# prices change. Somebody who learnt the old price list by heart will quote it with the same confidence as before; somebody
# who looks prices up on the notice board only needs a new sheet on the board. Which of the two is our assistant to be?
# The picture shows the parts that this lesson builds, in the order in which a question meets them. (The check of the sources
# at its end is the last exercise; the server below shows the sources unchecked.)

# %% [markdown] lang="zh" partner="6a60bba8"
# ## 问题
#
# 咨询台的模型把云澜省每个地方的票价都背了下来。下个月一号，一半的票价要调整。把旧价目表背熟的人，会照旧自信地报出旧价；
# 习惯抬头看公告栏的人，只要公告栏换一张纸就行。我们的助手该做哪一种人？
# 下图是本课要搭建的各个部件，按问题经过它们的先后排列。（图中最后的来源核对留作最后一道练习；后面的服务器给出的来源并未核对。）

# %%
from tunelab import figures

figures.diagram("rag-assistant")

# %%
from random import Random

from tunelab import chat, corpus, data, metrics, models, training, world

rng = Random("the day the prices change")
before = {spot.id: spot.answer("price", LANG) for spot in world.places()}
after = dict(before)
for name in sorted(before)[::2]:  # every second place of the alphabet
    after[name] = rng.choice([price for price in world.values("price", LANG) if price != before[name]])

asked = [row for row in data.load("questions", LANG, "test") if row["topic"] == "price"]  # wordings written by hand
places = [world.place(row["place"]).id for row in asked]
moved = [before[place] != after[place] for place in places]
print(asked[0]["question"], before[places[0]], "→", after[places[0]])
claim("half-changed", metrics.mean(moved), between=(0.4, 0.6))

# %% [markdown] lang="en" partner="d85a5c1a"
# An answer may be "45 yuan" or a sentence, so the first number in it counts. Where the price changed there are two
# numbers to look for: the new one, and the *old* one, which is worse than none, since nobody notices.

# %% [markdown] lang="zh" partner="37969a15"
# 回答可能是“45元”，也可能是一句话，所以取其中第一个数字。票价变了的地方要看两个数：答出新价的比例，以及答出*旧价*的比例。
# 旧价比答不上来更糟，因为没有人会察觉。

# %%
import re


def number(text):
    """The first number in a text, as it is written."""
    return (re.findall(r"\d+", text) or [""])[0]


def score(answers):
    """Shares: right where the price stayed; where it changed, the new price and the old one."""
    said = [number(answer) for answer in answers]
    new, old = ([number(price[place]) for place in places] for price in (after, before))
    rows = list(zip(said, new, old, moved, strict=True))
    return {
        "unchanged": metrics.mean([s == n for s, n, _, changed in rows if not changed]),
        "new": metrics.mean([s == n for s, n, _, changed in rows if changed]),
        "old": metrics.mean([s == o for s, _, o, changed in rows if changed]),
    }


# %% [markdown] lang="en" partner="84545ede"
# ## Answers from weights
#
# First the one who learns by heart. An adapter named `desk` learns to answer questions about the documented places in a
# word, as in lesson 08; for the other places it draws on what the base read in pre-training.

# %% [markdown] lang="zh" partner="0e39ea36"
# ## 凭权重回答
#
# 先看死记硬背的那位。名为 `desk` 的适配器学着用一个词回答有资料的地方（做法同第 08 课）；其余地方靠基座在预训练时读过的内容。

# %%
import torch
from peft import LoraConfig, get_peft_model


def config():
    """Lesson 08's settings; made anew for each adapter, since peft writes into it."""
    return LoraConfig(r=8, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")


torch.manual_seed(course.seed)
base, tokenizer = models.load_lm()
model = get_peft_model(base, config(), adapter_name="desk")
rows = chat.encode_pairs(tokenizer, data.load("questions", LANG, "train", size=1600), response="answer")
desk_run = training.fit(model, rows, steps=200, batch_size=8, lr=models.rate("lora"))


# %%
def ask(prompts, adapter):
    """Greedy answers with one adapter; "base" switches all of them off."""
    settings = {"max_new_tokens": 16, "batch_size": 32}  # whole passages at once take memory
    if adapter == "base":
        with model.disable_adapter():
            return chat.reply(model, tokenizer, prompts, **settings)
    model.set_adapter(adapter)
    return chat.reply(model, tokenizer, prompts, **settings)


questions = [row["question"] for row in asked]
results = {"weights": score(ask(questions, "desk"))}
print(T("scores").format(name=T("weights"), **results["weights"]))
claim("weights-know", results["weights"]["unchanged"], at_least=0.6)
claim("weights-stale", results["weights"]["old"], at_least=0.6)

# %% [markdown] lang="en" partner="968de480"
# As well as it knows the prices that stayed, it recites the ones that are gone. Nothing in the answer tells the two
# apart, and no prompt helps: the price is in the weights.
#
# ## Answers from text: chunks in tokens
#
# Now the notice board. Each place gets a short article; the price in it is the price of the day.

# %% [markdown] lang="zh" partner="a5dd9451"
# ## 凭文本回答：按词元切块
#
# 没变的票价它记得多牢，作废的票价它就背得多熟。从回答里分不出哪个是哪个，换提示词也没有用：价格就在权重里。
#
# 再看公告栏这条路。每个地方有一篇短文，文中写的是当天的票价。


# %%
def article(name, facts, rng):
    """The facts of a place, each in one of a dozen wordings."""
    sentences = [corpus.statement(name, topic, value, LANG, rng) for topic, value in facts.items()]
    return T(en=" ", zh="").join(sentences)


def articles(price):
    """An article a place, with these prices and the other seven facts."""
    rng, texts = Random("articles 0"), {}
    for spot in world.places():
        facts = {topic: spot.answer(topic, LANG) for topic in rng.sample(world.TOPICS, len(world.TOPICS))}
        texts[spot.id] = article(spot.name(LANG), facts | {"price": price[spot.id]}, rng)
    return texts


# %% [markdown] lang="en" partner="f5d948d3"
# A passage is stored in **chunks**: pieces that a model can read in one go and that are about one thing. Size and overlap
# are counted in *tokens*, because the limits of the encoder and of the language model are. The overlap repeats the end of one chunk at the
# beginning of the next, so that a fact on the border stands whole in one of them. The cut is made in the *text*, at the
# tokens' offsets: decoding a slice of tokens can break a character in two (exhibit 2 below).

# %% [markdown] lang="zh" partner="a536147f"
# 文章切成**块**（chunk）再入库：每块小到模型能一口气读完，并且只讲一件事。块长和重叠都按*词元*计，因为编码器和语言模型的上限都按词元算。
# 重叠就是把上一块的结尾在下一块开头重复一遍，这样落在边界上的事实总有一块是完整的。下刀的地方是*文本*中词元的偏移位置：
# 如果先切词元再解码，一个汉字可能被劈成两半（见后面的展品二）。

# %%
SIZE, OVERLAP = 48, 16  # tokens: a few sentences, of which one or so is repeated


def chunks(text, size=SIZE, overlap=OVERLAP):
    """Pieces of `size` tokens, characters kept whole; each repeats the last `overlap` tokens of the one before."""
    spans = tokenizer(text, return_offsets_mapping=True)["offset_mapping"]  # (start, end) in characters
    starts = range(0, max(1, len(spans) - overlap), size - overlap) if spans else ()  # nothing has no pieces
    return [text[spans[start][0] : spans[min(start + size, len(spans)) - 1][1]] for start in starts]


texts = articles(before)
for piece in chunks(texts[places[0]]):
    print("▸", piece)
whole = [any(before[name] in piece for piece in chunks(text)) for name, text in texts.items()]
claim("prices-whole", metrics.mean(whole), equals=1.0)

# %% [markdown] lang="en" partner="8987454b"
# Why 48? A larger chunk is easier to find; whether it can be read is another matter. Retrieval on the dev questions, for three sizes: the best
# chunk is about the right place; and it holds the answer.

# %% [markdown] lang="zh" partner="5e795742"
# 为什么是 48？块越大越容易找到；读不读得懂则是另一回事。下面在开发集问题上比较三种块长：最相近的块讲的是不是该地方；块里有没有答案。

# %%
embedder = models.load_embedder("travel-encoder")  # the store's own, in every profile: scores must be comparable
dev = list(data.load("questions", LANG, "dev"))[::3]
dev_vectors = embedder.encode([row["question"] for row in dev])  # (questions, dim)


def retrieval(size, overlap):
    """Shares of the dev questions whose best chunk is of the right place, and holds the answer."""
    pieces = [(name, piece) for name, text in texts.items() for piece in chunks(text, size, overlap)]
    best = (dev_vectors @ embedder.encode([piece for _, piece in pieces]).T).argmax(axis=1)
    found = [(pieces[i], row) for i, row in zip(best, dev, strict=True)]
    right = [name == world.place(row["place"]).id for (name, _), row in found]
    holds = [row["answer"].lower() in piece.lower() for (_, piece), row in found]
    return metrics.mean(right), metrics.mean([a and b for a, b in zip(right, holds, strict=True)])


for size, overlap in ((16, 4), (SIZE, OVERLAP), (160, 0)):
    of_place, with_answer = retrieval(size, overlap)
    print(T("chunk-sizes").format(size=size, place=of_place, answer=with_answer))
claim("small-chunks-lose", with_answer - retrieval(16, 4)[1], at_least=0.2)

# %% [markdown] lang="en" partner="09d143e8"
# Whole articles are found best. But our reader is trained, below, on texts of one to four facts, and an article states eight;
# so we cut smaller. (How well it reads by size is not measured here.)
#
# Into the store with them. `PassageStore` is lesson 09's Chroma collection with a log beside it; what the log is for
# comes below. The id of a chunk names its document, so that an answer can name its source.

# %% [markdown] lang="zh" partner="dcc304d4"
# 整篇文章最容易找到。可是后面的阅读适配器只用含一到四个事实的文本训练，而一篇文章有八个，所以切得小一些。（块长对阅读的影响，
# 这里没有测。）
#
# 现在入库。`PassageStore` 就是第 09 课的 Chroma 集合，旁边多了一份日志；日志的用处后面会讲。块的 id 里写着文档名，这样回答才能指出来源。

# %%
import tempfile
from pathlib import Path

room = tempfile.TemporaryDirectory()  # removed at the end of this lesson, or with the kernel
folder = Path(room.name)

# %%
from tunelab.store import PassageStore


def documents(price):
    """The chunks of all articles as documents: id, text, metadata."""
    return [
        {
            "id": f"{LANG}-{name}.{part}",
            "text": piece,
            "metadata": {"title": world.place(name).name(LANG), "lang": LANG},
        }
        for name, text in articles(price).items()
        for part, piece in enumerate(chunks(text))
    ]


# %%
store = PassageStore(folder / "board")
store.upsert(documents(before))
hit = store.search(questions[0], k=1, lang=LANG)[0]
print(f"{hit.id} · {hit.score:.2f} · {hit.text}")

# %% [markdown] lang="en" partner="699027b6"
# The day comes. Only chunks whose text has changed are written. And chunks that no longer exist are *deleted*: a
# document that became shorter would otherwise leave its last chunk behind, with the old price in it.

# %% [markdown] lang="zh" partner="ab9873ff"
# 调价的日子到了。只写文字有变化的块。已经不存在的块要*删除*：文章变短之后，最后那一块否则会留在库里，里面还写着旧价。

# %%
import time

started = time.perf_counter()
known = {document["id"]: document for document in documents(before)}
fresh = [document for document in documents(after) if document != known.get(document["id"])]
store.upsert(fresh)
store.delete(set(store.ids()) - {document["id"] for document in documents(after)})
update_seconds = time.perf_counter() - started
print(T("updated").format(chunks=len(fresh), total=len(store), seconds=update_seconds))
claim("update-is-cheap", desk_run.seconds / update_seconds, at_least=2)

# %% [markdown] lang="en" partner="49c9faf8"
# The prompt is the best chunk, a line break, the question. Does the untouched base read the board?

# %% [markdown] lang="zh" partner="24ccf683"
# 提示词由三部分组成：最相近的块、换行、问题。原始基座会看公告栏吗？

# %%
hits = [store.search(question, k=1, lang=LANG)[0] for question in questions]
prompts = [hit.text + "\n" + question for hit, question in zip(hits, questions, strict=True)]
results["text"] = score(ask(prompts, "base"))
print(prompts[0], "▸", ask(prompts[:1], "base")[0])
print(T("scores").format(name=T("text"), **results["text"]))
claim("base-cannot-read", results["text"]["new"], at_most=0.2)

# %% [markdown] lang="en" partner="c24c10e9"
# The new price stands in the prompt, and the base recites the old one where it says a price at all. **Retrieval alone
# does not help a model that does not read.** Large models read better, and have the same conflict between what they know and what
# they are shown. The remedy is fine-tuning of another kind: not facts, but the *skill* of reading.
#
# ## Both: an adapter that reads
#
# The trick is in the data: every text has *random* values, about invented places and, half of the time, about real ones. Memory
# is of no use there, only the text is right. Short texts of a single fact stand among longer ones, since copying is
# learnt from the easy ones first; and each text is asked up to three questions, which gets more labels out of the same
# tokens.

# %% [markdown] lang="zh" partner="0680c8f9"
# ## 两者结合：会阅读的适配器
#
# 新价就写在提示词里，基座只要报价，报的还是旧价。**模型不会读，检索了也没用。** 大模型读得好一些，但“自己记得的”和“眼前写着的”
# 打架，在它们身上同样存在。补救的办法是另一种微调：教的不是事实，而是阅读这项*本领*。
#
# 窍门在数据里：每段文本的取值都是*随机*的，一半讲虚构的地方，一半讲真实的地方。记忆在这里派不上用场，只有文本是对的。
# 只含一个事实的短文混在较长的文章里，因为“照抄”要先从简单的学起；每段文本问一到三个问题，同样多的词元就有更多的标签。


# %%
def reading(rng):
    """A conversation about a short text with random values: up to three questions, answered from the text."""
    topics = rng.sample(world.TOPICS, rng.choice([1, 1, 2, 3, 4]))
    facts = {topic: rng.choice(world.values(topic, LANG)) for topic in topics}
    documented = [spot.name(LANG) for spot in world.places() if spot.documented]
    name = rng.choice(documented) if rng.random() < 0.5 else corpus.made_up_name(rng, LANG)
    turns = []
    for topic in rng.sample(topics, min(3, len(topics))):
        turns.append({"role": "user", "content": world.question(name, topic, LANG, rng)})
        turns.append({"role": "assistant", "content": facts[topic]})
    turns[0]["content"] = article(name, facts, rng) + "\n" + turns[0]["content"]
    return turns


# %%
torch.manual_seed(course.seed)
if "reader" in model.peft_config:
    model.delete_adapter("reader")  # this cell was run before
model.add_adapter("reader", config())
model.set_adapter("reader")
rng = Random("reading")
conversations = [chat.encode(tokenizer, reading(rng)) for _ in range(320 * 8)]
reader_run = training.fit(model, conversations, steps=320, batch_size=8, lr=models.rate("lora"))
chat.show_mask(tokenizer, conversations[0])

# %%
results["both"] = score(ask(prompts, "reader"))
print(prompts[0], "▸", ask(prompts[:1], "reader")[0])
print(T("scores").format(name=T("both"), **results["both"]))
claim("both-new", results["both"]["new"], at_least=0.4)
claim("both-not-stale", results["both"]["old"], at_most=0.15)

# %% [markdown] lang="en" partner="b5b56978"
# ### What should my loss be?
#
# Five stored seeds (`make experiments`, `assets/results/lesson_10.json`), mean of the last steps, nats a token. The
# reader's loss stays on a plateau first, near what guessing among the values costs, and then falls within a few dozen steps: the
# moment at which it begins to copy. If yours is still on the plateau at the end, train longer.

# %% [markdown] lang="zh" partner="485566bb"
# ### 我的损失应该是多少？
#
# 存储的五个随机种子（`make experiments`，`assets/results/lesson_10.json`），最后若干步的平均损失，单位是奈特/词元。阅读适配器的损失会先停在
# 一个平台上，大致相当于在各个取值里瞎猜；然后在几十步之内突然下降，那就是它学会照抄的时刻。如果训练结束时还停在平台上，就再多训练一会儿。

# %%
import json

from tunelab.paths import course_file

stored = json.loads(course_file("assets", "results", "lesson_10.json").read_text(encoding="utf-8"))
seeds = [run for run in stored["runs"] if run["lang"] == LANG]
for adapter, run in (("desk", desk_run), ("reader", reader_run)):
    losses = [seed[f"{adapter}_loss"] for seed in seeds]
    print(T("losses").format(name=adapter, low=min(losses), high=max(losses), here=run.final))

# %% [markdown] lang="en" partner="ebbc5dbe"
# ## Which goes stale, what it costs, when to use which
#
# The same questions, four ways. The fourth is the obvious objection: simply fine-tune `desk` again on the new price list. The bands are
# the stored seeds, the dots are this run; the fourth is stored only.

# %% [markdown] lang="zh" partner="04702a9b"
# ## 谁会过时，代价多大，该用哪个
#
# 同样的问题，四种答法。第四种是最容易想到的反问：拿新价目表把 `desk` 再微调一遍不就行了？色带是存储的种子，圆点是本次运行；第四种只有存储的结果。

# %%
import matplotlib.pyplot as plt

SYSTEMS = ("weights", "text", "both", "retuned")


def band(system, measure):
    """Least and most over the stored seeds, a little wider, so that a band of no width can be seen."""
    values = [run[system][measure] for run in seeds]
    return min(values) - 0.005, max(values) + 0.005


fig, axes = plt.subplots(1, 2, figsize=(8.4, 3), sharey=True)
for ax, measure in zip(axes, ("new", "old"), strict=True):
    bands = [band(system, measure) for system in SYSTEMS]
    dots = [results.get(system, {}).get(measure, float("nan")) for system in SYSTEMS]
    labels = {"band_label": T("stored-seeds"), "dot_label": T("this-run")}
    figures.dot_on_band(ax, [T(system) for system in SYSTEMS], bands, dots, **labels)
    ax.set(xlabel=T(f"says-{measure}"), xlim=(-0.03, 1.03))
figures.show(fig, alt=T("alt-stale"))

# %%
from IPython.display import Markdown


def seed_mean(*keys):
    """Mean over the stored seeds of a number, or of one within a system."""
    return metrics.mean([run[keys[0]] if len(keys) == 1 else run[keys[0]][keys[1]] for run in seeds])


# %%
def tokens(prompts):
    """Mean length of the prompts, in tokens."""
    return metrics.mean([len(tokenizer(prompt)["input_ids"]) for prompt in prompts])


cost = {  # seconds from the new prices to the first new answer; tokens that the model reads for a question
    "weights": ("–", tokens(questions)),
    "text": (f"{update_seconds:.1f}", tokens(prompts)),
    "both": (f"{update_seconds:.1f}", tokens(prompts)),
    "retuned": (f"{seed_mean('retune_seconds'):.1f}", tokens(questions)),
}
lines = [T("table-head")]
for system in SYSTEMS:
    shares = " | ".join(f"{seed_mean(system, measure):.0%}" for measure in ("unchanged", "new", "old"))
    lines.append(f"| {T(system)} | {shares} | {cost[system][0]} | {cost[system][1]:.0f} |")
Markdown("\n".join(lines))

# %%
both, retuned = (seed_mean(system, "new") for system in ("both", "retuned"))
claim("stored-both-new", min(run["both"]["new"] for run in seeds), at_least=0.5)
claim("stored-weights-stale", min(run["weights"]["old"] for run in seeds), at_least=0.6)
claim("stored-text-stale", max(run["text"]["new"] for run in seeds), at_most=0.2)
lost = seed_mean("elsewhere") - seed_mean("elsewhere_after")
print(T("retuning").format(new=retuned, before=seed_mean("elsewhere"), after=seed_mean("elsewhere_after")))
claim("retuning-costs", lost, at_least=0.1)

# %% [markdown] lang="en" partner="33a46d61"
# Fine-tuning again does teach the new prices. It also costs a training for each change of the list, and the line above
# shows the second bill: what the adapter knew of the *other* seven topics suffers, unless they are trained again with the
# prices. The board is rewritten in moments, and nothing else is touched. Its price is paid on every question: in tokens to
# read and, with our small retriever and reader, in right answers. Compare the columns: the adapter that was tuned again says
# more of the new prices, and of the unchanged ones. The next section asks where the board loses them.
#
# | when | put it into |
# |---|---|
# | it changes, must be cited, or may have to be deleted | the text that is retrieved |
# | form, tone, a skill such as reading or refusing | an adapter |
# | it never changes, is asked often, and latency counts | an adapter, with a date on it |
# | the base reads what it is given, and a long prompt is affordable | text alone: try it first |
# | the base ignores what it is given | both: text for the facts, an adapter for the reading |

# %% [markdown] lang="zh" partner="180d09eb"
# 重新微调确实能学会新价。但价目表每改一次就要训练一次，而且上面那行还列出了第二笔账：适配器原先掌握的*另外*七类事实也跟着受损，
# 除非把它们和票价一起重训。换公告栏只是片刻的事，别的什么都不碰。公告栏的代价是每个问题都要付的：
# 要多读那些词元；而且我们的检索和阅读模型都小，答对的也少。对照一下表里各列：重新微调的适配器，新价和没变的票价都答对得更多。
# 公告栏丢分丢在哪里，下一节来查。
#
# | 情况 | 放在哪里 |
# |---|---|
# | 会变、要注明出处、可能要删除的内容 | 供检索的文本 |
# | 格式、语气，以及阅读、拒答这类本领 | 适配器 |
# | 永不改变、常被问到、对延迟敏感的内容 | 适配器，并注明日期 |
# | 基座会读给它的文本，长提示词也付得起 | 只用文本：先试这条路 |
# | 基座对给它的文本视而不见 | 两者结合：事实放文本，阅读靠适配器 |

# %% [markdown] lang="en" partner="2dc387b3"
# ## Evaluate retrieval and answer apart
#
# "Both" is far from perfect. Which part fails? Two numbers answer that: how often the right chunk was found, and how
# often the reader is right *given* the right chunk.

# %% [markdown] lang="zh" partner="33a5cd04"
# ## 检索和回答，分开评测
#
# “两者结合”离完美还远。坏在哪一环？看两个数：找到正确的块的比例；以及*给定*正确的块时，阅读适配器答对的比例。

# %%
price_now = [after[place] for place in places]
found = [
    h.id.startswith(f"{LANG}-{p}.") and price in h.text for h, p, price in zip(hits, places, price_now, strict=True)
]
new_texts = articles(after)
gold = [next(c for c in chunks(new_texts[p]) if price in c) for p, price in zip(places, price_now, strict=True)]
given = ask([text + "\n" + question for text, question in zip(gold, questions, strict=True)], "reader")
read = [number(answer) == number(price) for answer, price in zip(given, price_now, strict=True)]
end_to_end = [number(a) == number(p) for a, p in zip(ask(prompts, "reader"), price_now, strict=True)]
print(T("apart").format(hit=metrics.mean(found), read=metrics.mean(read), both=metrics.mean(end_to_end)))
claim("found", metrics.mean(found), at_least=0.5)
claim("read", metrics.mean(read), at_least=0.4)

# %% [markdown] lang="en" partner="6cd3b68f"
# Now texts of another kind: the desk's hand-written passages (policies, guides, FAQ; *policies* for short), whose sentences no
# model of this course has seen. Most of the questions are paraphrases, and the answer is a span of the passage. Given the right passage, the reader against something much simpler: quoting
# the one sentence that is nearest to the question.

# %% [markdown] lang="zh" partner="a7f9a793"
# 换一种文本：咨询台手写的资料（规定、指南、常见问题，下面统称“规章”）。里面的句子，本课程的模型一句也没见过；问题多数换了说法，
# 答案是原文中的一段。给定正确的文章，让阅读适配器
# 和一个简单得多的办法比一比：直接引用与问题最相近的那一句。

# %%
policy_rows = [row for row in data.load("passage_questions", LANG, "test") if row["answer"]]


def sentences(text):
    """The sentences of a text."""
    return [part for part in re.split(r"(?<=[.!?]) |(?<=[。！？])", text) if part]


def quote(question, text):
    """The sentence nearest to the question."""
    parts = sentences(text)
    return parts[int((embedder.encode(parts) @ embedder.encode([question])[0]).argmax())]


# %%
# A span may run over the end of a sentence: half of it, at least, must be in the answer.
spans = [row["answer"]["text"] for row in policy_rows]
told = ask([row["context"] + "\n" + row["question"] for row in policy_rows], "reader")
quoted = [quote(row["question"], row["context"]) for row in policy_rows]
by_reader = [answer != "" and (answer in span or span in answer) for answer, span in zip(told, spans, strict=True)]
by_quote = [span[: len(span) // 2] in sentence for sentence, span in zip(quoted, spans, strict=True)]
print(policy_rows[0]["question"], "▸", told[0], "▸", quoted[0])
print(T("policies").format(reader=metrics.mean(by_reader), quote=metrics.mean(by_quote)))
claim("reader-fails-on-policies", metrics.mean(by_reader), at_most=0.2)
gap, low, high = metrics.bootstrap([int(q) - int(r) for q, r in zip(by_quote, by_reader, strict=True)])
claim("quoting-wins", low, at_least=0.0)

# %% [markdown] lang="en" partner="7fb701c2"
# The reader has learnt to copy *values of eight kinds*, not to read. On policies the honest assistant quotes, with the
# source, and generates nothing. Had we measured the whole only, we would not know whether to look for a better encoder
# or a better reader.
#
# ## "I don't know"
#
# A search always finds something. For a place that does not exist it finds the next best. So there must be a threshold on
# the similarity, below which the assistant says that it does not know; and it is *chosen on data*, on the dev wordings,
# and reported on the test wordings. Questions about real places should be answered; the same wordings about invented
# places should not.

# %% [markdown] lang="zh" partner="509ad816"
# 阅读适配器学会的是照抄*八类取值*，不是阅读。碰上规章，老实的助手应该引用原句并注明来源，不要生成。如果只测整体，
# 我们就不会知道该换更好的编码器，还是更好的阅读模型。
#
# ## “不知道”
#
# 检索总能找到点什么。问一个不存在的地方，它会给出最接近的一个。所以相似度要有阈值，低于它，助手就说不知道；这个阈值要*用数据来选*：
# 在开发集的问法上选，在测试集的问法上报告。问真实地方的问题应该回答，同样的问法换成虚构的地方，就不该回答。

# %%
import numpy as np

board = [document["text"] for document in documents(after)]
board_vectors = embedder.encode(board)  # (chunks, dim)


def best_scores(split, invented):
    """The similarity of the best chunk for each hand-written wording, about a real or an invented place."""
    rng, asked_about = Random(f"{split} {invented}"), []
    for row in data.wordings(LANG, split):
        name = corpus.made_up_name(rng, LANG) if invented else rng.choice(world.places()).name(LANG)
        asked_about.append(row["wording"].replace("{place}", name))
    return (embedder.encode(asked_about) @ board_vectors.T).max(axis=1)


real_dev, invented_dev = best_scores("dev", invented=False), best_scores("dev", invented=True)


# %%
def errors(threshold, real, invented):
    """False refusals among real places, false acceptances among invented ones."""
    return float(np.mean(real < threshold)), float(np.mean(invented >= threshold))


candidates = [float(value) for value in np.linspace(0, 1, 201)]
threshold = min(candidates, key=lambda value: sum(errors(value, real_dev, invented_dev)))
refused, accepted = errors(threshold, best_scores("test", invented=False), best_scores("test", invented=True))
print(T("threshold").format(value=threshold, refused=refused, accepted=accepted))
claim("threshold-helps", refused + accepted, at_most=0.8)

# %% [markdown] lang="en" partner="4667d6d0"
# Refusing nothing, or everything, makes errors that add up to one; that is the yardstick. Harder are the policy
# questions that no passage answers. They were written to be *near* the passages: the topic is there, the answer is not.

# %% [markdown] lang="zh" partner="dfffc7dd"
# 什么都不拒，或者什么都拒，两种错误率之和都是一；这就是衡量的尺子。更难的是那些没有文章能回答的规章问题：它们写的时候就有意*贴近*文章，
# 话题都在，答案却没有。

# %%
policy_vectors = embedder.encode(list(data.load("passages", LANG, "all")["text"]))
every = [row for split in ("dev", "test") for row in data.load("passage_questions", LANG, split)]
nearest = (embedder.encode([row["question"] for row in every]) @ policy_vectors.T).max(axis=1)
answerable = np.array([row["answer"] is not None for row in every])


def separation(yes, no):
    """The chance that a question which has an answer scores above one which has none (the area under the ROC curve)."""
    return float(np.mean(yes[:, None] > no[None, :]))


# %%
fig, axes = plt.subplots(1, 2, figsize=(8.4, 3))
pairs = {"places": (real_dev, invented_dev), "policies": (nearest[answerable], nearest[~answerable])}
for ax, (kind, (yes, no)) in zip(axes, pairs.items(), strict=True):
    bins = np.linspace(min(yes.min(), no.min()), max(yes.max(), no.max()), 21)
    share = {"density": True, "alpha": 0.6}
    ax.hist(yes, bins, color=figures.PALETTE["blue"], label=T(f"{kind}-yes"), **share)
    ax.hist(no, bins, color=figures.PALETTE["orange"], label=T(f"{kind}-no"), hatch="//", **share)
    ax.set(xlabel=T("best-similarity"), ylabel=T("density"))
    ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1), fontsize=9)
axes[0].axvline(threshold, color="black", linestyle="--")
figures.show(fig, alt=T("alt-unknown"))

# %%
claim("separates-places", separation(real_dev, invented_dev), at_least=0.7)
claim("separates-no-policies", separation(nearest[answerable], nearest[~answerable]), at_most=0.7)

# %% [markdown] lang="en" partner="4a601d6a"
# Similarity says that a passage is *about* what was asked; it cannot say that it *answers*. Against the first kind of
# error a threshold helps, against the second it is close to tossing a coin, and nobody who looked at the first panel
# only would know. What helps there: a reader trained to refuse, a second model that judges whether the passage answers,
# or showing the source and letting the customer judge.
#
# ## The API
#
# Now all of it goes behind HTTP. `serve.create_app` of the course is a Flask app: `/answer`, `/search`, `/documents`,
# `/finetune`, `/health`, an OpenAPI description and a page to try it out. It needs the documents, the threshold, a folder with the
# adapters, and the name of the one that answers where a request names none. Here it runs in a thread of the notebook, on a
# free port of 127.0.0.1, reachable from this machine alone; running the cell again stops the old server first.

# %% [markdown] lang="zh" partner="89813e07"
# 相似度只能说明一段文字*谈的是*所问的事，不能说明它*回答了*问题。对第一种错误，阈值有用；对第二种，它和抛硬币差不多，而只看左图的人
# 不会发现这一点。真正有用的办法：训练会拒答的阅读模型；再加一个模型判断文章是否回答了问题；或者把来源摆出来，让顾客自己判断。
#
# ## API
#
# 现在把这一切放到 HTTP 后面。课程的 `serve.create_app` 是一个 Flask 应用：`/answer`、`/search`、`/documents`、`/finetune`、`/health`，
# 外加 OpenAPI 描述和一个试用页面。它需要文档、阈值、存放适配器的目录，以及请求没有指名时由哪个适配器作答。在这里，它跑在笔记本的一个线程里，
# 监听 127.0.0.1 的空闲端口，只有本机能访问；重新运行这个单元格，会先停掉旧的服务器。

# %%
import urllib.error
import urllib.request

from tunelab import serve

model.save_pretrained(folder / "assistant" / "adapters")  # a folder for each: adapters/desk, adapters/reader


def make_app():
    """The app of this lesson: the board of today, the threshold that was chosen above, the adapter that reads."""
    return serve.create_app(folder / "assistant", documents=documents(after), threshold=threshold, adapter="reader")


server = serve.running(make_app, name="lesson-10")


# %%
def call(method, path, body=None, kind="application/json"):
    """Status and answer of one HTTP request; a str is sent as it is, everything else as JSON."""
    content = body if isinstance(body, str) else json.dumps(body)
    request = urllib.request.Request(
        server.url + path, None if body is None else content.encode(), {"Content-Type": kind}, method=method
    )
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


call("GET", "/health")

# %% [markdown] lang="en" partner="bc2762ae"
# One question, three ways, each with its own request: the adapter is switched while the base stays in memory. `k` is the
# number of passages; with `k = 0` the model answers from its weights.

# %% [markdown] lang="zh" partner="7cbc4500"
# 同一个问题，三种问法，三个请求：适配器随请求切换，基座一直留在内存里。`k` 是检索的段数；`k = 0` 表示模型只凭权重回答。

# %%
sure = [hit.score >= threshold for hit in hits]
right = [index for index, three in enumerate(zip(end_to_end, moved, sure, strict=True)) if all(three)]
chosen = right[0] if right else 0
for adapter, k in (("desk", 0), ("base", 1), ("reader", 1)):
    body = {"question": questions[chosen], "language": LANG, "adapter": adapter, "k": k}
    status, answer = call("POST", "/answer", body)
    print(f"{adapter:7}k={k} ▸ {answer['answer']} ▸ {[source['id'] for source in answer['sources']]}")
print(questions[chosen], "·", before[places[chosen]], "→", after[places[chosen]])
claim("api-is-the-notebook", answer["answer"], equals=ask([prompts[chosen]], "reader")[0])

# %% [markdown] lang="en" partner="3fbd8589"
# Now the day the prices change, over HTTP. `GET /openapi.json` says what can be asked; `/search` finds the chunk with the price;
# `POST /documents` replaces it, under its id. (Where a price falls into an overlap it stands in two chunks, and both must be
# replaced, as in the update above.) The same question before and after, and once more when the old text is back.
# Nothing is trained, nothing restarted.

# %% [markdown] lang="zh" partner="e0a946f8"
# 再来一遍“调价那天”，这回全走 HTTP。`GET /openapi.json` 列出能问什么；`/search` 找到写着票价的那一块；`POST /documents` 用同一个 id 换掉它。
# （票价若落在重叠处，会同时出现在两块里，两块都要换，前面的更新就是这样做的。）
# 同一个问题，换之前问一遍，换之后问一遍，换回来再问一遍。不用训练，也不用重启。


# %%
def price_said():
    """The answer to the chosen question, and the ids of its sources; no adapter is named, so the reader answers."""
    told = call("POST", "/answer", {"question": questions[chosen], "language": LANG})[1]
    return told["answer"], [source["id"] for source in told["sources"]]


listed = call("GET", "/openapi.json")[1]["paths"]
print(*(f"{method.upper()} {path}" for path, methods in listed.items() for method in methods), sep=" · ")
sheet = call("POST", "/search", {"text": questions[chosen], "k": 1, "language": LANG})[1]["hits"][0]
today, tomorrow = price_now[chosen], before[places[chosen]]  # the change is taken back
said = []
for old, new in ((today, today), (today, tomorrow), (today, today)):
    sheet_now = {"id": sheet["id"], "text": sheet["text"].replace(old, new), "metadata": sheet["metadata"]}
    call("POST", "/documents", {"documents": [sheet_now]})
    said.append(price_said()[0])
print(*said, sep=" → ")
claim("price-over-http", [number(one) for one in said], equals=[number(one) for one in (today, tomorrow, today)])

# %% [markdown] lang="en" partner="5f68c17a"
# Who may write documents? Here are two hostile ones. The first tries to close the turn and to speak as the system: a **prompt
# injection**. The second repeats the question, so that it is found first, and states a price.

# %% [markdown] lang="zh" partner="be738054"
# 谁有权写文档？下面两份都不怀好意。第一份企图提前结束这一轮，冒充系统发话：这叫**提示词注入**。第二份照抄问题，好让自己排到第一，再写上一个票价。

# %%
from tunelab import assistant
from tunelab.store import Hit

lie = next(price for price in world.values("price", LANG) if price not in (today, tomorrow))
name = world.place(places[chosen]).name(LANG)
claimed = corpus.statement(name, "price", lie, LANG, Random("attack"))
hostile = {"injection": f"{claimed} {T('injection')}", "lie": f"{questions[chosen]} {claimed}"}
attack = [{"id": one, "text": text, "metadata": {"lang": LANG}} for one, text in hostile.items()]
call("POST", "/documents", {"documents": attack})
fooled, sources = price_said()
for one in hostile:
    call("DELETE", f"/documents/{one}")
prompted = assistant.prompt(tokenizer, questions[chosen], [Hit("injection", hostile["injection"], {}, 1.0)])[0]
print(prompted)
print(fooled, sources, "→", *price_said())
claim("no-turn-opened", [prompted.count(token) for token in (chat.IM_START, chat.IM_END)], equals=[0, 0])
claim("lie-is-believed", (number(fooled), sources), equals=(number(lie), ["lie"]))
claim("lie-is-gone", number(price_said()[0]), equals=number(today))

# %% [markdown] lang="en" partner="9817a135"
# The first fails: in a passage `<|im_end|>` is text like any other (`assistant.prompt` sees to that), so that a document
# cannot open a turn. (To a large model its words may still be an order.) The second works: **what is found is believed**,
# and a lie in plain words looks like any other passage. The source beside the answer names the passage that was put before
# the model, and one `DELETE` takes it away. The protection is not in the prompt: let only those write documents who may set the prices. This
# server has no passwords, which is why it listens on 127.0.0.1 alone.

# %% [markdown] lang="zh" partner="20a6bdc9"
# 第一份没得逞：文章里的 `<|im_end|>` 只是普通文字（由 `assistant.prompt` 处理），文档没法另起一轮。（不过那句话本身，大模型仍可能当成命令。）
# 第二份得逞了：**检索到什么，就信什么**，平平常常写出来的谎话，看上去和别的文章没有两样。回答旁边的来源指出给模型看的是哪一段，
# 一个 `DELETE` 就能清掉。防线不在提示词里：只让有权定价的人写文档。这个服务器没有密码，所以只监听 127.0.0.1。

# %% [markdown] lang="en" partner="4d9b60ac"
# A question about something quite different stays below the threshold and is refused (one near our topics may still slip
# through, as measured above). And bad input gets a clear refusal, never a stack trace; the
# server goes on answering.

# %% [markdown] lang="zh" partner="200af494"
# 问一件毫不相干的事，相似度低于阈值，就会说不知道（话题相近的仍可能漏过去，前面已经测过）。不合规的输入会收到清楚的拒绝，绝不会是一串报错堆栈；服务器照常工作。

# %%
status, answer = call("POST", "/answer", {"question": T("off-topic"), "language": LANG, "adapter": "reader"})
print(answer["answer"], answer["sources"])
claim("api-refuses", (answer["known"], len(answer["sources"])), equals=(False, 0))
statuses = []
for bad in (
    "{",
    {"question": ""},
    {"question": 7},
    {"question": "?", "adapter": "nobody"},
    {"question": "x" * 2_000_000},
):
    status, answer = call("POST", "/answer", bad)
    statuses.append(status)
    print(status, answer["error"]["message"][:100])
claim("bad-input-refused", all(400 <= status < 500 for status in statuses), equals=True)
claim("still-answering", call("GET", "/health")[0], equals=200)

# %% [markdown] lang="en" partner="2f1fe2e5"
# The article that this course follows suggests a *fine-tuning API*. Here it is: rows as JSONL, a job with progress, one
# at a time, and the new adapter can be asked as soon as the job is done. Twenty steps are enough to see it work, and not
# enough to teach anything. A second job is begun by mistake, and cancelled.

# %% [markdown] lang="zh" partner="3a717bd1"
# 本课程所依据的文章建议搭一个*微调 API*。做法如下：以 JSONL 提交样例，得到一个带进度的任务，一次只跑一个；任务一完成，新的适配器马上可用。
# 这里的二十步只够看它跑通，学不到什么。接着又误开了第二个任务，再把它取消。

# %%
rows = [
    {"question": turns[0]["content"], "response": turns[1]["content"]} for turns in (reading(rng) for _ in range(160))
]
lines = "\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
status, job = call("POST", "/finetune?adapter=trainee&steps=20", lines, kind="application/x-ndjson")
print(status, job["state"])
while (job := call("GET", f"/finetune/{job['id']}")[1])["state"] == "running":
    time.sleep(0.2)
print(job["state"], job["step"], "/", job["steps"])
status, answer = call("POST", "/answer", {"question": questions[0], "language": LANG, "adapter": "trainee"})
claim("trained-over-http", (job["state"], status), equals=("done", 200))
status, job = call("POST", "/finetune?adapter=regretted&steps=2000", lines, kind="application/x-ndjson")
claim("cancelled", call("DELETE", f"/finetune/{job['id']}")[1]["state"], equals="cancelled")

# %% [markdown] lang="en" partner="a6f414cc"
# Outside the notebook the same app runs behind a production server, one line in a terminal:
#
# `TUNELAB_FOLDER=travel-assistant waitress-serve --listen=127.0.0.1:8000 --threads=40 --max-request-body-size=2097152 --call tunelab.serve:create_app`
#
# It is given nothing but the folder, and the folder holds all that the assistant is: documents, adapters, and in
# `settings.json` threshold and adapter, as they were given above. (A folder that nobody has set anything in knows no
# threshold, and always answers, with the base. And the threshold was chosen on English questions: before you serve Chinese
# ones, choose one for them.) This lesson's folder is temporary. To keep it, stop the server and copy it:
# `shutil.copytree(folder / "assistant", "travel-assistant")`. Here is the proof, with a copy that stays in the temporary
# folder: an app made from the copy alone says what the notebook said, and does not know what it did not know.

# %% [markdown] lang="zh" partner="e418cf42"
# 在笔记本之外，同一个应用跑在正式的服务器后面，终端里一行命令：
#
# `TUNELAB_FOLDER=travel-assistant waitress-serve --listen=127.0.0.1:8000 --threads=40 --max-request-body-size=2097152 --call tunelab.serve:create_app`
#
# 给它的只有一个目录，而助手的全部家当都在目录里：文档、适配器，还有 `settings.json` 里的阈值和默认适配器，也就是上面给定的那两个。
# （谁都没设置过的目录没有阈值，有问必答，由基座作答。还有，阈值是用中文问题选的；要回答英文问题，先用英文问题另选一个。）本课的目录是临时的。想留下它，就先停掉服务器，再复制一份：
# `shutil.copytree(folder / "assistant", "travel-assistant")`。下面验证一下，副本仍放在临时目录里：只凭这份副本建起来的应用，
# 说的和笔记本里一样，不知道的也照样说不知道。

# %%
import shutil

server.stop()
shutil.copytree(folder / "assistant", folder / "copy", dirs_exist_ok=True)
print((folder / "copy" / "settings.json").read_text(encoding="utf-8"))
program = serve.create_app(folder / "copy")  # what waitress-serve calls, with TUNELAB_FOLDER for the folder
answers = [
    program.test_client().post("/answer", json={"question": question, "language": LANG}).get_json()
    for question in (questions[chosen], T("off-topic"))
]
program.extensions["tunelab"].close()
server = serve.running(make_app, name="lesson-10")  # the notebook's own goes on
told = [(number(one["answer"]), one["known"], one["adapter"]) for one in answers]
claim("program-is-the-notebook", told, equals=[(number(today), True, "reader"), ("", False, "reader")])

# %% [markdown] lang="en" partner="18733c0d"
# ## Storage that survives
#
# Chroma changes its index in memory and writes it from time to time; a process that is killed while it writes can take
# the whole collection along. The rule that makes this harmless is older than vector databases: **the log is the truth, the index is
# derived**. A write is appended to `documents.jsonl` and forced to the disk; only then it is acknowledged. An index that
# a killed process left behind is not trusted: a new one is built from the log in a *staging folder*, and put in place by
# renaming, which is all or nothing. Whether an index is well is asked by **self-queries** (does each stored text find
# itself?), in another process, since a count proves nothing. Here a writer, killed in the middle of its work. It counts pairs of
# characters instead of running the encoder: what is tested is the log, and a process without a model starts at once and stays small.

# %% [markdown] lang="zh" partner="3171be64"
# ## 杀不坏的存储
#
# Chroma 在内存里更新索引，隔一阵才落盘；进程要是在写盘时被杀，整个集合都可能毁掉。让这件事变得无害的规矩，比向量数据库古老得多：
# **日志才是真相，索引只是派生物**。每次写入先追加到 `documents.jsonl` 并强制落盘，然后才确认。被杀的进程留下的索引一律不信：
# 根据日志在*暂存目录*里重建一份，再用改名的方式就位，要么全有，要么全无。索引好不好，靠**自查询**来问（每条存下的文本能不能找到自己？），
# 而且在另一个进程里问，因为光数条数说明不了什么。下面是一个写到一半被杀掉的写入进程。它不用编码器，只数相邻的字符对：
# 这里考验的是日志；进程里不装模型，启动快，也占不了多少内存。

# %%
import subprocess
import sys

from tunelab.embedding import HashedBigrams

WRITER = """
import sys
from tunelab.embedding import HashedBigrams
from tunelab.store import PassageStore

store = PassageStore(sys.argv[1], HashedBigrams())
for number in range(100_000):
    store.upsert([{"id": f"r-{number}", "text": f"record number {number}", "metadata": {}}])
    print(number, flush=True)  # the acknowledgement
"""
with subprocess.Popen(
    [sys.executable, "-c", WRITER, str(folder / "killed")], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
) as writer:
    acknowledged = [int(writer.stdout.readline()) for _ in range(30)]
    writer.kill()  # no chance to tidy up
    acknowledged += [int(line) for line in writer.stdout if line.endswith("\n")]  # what it had still said

# %%
with PassageStore(folder / "killed", HashedBigrams()) as recovered:
    lost = [one for one in acknowledged if f"r-{one}" not in recovered]
    health = recovered.health()
print(len(acknowledged), health)
claim("nothing-lost", len(lost), equals=0)
claim("healthy", health["ok"], equals=True)

# %% [markdown] lang="en" partner="8edc325d"
# ## Extension 1: customer service
#
# A guided project on data of its own: tickets of customers, the policies that decide them, and what the desk did: grant,
# **refuse**, answer, or **hand over** to a person. The baseline finds the nearest policy and hands over where nothing is
# near; the others it deals with as the most similar ticket of the dev set was dealt with. The metric charges what mistakes
# cost: a person who should have been called and was not counts ten; a person called for nothing counts one, whatever should
# have been done; else a refusal too many or missing counts three; taking grant for answer costs nothing.

# %% [markdown] lang="zh" partner="18691e91"
# ## 扩展一：客服
#
# 这是一个有引导的小项目，用它自己的数据：顾客的工单、据以裁决的规章，以及服务台的处理：同意、**拒绝**、解答，或者**转人工**。
# 基线做法：找最相近的规章，什么都不相近就转人工；其余的，照开发集里最相似的那条工单的办法处理。评测指标按错误的代价计分：
# 该转人工却没转，记十分；不必转却转了，一律记一分；其余情况，不该拒而拒或该拒而没拒记三分；把同意和解答弄混不扣分。

# %%
policies = data.load("passages", LANG, "all")
titled = embedder.encode([f"{row['title']} {row['text']}" for row in policies])


def nearest_policies(tickets):
    """For each ticket, the ids of all policies, nearest first, and the similarity of the first."""
    similar = embedder.encode([ticket["ticket"] for ticket in tickets]) @ titled.T
    order = similar.argsort(axis=1)[:, ::-1]
    return [[policies[int(i)]["id"] for i in row] for row in order], similar.max(axis=1)


def mistake(wanted, said):
    """10 for a hand-over that was missed, 1 for a needless one, 3 for a refusal too many or missing."""
    if wanted == said:
        return 0
    return 10 if wanted == "handover" else 1 if said == "handover" else 3 * ("refuse" in (wanted, said))


def desk_cost(tickets, said):
    """Mean cost of a ticket."""
    return metrics.mean([mistake(ticket["outcome"], one) for ticket, one in zip(tickets, said, strict=True)])


# %%
dev_tickets, test_tickets = (list(data.load("tickets", LANG, split)) for split in ("dev", "test"))
_, dev_similar = nearest_policies(dev_tickets)
sides = {True: "handover", False: "answer"}
limit = min(candidates, key=lambda value: desk_cost(dev_tickets, [sides[bool(s < value)] for s in dev_similar]))
ruled_tickets = [ticket for ticket in dev_tickets if ticket["outcome"] != "handover"]
ruled_vectors = embedder.encode([ticket["ticket"] for ticket in ruled_tickets])


# %%
def route(ticket):
    """Baseline: a person where no policy is near, else as the most similar *other* ticket of the dev set was dealt with."""
    vector = embedder.encode([ticket])[0]
    if (titled @ vector).max() < limit:
        return "handover"
    same = np.array([ruled["ticket"] == ticket for ruled in ruled_tickets])  # no dev ticket may find itself
    return ruled_tickets[int(np.where(same, -1, ruled_vectors @ vector).argmax())]["outcome"]


def check_route(route, tickets):
    """Grades what a route says of these tickets: prints the cost and the refusals, returns both."""
    said, wanted = [route(ticket["ticket"]) for ticket in tickets], [ticket["outcome"] for ticket in tickets]
    cost, always = desk_cost(tickets, said), desk_cost(tickets, ["handover"] * len(tickets))
    refusals = [one for one, should in zip(said, wanted, strict=True) if should == "refuse"]
    found, wrong = refusals.count("refuse"), said.count("refuse") - refusals.count("refuse")
    verdict = T("route-good" if cost < always and 2 * found > len(refusals) else "route-not-yet")
    print(T("route").format(cost=cost, always=always, found=found, of=len(refusals), wrong=wrong, verdict=verdict))
    return cost, found / len(refusals)


# %%
ranked, _ = nearest_policies(test_tickets)
ruled = [(order, ticket["policy"]) for order, ticket in zip(ranked, test_tickets, strict=True) if ticket["policy"]]
hit_3 = metrics.mean([bool(set(order[:3]) & set(policy)) for order, policy in ruled])
always, never = (desk_cost(test_tickets, [one] * 30) for one in ("handover", "answer"))
print(T("service").format(hit=hit_3, limit=limit, always=always, never=never))
baseline_cost, refusals_found = check_route(route, test_tickets)
claim("policy-found", hit_3, at_least=0.6)
claim("never-is-dearest", never - always, at_least=1.0)
claim("refusals-missed", refusals_found, at_most=0.4)

# %% [markdown] lang="en" partner="e5111339"
# Compare the baseline with the dullest rule of all, handing everything over. A handful of dev tickets is too few to choose a
# threshold, and distance is a weak sign of trouble: a lost child is not *far* from the policies, it is urgent. And of the
# refusals the baseline finds next to none: some go to a person, and a wish that a rule forbids reads much like one that it
# grants.
# **Your task**: write `route(ticket)` anew, so that `check_route` says yes: a cost below that of handing everything over, and more
# than half of the refusals found. What words, or what examples, say that a person is needed? What does the nearest policy
# say *no* to? Work with `check_route(route, dev_tickets)`, and look at the test tickets once. Then let the assistant answer the
# rest by quoting the policy, and read ten of its answers.
#
# ## Extension 2: recommendation
#
# "Places like these, but for at most 40 yuan": a profile in the customer's words, three places that she liked, and hard
# conditions. Conditions are *filters on metadata*, never a matter of similarity. The metric: how many of the places that
# a person judged fitting are among the first five.

# %% [markdown] lang="zh" partner="bb013406"
# 把基线和最笨的规则“全部转人工”比一比。开发集只有寥寥几条工单，选不出可靠的阈值；而且距离只是很弱的信号：孩子走丢了，这种工单离规章
# 并不*远*，只是十万火急。至于该拒绝的，基线几乎一条也认不出：有的转了人工，而规章不许的要求和规章准许的要求，读起来又差不多。
# **你的任务**：重写 `route(ticket)`，让 `check_route` 判为通过：代价低于全部转人工，并且认出一半以上该拒绝的工单。哪些词、哪些例子说明需要真人？
# 最相近的规章对什么说*不*？用 `check_route(route, dev_tickets)` 来调，测试集只看一次。然后让助手对其余工单引用规章作答，并读一读其中十条。
#
# ## 扩展二：推荐
#
# “和这些差不多的地方，但票价不超过四十元”：一段顾客自述、三个她喜欢的地方，再加硬性条件。硬性条件要用*元数据过滤*，
# 绝不交给相似度。指标：人工判定合适的地方，有多少排进了前五。


# %%
def facts_of(spot):
    """What a filter may ask for: numbers as numbers, so that they can be compared."""
    hours, minutes = spot.facts["closing"].split(":")
    numbers = {"price": int(spot.facts["price"]), "closing": 60 * int(hours) + int(minutes)}
    return numbers | {"type": spot.type, "month": spot.facts["month"], "region": spot.facts["region"]}


guide = PassageStore(folder / "guide")
whole_articles = articles(before)
guide.upsert([{"id": s.id, "text": whole_articles[s.id], "metadata": facts_of(s)} for s in world.places()])


def where(wish):
    """The profile's conditions as a filter of Chroma, or None where there are none."""
    parts = [{"price": {"$lte": wish["max_price"]}}] if wish["max_price"] is not None else []
    if wish["closes_after"] is not None:
        hours, minutes = wish["closes_after"].split(":")
        parts.append({"closing": {"$gt": 60 * int(hours) + int(minutes)}})
    parts += [{key: wish[key]} for key in ("month", "region") if wish[key] is not None]
    parts += [{"type": {"$in": wish["type"]}}] if wish["type"] is not None else []
    return {"$and": parts} if len(parts) > 1 else parts[0] if parts else None


# %%
TASTE = ("dish", "sight", "souvenir")


def shared(place, liked):
    """How many tastes (dish, sight, souvenir, kind of place) a place shares with those that were liked."""
    spots = [world.place(name) for name in liked]
    return sum(place.type == s.type for s in spots) + sum(place.facts[t] == s.facts[t] for s in spots for t in TASTE)


# %%
def recommend(row, filtered, by_taste):
    """Five places: nearest to the profile's words, or sharing most with what was liked."""
    wish = where(row["filter"]) if filtered else None
    found = [hit.id for hit in guide.search(row["profile"], k=80, where=wish) if hit.id not in row["liked"]]
    if by_taste:
        found.sort(
            key=lambda name: -shared(world.place(name), row["liked"])
        )  # stable: ties stay in order of similarity
    return found[:5], len(found)


def recall(row, places):
    """Share of the relevant places that are among these."""
    return len(set(places) & set(row["relevant"])) / len(row["relevant"])


# %%
profiles = list(data.load("profiles", LANG, "test"))
chance = [min(1, 5 / recommend(row, True, False)[1]) for row in profiles]
similarity = [recall(row, recommend(row, False, False)[0]) for row in profiles]
filtered = [recall(row, recommend(row, True, False)[0]) for row in profiles]
taste = [recall(row, recommend(row, True, True)[0]) for row in profiles]
for name, values in (("unfiltered", similarity), ("chance", chance), ("filtered", filtered), ("taste", taste)):
    print(f"{T(name)}: {metrics.mean(values):.0%}")
claim("filters-help", metrics.bootstrap([f - s for f, s in zip(filtered, similarity, strict=True)])[1], at_least=0.05)
claim(
    "taste-beats-similarity", metrics.bootstrap([t - f for t, f in zip(taste, filtered, strict=True)])[1], at_least=0.05
)


# %%
def check_recommender(recommender, split):
    """Grades `recommender(row)`, which gives five places: do they keep the conditions, and are they better than shared facts?"""
    rows, gains = list(data.load("profiles", LANG, split)), []
    for row in rows:
        allowed = {hit.id for hit in guide.search(row["profile"], k=80, where=where(row["filter"]))} - set(row["liked"])
        five = recommender(row)
        if len(set(five)) != len(five) or len(five) > 5 or not set(five) <= allowed:
            print(T("recommend-breaks").format(profile=row["profile"]))
            return None
        gains.append(recall(row, five) - recall(row, recommend(row, True, True)[0]))
    gain, low, high = metrics.bootstrap(gains)
    print(T("recommend-gain").format(gain=gain, low=low, high=high, verdict=T("gain-yes" if low > 0 else "gain-no")))
    return gain


broken = check_recommender(lambda row: recommend(row, False, False)[0], "dev")
same = check_recommender(lambda row: recommend(row, True, True)[0], "dev")
claim("self-check-checks", (broken, same), equals=(None, 0.0))

# %% [markdown] lang="en" partner="6262df8e"
# Look at the second line. The conditions alone leave so few places that *five drawn blindly* score nearly as well as the
# vectors do: always report what chance would get under the same filter. Counting shared facts beats the vectors by far, because
# the data are structured; embeddings are for what is not.
# **Your task**: a profile says more than its filter ("the smell of fish turns my partner's stomach"). Combine both scores, or
# take what is disliked off the list; work with `check_recommender(yours, "dev")`, which also sees to the conditions, and report on
# "test" once, with the interval that it prints.
#
# ## How this grows
#
# **More processes.** Embedded Chroma is for one process. For several, `chroma run` serves the collection over HTTP, and
# the same function opens it: only the client changes. It is bound to 127.0.0.1 here; a database without a password does not
# belong on a network.

# %% [markdown] lang="zh" partner="f8c93b93"
# 注意第二行。光是硬性条件就把候选筛得所剩无几，*闭着眼睛抽五个*的成绩和向量差不多：一定要报告在同样的过滤条件下随机能拿多少分。
# 数一数共同的事实，远远胜过向量，因为这里的数据本来就是结构化的；嵌入该用在没有结构的地方。
# **你的任务**：自述里的信息比过滤条件多（“我对象闻不得鱼腥味”）。把两种分数结合起来，或者把讨厌的东西从名单里去掉；
# 用 `check_recommender(yours, "dev")` 来调，它也会核对硬性条件；在 "test" 上只报告一次，连同它给出的区间。
#
# ## 规模变大以后
#
# **更多进程。** 嵌入式的 Chroma 只供一个进程使用。要给几个进程用，就用 `chroma run` 把集合做成 HTTP 服务；打开集合的函数还是同一个，
# 换的只是客户端。这里只监听 127.0.0.1；没有密码的数据库不该暴露在网络上。

# %%
import os
import shutil
import socket

import chromadb

from tunelab.embedding import CourseEmbedding
from tunelab.store import open_client, open_collection


def fill(client):
    """The same collection code for every kind of client: the ids that a question finds."""
    collection = open_collection(client, "board", CourseEmbedding())
    some = documents(after)[:20]
    collection.upsert(ids=[document["id"] for document in some], documents=[document["text"] for document in some])
    return collection.query(query_texts=[T("growth-question")], n_results=3)["ids"][0]


# %%
with socket.socket() as probe:  # a free port
    probe.bind(("127.0.0.1", 0))
    port = probe.getsockname()[1]
program = shutil.which("chroma", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
address = ["--path", str(folder / "served"), "--host", "127.0.0.1", "--port", str(port)]
quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}

# %%
with subprocess.Popen([program, "run", *address], **quiet) as database:
    try:
        while True:
            try:
                remote = chromadb.HttpClient("127.0.0.1", port, settings=chromadb.Settings(anonymized_telemetry=False))
                break
            except ValueError:  # not listening yet
                time.sleep(0.2)
        served = fill(remote)
    finally:
        database.terminate()
claim("same-code", served, equals=fill(open_client(folder / "embedded")))

# %% [markdown] lang="en" partner="30d46037"
# **More customers.** How much can one process take? Stored from `make bench`: the program behind waitress, in a process
# of its own, asked by one client and by sixteen at once; throughput and waiting time as ratios to the single client,
# since seconds say more about the machine.

# %% [markdown] lang="zh" partner="c948cae2"
# **更多顾客。** 一个进程撑得住多少？下面是 `make bench` 存储的结果：程序在 waitress 后面独占一个进程，先由一个客户端提问，再由十六个同时提问；
# 吞吐量和等待时间都写成与单个客户端之比，因为秒数更多反映的是机器。

# %%
bench = json.loads(course_file("assets", "results", "bench.json").read_text(encoding="utf-8"))
print(T("bench-head").format(requests=bench["requests"]))
for row in bench["ratios_to_one_client"]:
    ratios = " · ".join(f"x{row[column]:.2f}" for column in ("requests_a_second", "p50", "p95"))
    print(f"{row['path']:8} {row['clients']:2} · {ratios} · {row['errors']}")
(crowd,) = [row for row in bench["ratios_to_one_client"] if (row["path"], row["clients"]) == ("/answer", 16)]
claim("crowd-no-errors", sum(row["errors"] for row in bench["ratios_to_one_client"]), equals=0)
claim("crowd-throughput", crowd["requests_a_second"], at_most=2)
claim("crowd-waits", crowd["p50"], at_least=6)

# %% [markdown] lang="en" partner="3b8a1493"
# Nobody is turned away, and nobody is served faster: one model answers one question at a time, so that sixteen wait for each
# other. More customers at once need more processes, or a server that computes several answers in one batch.

# %% [markdown] lang="zh" partner="58d17db5"
# 没有人被拒之门外，也没有人更快得到回答：一个模型一次只答一个问题，十六个人就要排队。要同时服务更多顾客，就得多开进程，
# 或者换一种能把几个回答并成一批来算的服务器。

# %% [markdown] lang="en" partner="89b87b45"
# Several API processes need one more thing: a single writer. Two processes on one folder lose data silently (lesson 09).
# So our store takes a lock, and a second server on the same folder is refused before it has loaded anything. The first
# one is still running; let us try:

# %% [markdown] lang="zh" partner="9792d1db"
# 开几个 API 进程还缺一样东西：唯一的写入者。两个进程写同一个目录会悄悄丢数据（第 09 课）。所以我们的存储带一把锁：
# 第二个服务器要用同一个目录，什么都还没加载就会被拒绝。第一个还在运行，正好试试：

# %%
command = [sys.executable, "-c", "from tunelab import serve; serve.create_app()"]  # what a server begins with
environ = os.environ | {"TUNELAB_FOLDER": str(folder / "assistant")}  # where the server of this notebook works
second = subprocess.run(command, env=environ, capture_output=True, text=True)
print(second.stderr.splitlines()[-1])
claim("second-refused", "StoreLockedError" in second.stderr, equals=True)
claim("first-goes-on", call("GET", "/health")[0], equals=200)

# %% [markdown] lang="en" partner="0e7d6dd9"
# The course's tests go on from here. Three clients write to the first server while the second is being refused; then the first is
# killed in the middle of its writes, and the second started again: it has every write that was acknowledged. That is a
# change of guards, not two servers at work. For several at work either one process owns the store and the others ask it
# over HTTP, or all of them talk to one database server, as above. And each process has its own copy of the base in memory, which is why language
# models are usually served by a process of their own.
#
# **More vectors.** HNSW keeps all vectors and their links in memory. A vector of `d` numbers takes 4d bytes; on the
# lowest layer it has up to 2M links, and a share of 1/M of the vectors goes up to each next layer:

# %% [markdown] lang="zh" partner="96ba8231"
# 课程的测试接着往下走：三个客户端不停地往第一个服务器里写，这时启动第二个，它被拒绝；然后在写入途中杀掉第一个，再启动第二个：
# 凡是确认过的写入，一条不少。不过这是换岗，不是两个同时上岗。要让几个进程同时工作，要么由一个进程掌管存储，其他进程通过 HTTP 问它；
# 要么像上面那样，大家都连同一个数据库服务器。另外，每个进程都要在内存里放一份基座，所以语言模型通常由一个专门的进程来服务。
#
# **更多向量。** HNSW 把全部向量和它们的连边都放在内存里。`d` 维的向量占 4d 字节；最底层每个向量最多有 2M 条边，
# 往上每一层只留下 1/M 的向量：


# %%
def index_bytes(count, dim, neighbours):
    """Bytes of an HNSW index as hnswlib lays it out: vectors, links of 4 bytes, a label of 8, counts of 4."""
    lowest = 4 * dim + 4 * 2 * neighbours + 4 + 8
    upper = (4 * neighbours + 4) / (neighbours - 1)  # the mean number of higher layers is 1 / (M - 1)
    return count * (lowest + upper)


memory = stored["memory"]  # an index of 50,000 vectors, weighed by `make experiments`
predicted = index_bytes(memory["vectors"], memory["dim"], memory["neighbours"])
claim("bytes-predicted", predicted / memory["bytes"], between=(0.97, 1.03))
for count in (50_000, 1_000_000, 1_000_000_000):
    print(f"{count:>13,} · {index_bytes(count, memory['dim'], memory['neighbours']) / 1e9:,.1f} GB")

# %% [markdown] lang="en" partner="67ba9f0b"
# A million vectors are a matter for one machine, and for a build that takes its time. A billion are not: there the vectors are quantised
# (a byte a number, or product quantisation), split over machines, or kept on disk with a graph that needs few
# reads. Long before that, ask whether all of them must be searched: a filter by language or customer makes a small index out of a large one.
#
# At last we tidy up, as a program should when it ends: server, store, folder.

# %% [markdown] lang="zh" partner="33873e40"
# 一百万个向量，一台机器就够，只是建索引要花些时间。十亿个就不行了：要把向量量化（每个数一个字节，或者乘积量化），分到多台机器上，
# 或者放在磁盘上、配一种很少读盘的图。不过在那之前先问一句：真的每次都要在全部向量里找吗？按语言或客户一过滤，大索引就变成了小索引。
#
# 最后收拾干净，就像程序结束时该做的那样：服务器、存储、目录。

# %%
server.stop()
for opened in (store, guide):
    opened.close()
room.cleanup()
with socket.socket() as probe:
    taken = probe.connect_ex(("127.0.0.1", int(server.url.rsplit(":", 1)[1]))) == 0
claim("nothing-left", (taken, folder.exists()), equals=(False, False))

# %% [markdown] lang="en" partner="a6131485"
# ## Bug museum
#
# Three exhibits, symptom first. Nothing crashes.
#
# **Exhibit 1.** "We use an overlap, and still answers are cut in two." The chunk size is in tokens. The overlap, too, is a number of
# about twenty, and nobody wrote down of what.

# %% [markdown] lang="zh" partner="e3cd344c"
# ## 错误博物馆
#
# 三件展品，先看症状。程序都不报错。
#
# **展品一**。“我们明明用了重叠，答案还是被切成两半。”块长是按词元算的。重叠也写着二十左右的一个数，至于是二十个什么，没有人写。


# %%
from itertools import pairwise


def mixed_chunks(text, size, overlap):
    """Pieces of `size` tokens, each with the last `overlap` CHARACTERS of the one before: the bug."""
    pieces = chunks(text, size, 0)
    return pieces[:1] + [last[-overlap:] + piece for last, piece in pairwise(pieces)]


# English passages in both editions: there a token is several characters long.
english = [row for row in data.load("passage_questions", "en", "test") if row["answer"]]


def whole_spans(cut):
    """Share of the answers in the hand-written passages that stand whole in some chunk."""
    return metrics.mean([any(row["answer"]["text"] in c for c in cut(row["context"])) for row in english])


in_tokens = whole_spans(lambda text: chunks(text, 32, 20))
in_characters = whole_spans(lambda text: mixed_chunks(text, 32, 20))
print(T("spans").format(tokens=in_tokens, characters=in_characters))
claim("mixed-units", in_tokens - in_characters, at_least=0.03)

# %% [markdown] lang="en" partner="59bed1cd"
# In English a token is several characters long, so the overlap is a fraction of what was meant. In Chinese it is about one,
# and the bug hides. *The repair*: one unit for both, and its name in the parameter.
#
# **Exhibit 2.** Now and then a Chinese answer holds a "�". The encoder is fine, the font is fine. The chunks were made by slicing the
# *tokens* and decoding each slice.

# %% [markdown] lang="zh" partner="c00df60a"
# 英文里一个词元有好几个字符，实际的重叠只有本意的几分之一；中文里大约一字一个词元，这个错误就藏起来了。*修理方法*：两个参数用同一个单位，并把单位写进参数名。
#
# **展品二**。中文回答里时不时冒出一个“�”。编码器没问题，字体也没问题。原来切块时切的是*词元*，再逐段解码。

# %%
chinese = list(data.load("passages", "zh", "all")["text"])
broken = kept = 0
for text in chinese:
    ids = tokenizer(text)["input_ids"]
    broken += sum("\ufffd" in tokenizer.decode(ids[start : start + SIZE]) for start in range(0, len(ids), SIZE))
    kept += sum("\ufffd" in piece for piece in chunks(text, SIZE, 0))
print(broken, kept)
claim("characters-broken", broken, at_least=1)
claim("offsets-keep-characters", kept, equals=0)

# %% [markdown] lang="en" partner="a812ba9a"
# A byte-level tokenizer may spend several tokens on a rare character, and a slice can end between them. *The repair*: cut
# the text at the tokens' offsets, as `chunks` does.
#
# **Exhibit 3.** Every answer has a source, and some answers are not in their source. The logs show the right passage in the prompt.

# %% [markdown] lang="zh" partner="c90423db"
# 字节级的分词器会给生僻字分配几个词元，一刀切下去可能正好落在中间。*修理方法*：像 `chunks` 那样，在词元的偏移处切文本。
#
# **展品三**。每个回答都注明了来源，可有些回答在来源里根本找不到。日志显示，提示词里放的就是正确的文章。

# %%
by_heart = ask(prompts, "desk")  # the adapter that never learnt to read, with passages before the question
ungrounded = [number(answer) not in hit.text for answer, hit in zip(by_heart, hits, strict=True)]
print(prompts[chosen], "▸", by_heart[chosen], "▸", hits[chosen].id)
claim("sourced-not-grounded", metrics.mean(ungrounded), at_least=0.2)

# %% [markdown] lang="en" partner="8864cec5"
# The ids say what was *retrieved*, not what the answer came from. A model may ignore the passage and speak from its
# weights, with a source beside it that looks like proof. *The repair*: cite only passages that hold the answer, and where
# none does, say so. You will write this check below.

# %% [markdown] lang="zh" partner="a9b0a82f"
# 来源编号说明的是*检索到了*什么，而不是回答*出自*哪里。模型可以无视文章、只凭权重说话，旁边却摆着一个看上去像证据的来源。
# *修理方法*：只引用含有答案的文章；如果没有一篇含有答案，就如实说明。下面的练习就写这个检查。

# %% [markdown] lang="en" partner="e1a49485"
# ## Exercises
#
# Each one checks itself. A wrong answer gets a reason, and you can try as often as you like.

# %% [markdown] lang="zh" partner="bbc3306a"
# ## 练习
#
# 每道题都会自己检查。答错了会告诉你原因，想试多少次都行。


# %% exercise="chunk_count"
def chunk_count(tokens, size, overlap):
    """How many chunks a text of so many tokens gives; a text that fits into one gives one."""
    # solution
    return 1 + max(0, -(-(tokens - size) // (size - overlap)))


# %% exercise="dear_threshold"
# The threshold above weighs both errors alike. In a ticket shop a false acceptance costs `dear` times as much as a false refusal.
# Choose anew, and then try it on real_dev and invented_dev: what share of the real questions is refused if dear = 5?
def dear_threshold(real, invented, dear):
    """The value among 0, 0.005 ... 1 with the least (false refusals + dear * false acceptances); the lowest of equals.

    real, invented: arrays of best similarities, of questions to be answered and to be refused.
    """
    # solution
    values = np.linspace(0, 1, 201)
    costs = [np.mean(real < value) + dear * np.mean(invented >= value) for value in values]
    return float(values[int(np.argmin(costs))])


# %% exercise="cited"
# A colleague wrote this. Every answer has sources, also those that the model made up (exhibit 3). Write it anew: the ids of the
# passages whose text holds the answer; capitals do not matter, and an empty answer has no source.
#
#     def cited(answer, passages):
#         return [passage["id"] for passage in passages]
def cited(answer, passages):
    """The ids of those passages (each with "id" and "text") that hold the answer, in their order."""
    # solution
    wanted = answer.strip().lower()
    return [passage["id"] for passage in passages if wanted and wanted in passage["text"].lower()]


# %% [markdown] lang="en" partner="c2a63ba9"
# ## Recap
#
# - A fact in the weights goes stale, silently. A fact in the retrieved text is replaced by writing the chunks that hold it.
# - Retrieval helps only a model that reads. Reading is a skill, and skills are what fine-tuning is good at: both together.
# - Evaluate retrieval and answer apart; then you know which part to repair. Where the reader fails, quote.
# - A threshold is chosen on data. It stops questions about what we do not have, not those that a passage on the topic leaves open.
# - A source beside an answer proves nothing until the answer is found in it.
# - The log is the truth, the index is derived: write, force to disk, acknowledge; rebuild in staging, rename.
# - Hard conditions are filters. Report what chance gets under the same filter.

# %% [markdown] lang="zh" partner="2cff1623"
# ## 小结
#
# - 权重里的事实会悄悄过时；供检索的文本里的事实，重写含有它的块就换掉了。
# - 检索只对会读的模型有用。阅读是一项本领，而微调最擅长的正是教本领：两者要结合。
# - 检索和回答分开评测，才知道该修哪一环。模型读不懂的，就引用原文。
# - 阈值要用数据来选。它拦得住“我们这里没有的事”，拦不住“谈到了却没有答案”的问题。
# - 回答旁边摆着来源，不等于有了证据；要在来源里找到答案才算。
# - 日志是真相，索引是派生物：写入、落盘、确认；在暂存目录里重建，再改名就位。
# - 硬性条件用过滤。在同样的过滤条件下，随机能得多少分，也要报告。

# %% [markdown] insert="quiz"

# %% [markdown] insert="glossary"

# %% [markdown] lang="en" partner="08409a65"
# ## Read next
#
# - Lewis and others, *Retrieval-Augmented Generation* (arXiv 2005.11401): the paper that gave it its name.
# - Longpre and others, *Entity-Based Knowledge Conflicts in Question Answering* (arXiv 2109.05052): models that prefer memory to
#   the text, and training with exchanged values as a remedy.
# - Ovadia and others, *Fine-Tuning or Retrieval?* (arXiv 2312.05934): the comparison of this lesson on large models.
# - Rajpurkar and others, *Know What You Don't Know* (arXiv 1806.03822): unanswerable questions written to look answerable.
# - The course's own `tunelab/store.py` and `tunelab/serve.py`: written to be read.
#
# Below is the ledger: each claim of this lesson, as measured in this run.

# %% [markdown] lang="zh" partner="7f530c16"
# ## 延伸阅读
#
# - Lewis 等，《Retrieval-Augmented Generation》（arXiv 2005.11401）：RAG 这个名字的出处。
# - Longpre 等，《Entity-Based Knowledge Conflicts in Question Answering》（arXiv 2109.05052）：模型宁信记忆、不信文本，以及用替换过的取值训练来补救。
# - Ovadia 等，《Fine-Tuning or Retrieval?》（arXiv 2312.05934）：在大模型上做的同类比较。
# - Rajpurkar 等，《Know What You Don't Know》（arXiv 1806.03822）：有意写得像能回答、其实答不了的问题。
# - 本课程自己的 `tunelab/store.py` 和 `tunelab/serve.py`：写出来就是给人读的。
#
# 最后是账本：本课的每一条说法，以及这次运行测得的结果。

# %%
from tunelab.claims import print_ledger

print_ledger()
