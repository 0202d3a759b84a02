"""The exercise checkers of lesson 01."""

from math import exp, log

from tunelab.exercises import Wrong, checker, expect_close


@checker("perplexity")
def _(perplexity):
    expect_close(
        perplexity(0.0), 1.0, en="a model that is never surprised chooses among 1", zh="从不意外的模型，只有 1 个选择"
    )
    for size in (2, 1000):
        expect_close(
            perplexity(log(size)),
            size,
            tol=1e-4,
            en=f"the loss ln {size} is a fair choice among {size}; the loss is in nats, to the base e",
            zh=f"损失 ln {size} 相当于在 {size} 个里猜；损失的单位是奈特，底数是 e",
        )
    expect_close(
        perplexity(0.5),
        exp(0.5),
        tol=1e-4,
        en="a perplexity need not be a whole number: the loss 0.5 lies between ln 1 and ln 2; do not round",
        zh="困惑度不一定是整数：损失 0.5 介于 ln 1 和 ln 2 之间；不要取整",
    )


@checker("best_rate")
def _(best_rate):
    if isinstance(best_rate, bool) or not isinstance(best_rate, int | float):
        raise Wrong(
            en=f"best_rate is to be one of the three rates, this is {type(best_rate).__name__}",
            zh=f"best_rate 应是三个学习率之一，得到的是 {type(best_rate).__name__}",
        )
    if best_rate == 1e-6:
        raise Wrong(
            en="with 1e-6 the weights hardly move: compare the loss with the one before training",
            zh="1e-6 时权重几乎没动：和训练前的损失比一比",
        )
    if best_rate == 3e-1:
        raise Wrong(
            en="with 3e-1 each step overshoots and the base is destroyed: look at the final loss",
            zh="3e-1 时每一步都迈过了头，基座被破坏了：看看最终损失",
        )
    if best_rate != 1e-3:
        raise Wrong(
            en=f"{best_rate:g} is not one of the rates; give the rate, not the loss",
            zh=f"{best_rate:g} 不在三个学习率之中；要的是学习率，不是损失",
        )


@checker("answer_labels")
def _(answer_labels):
    ids = [11, 12, 13, 14, 15]
    given = list(ids)
    labels = answer_labels(given, 2)
    if not isinstance(labels, list) or len(labels) != len(ids):
        raise Wrong(
            en="a list with one label a token is needed, as long as ids",
            zh="需要一个列表，每个词元一个标签，长度与 ids 相同",
        )
    if labels[:2] != [-100, -100]:
        raise Wrong(
            en="the question is still trained on: its labels must be -100", zh="问题仍在参与训练：它的标签应为 -100"
        )
    if labels[2] == -100:
        raise Wrong(en="the first token of the answer is left out", zh="答案的第一个词元被漏掉了")
    if labels[-1] == -100:
        raise Wrong(en="the last token, which says stop, must be trained on", zh="最后一个词元（结束符）必须参与训练")
    if labels != [-100, -100, 13, 14, 15]:
        raise Wrong(
            en="the labels of the answer are its own token ids; transformers does the shift by one",
            zh="答案的标签就是它自己的词元编号；错一位由 transformers 完成",
        )
    if given != ids:
        raise Wrong(
            en="ids itself was changed, and the model would read -100 as a token: build a new list",
            zh="ids 本身被改动了，模型会把 -100 当作词元来读：请新建一个列表",
        )
    if answer_labels(list(ids), 0) != ids:
        raise Wrong(en="with start = 0 everything is answer", zh="start = 0 时，全部都是答案")
