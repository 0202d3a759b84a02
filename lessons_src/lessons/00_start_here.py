# %% [markdown] lang="en" partner="cdbd311e"
# # 00 · Start here
#
# **After this lesson you can**
# - tell what this course does, and in which order to read it;
# - run a lesson, experiment in it, and get back to where it was;
# - read a claim, and use an exercise with its check, hint and solution;
# - say what answers have to beat before they are worth anything: the guess that needs no model.
#
# **Before you start**: Python. No GPU, no network.
# **Time**: about 15 minutes; the cells themselves run for a few seconds.
# **Memory**: 1 GB.

# %% [markdown] lang="zh" partner="b082eb55"
# # 00 · 从这里开始
#
# **学完这一课，你能够**
# - 知道这门课讲什么、按什么顺序读；
# - 运行一课，在里面随意做实验，再回到原样；
# - 看懂一条“断言”，会用练习的检查、提示和答案；
# - 说出一个答案至少要胜过什么才算有用：那个根本不需要模型的猜法。
#
# **预备知识**：会 Python。不需要 GPU，不需要联网。
# **时间**：约 15 分钟；代码本身几秒钟跑完。
# **内存**：1 GB。

# %%
from tunelab import T, check, claim, start

LANG = "en"
course = start("00", LANG)

# %% [markdown] lang="en" partner="4bdb4ed9"
# ## One desk, ten lessons
#
# You run the information desk of Yunlan Province. Travellers ask what a ticket costs, when a museum closes, which bus to
# take. By the end of the course a language model answers for you, over HTTP, and says which document its answer
# comes from. Every lesson works on this one desk.
#
# The province is fiction, and that is a method. A model from the internet may have read any real question before, and then
# nobody can tell what *your* training taught it. Nothing about Yunlan stands anywhere but here. What a model knows about
# it, it learnt in this course, and you can see when.

# %% [markdown] lang="zh" partner="375559a8"
# ## 一个咨询台，贯穿全课
#
# 你负责云澜省的旅游咨询台。游客来问门票多少钱、博物馆几点关门、坐哪路车。学完整门课，会有一个语言模型替你作答：走
# HTTP 接口，还会说明答案出自哪份资料。每一课用的都是这同一个咨询台。
#
# 这个省是虚构的，而虚构本身就是方法。换成真实的问题，网上下载的模型可能早就读过，谁也说不清*你的*训练到底教会了
# 它什么。云澜省的一切只在这里出现过：模型知道什么，都是在这门课里学的，而且你看得见是在哪一步学的。

# %%
from tunelab import world

spot = world.place("heron-lake")
print(spot.name(LANG))
for topic in world.TOPICS:
    print(f"  {world.topics()[topic][LANG]:14} {spot.answer(topic, LANG)}")

# %% [markdown] lang="en" partner="322a9e47"
# That is one place with everything there is to know about it. How much is it in all? In this course such a number is never
# typed into the text. The cell below counts, and **claims** what it counted:

# %% [markdown] lang="zh" partner="70e022ef"
# 这就是一个地方，以及关于它能知道的一切。总共有多少？在这门课里，这样的数字从不写死在文字中。下面的单元格先数，再把
# 数出来的结果作为**断言**列出来：

# %%
facts = [(spot.id, topic) for spot in world.places() for topic in spot.facts]
claim("places", len(world.places()), equals=80)
claim("facts", len(facts), equals=8 * 80)

# %% [markdown] lang="en" partner="d3743038"
# ## How to read a claim
#
# From left to right: whether it came out as the course says, what it says, what was measured in *this* run, and the bound
# it has to keep. The ledger at the end of a lesson adds its name and its kind. There are three kinds. **exact** is arithmetic. **measured** is the outcome of an experiment, with a bound
# that held for five seeds in both languages before it was written down. **article** is something that people often say
# about fine-tuning; the course checks it, and some of it turns out false. A false one is shown like this:

# %% [markdown] lang="zh" partner="1293c76a"
# ## 怎么读一条断言
#
# 从左到右依次是：结果是否和课程说的一致、内容、*这一次*运行测到的值、必须满足的范围。课末的账本还会列出名称和类别。类别有三种。**精确**是算术。**测量**
# 是实验结果，它的范围在写下之前，已在两种语言、五个随机种子上都成立。**文章**是人们谈微调时常说的话，课程会去核对，
# 其中有些并不成立。不成立的会这样显示：

# %%
bytes_each = {"weight": 2, "gradient": 2, "AdamW, fp32 copy and two moments": 12}  # mixed precision, for one parameter
claim("full-14gb", 7e9 * sum(bytes_each.values()) / 1e9, at_most=14, expected=False)

# %% [markdown] lang="en" partner="3390d2af"
# Fourteen gigabytes hold the weights. Training needs more than the weights: lesson 03 draws up the bill, and measures it.
#
# And if *you* break a claim? Do it: change `80` above to `79` and run that cell. You get a ✗ and a line about what to do;
# nothing stops, nothing is lost. Claims are there so that you notice what an experiment changed. Breaking them is the best
# way to use this course. To get back: undo the change, then *Kernel → Restart Kernel and Run All Cells*.
#
# Every cell can be run twice in a row, and every lesson begins from nothing: no lesson needs another one's files.

# %% [markdown] lang="zh" partner="78085877"
# 14 GB 只装得下权重，而训练要的不止是权重。第 03 课会把这笔账一项项列出来，并实际测量。
#
# 那要是*你*把断言弄坏了呢？现在就试：把上面的 `80` 改成 `79`，运行那个单元格。你会看到一个 ✗ 和一行说明；程序不会停，
# 什么也不会丢。断言就是用来让你看清实验改变了什么的，把它弄坏正是这门课最好的用法。要恢复原样：撤销改动，再点
# *Kernel → Restart Kernel and Run All Cells*。
#
# 每个单元格都可以连着运行两次；每一课都从零开始，不依赖别的课留下的文件。

# %% [markdown] lang="en" partner="d830fd17"
# ## What has to be beaten
#
# Before any model: how good is an answer that needs none? Whoever always names the commonest ticket price is right now and
# then. A model that is right as often has learnt nothing. Such a guess is a **baseline**: whenever you read a
# score, ask what its baseline is. Here is the one for every topic:

# %% [markdown] lang="zh" partner="fb69a28c"
# ## 至少要胜过什么
#
# 先不谈模型：完全不用模型的答案有多好？不管问哪里，都报最常见的那个票价，总有几次碰对。一个模型如果只对这么多次，
# 那它什么也没学到。这样的猜法就是**基线**：每看到一个分数，先问它的基线是多少。下面是各个话题的基线：

# %%
from collections import Counter

import matplotlib.pyplot as plt

from tunelab import figures

shares = {}
for topic in world.TOPICS:
    counts = Counter(spot.answer(topic, LANG) for spot in world.places())
    shares[topic] = counts.most_common(1)[0][1] / counts.total()

figure, axes = plt.subplots(figsize=(6, 3))
axes.barh([world.topics()[topic][LANG] for topic in shares], list(shares.values()), color=figures.PALETTE["blue"])
axes.invert_yaxis()
axes.set_xlabel(T("share"))
figures.show(figure, alt=T("alt-share"))

# %%
claim("guess-is-weak", max(shares.values()), at_most=0.2)

# %% [markdown] lang="en" partner="63683b5c"
# ## Exercises
#
# An exercise is a cell that is not finished. Fill it in, run it, run the check below it. The check says whether it is
# right, and if it is not, *what* is wrong: it has been tested with wrong answers too. Hint and solution are folded away
# underneath. Running an untouched check is harmless. Three short ones to warm up:

# %% [markdown] lang="zh" partner="150db2f1"
# ## 练习
#
# 练习就是一个没写完的单元格。把它补全、运行，再运行下面的检查。检查会告诉你对不对；不对的话，会说*错在哪里*，因为它
# 也用各种错误答案测试过。提示和答案折叠在下方。没动过的练习直接运行检查也没关系。先用三个小题热身：


# %% exercise="majority_share"
def majority_share(answers):
    """Share of `answers` (a list of strings) that equal the commonest one."""
    # solution
    return max(answers.count(answer) for answer in set(answers)) / len(answers)


# %% exercise="easiest_topic"
# For which topic would the guesser be right most often? One of world.TOPICS.
# solution
easiest_topic = max(shares, key=shares.get)


# %% exercise="is_right"
# A colleague wrote this, and nearly every answer is found right. Write it anew.
#
#     def is_right(answer, truth):
#         return truth.lower() in answer.lower()
def is_right(answer, truth):
    """Whether an answer is right; capitals and spaces around it do not matter."""
    # solution
    return answer.strip().lower() == truth.strip().lower()


# %% [markdown] lang="en" partner="532c4372"
# ## Is this machine ready?
#
# `doctor()` looks at versions, memory, fonts and files. Each line says ok, or what to do.

# %% [markdown] lang="zh" partner="28643375"
# ## 这台机器准备好了吗？
#
# `doctor()` 给运行环境做一次体检：版本、内存、字体和文件。每一行要么没问题，要么告诉你怎么办。

# %%
from tunelab import doctor

ready = doctor()

# %% [markdown] lang="en" partner="2b99c07b"
# ## Which way through
#
# | you want | read |
# |---|---|
# | to understand fine-tuning from the ground up | 01, 02, 03, ... in order |
# | to fine-tune your own model with LoRA this afternoon | 01, then 08; 07 when you wonder why it works |
# | to know what fits on your GPU | 03, then 05 |
# | to build search or retrieval over documents | 09, then 10 |
# | to judge whether a model got better | 06 |
#
# The tiny models of the course live in the repository and run on a CPU. On Colab with a GPU the same cells run on
# Qwen2.5-0.5B instead; the first cell of each lesson installs what Colab lacks. Claims about scores on the province are
# judged for the tiny models alone.

# %% [markdown] lang="zh" partner="12063fe2"
# ## 怎么走
#
# | 你想 | 读 |
# |---|---|
# | 从头弄懂微调 | 按顺序读 01、02、03…… |
# | 今天下午就用 LoRA 微调自己的模型 | 01，然后 08；想知道原理时读 07 |
# | 弄清自己的显卡装得下什么 | 03，然后 05 |
# | 给自己的文档做搜索或检索问答 | 09，然后 10 |
# | 判断模型到底有没有变好 | 06 |
#
# 课程自带的小模型就在仓库里，CPU 就能跑。在带 GPU 的 Colab 上，同样的单元格会改用 Qwen2.5-0.5B；每课第一个单元格会
# 装好 Colab 缺的包。关于云澜省得分的断言，只对自带的小模型判定。

# %% [markdown] lang="en" partner="f7518658"
# ## Recap
#
# - One desk, one fictional province, so that you can tell what training taught.
# - A number in the text is an output or a claim; break claims on purpose and see what changes.
# - Exercises check themselves and say what is wrong.
# - A score means something only beside its baseline.

# %% [markdown] lang="zh" partner="5053d592"
# ## 小结
#
# - 一个咨询台、一个虚构的省，这样才看得清训练教会了什么。
# - 文中的数字要么是输出，要么是断言；大胆弄坏断言，看看什么变了。
# - 练习自己会检查，并说出错在哪里。
# - 分数要和它的基线放在一起才有意义。

# %% [markdown] insert="quiz"

# %% [markdown] insert="glossary"

# %% [markdown] lang="en" partner="138a913d"
# ## Read next
#
# - Lesson 01: what comes from pre-training, and what from fine-tuning.
# - The cards of all data sets stand in `assets/data/README.md`: how each was made, and what is weak about it.
#
# The ledger of this lesson:

# %% [markdown] lang="zh" partner="9ac1d865"
# ## 接下来
#
# - 第 01 课：哪些来自预训练，哪些来自微调。
# - 所有数据集的说明在 `assets/data/README.md`：怎么做的，有哪些不足。
#
# 本课的账本：

# %%
from tunelab.claims import print_ledger

print_ledger()
