"""The exercise checkers of lesson 02."""

import numbers

from tunelab.exercises import Wrong, checker, expect_close


@checker("prompt_like_lora")
def _(prompt_like_lora):
    expect_close(
        prompt_like_lora(1, [(6, 10)], 16),
        1,
        en="rank 1 on one 6 x 10 weight has 6 + 10 numbers: one virtual token of width 16",
        zh="秩 1 作用在一个 6 × 10 的权重上有 6 + 10 个数：正好一个宽度为 16 的虚拟词元",
    )
    expect_close(
        prompt_like_lora(3, [(6, 10)], 16), 3, en="the numbers grow with the rank", zh="参数个数随秩成比例增长"
    )
    expect_close(
        prompt_like_lora(1, [(6, 10), (20, 12)], 16),
        3,
        en="every weight has its own pair of matrices: add them up",
        zh="每个权重都有自己的一对矩阵：要加起来",
    )
    expect_close(
        prompt_like_lora(2, [(4, 8), (3, 9)], 16),
        3,
        en="a token may hold numbers of several weights: add everything up, multiply by the rank, and round down last",
        zh="一个词元可以装下几个权重的数：先全部加起来，乘上秩，最后才向下取整",
    )
    found = prompt_like_lora(1, [(6, 11)], 16)
    if found != int(found):
        raise Wrong(en="a prompt has a whole number of tokens: round down", zh="词元个数是整数：要向下取整")
    expect_close(found, 1, en="no more numbers than LoRA: round down", zh="不能超过 LoRA：要向下取整")
    expect_close(
        prompt_like_lora(1, [(5, 10)], 16), 0, en="where not one fits, the answer is 0", zh="一个都放不下时，答案是 0"
    )


@checker("blocks_to_move")
def _(blocks_to_move):
    if isinstance(blocks_to_move, bool) or not isinstance(blocks_to_move, numbers.Integral):
        raise Wrong(
            en=f"a whole number of blocks is asked for, this is {type(blocks_to_move).__name__}",
            zh=f"要的是块的个数（整数），得到的是 {type(blocks_to_move).__name__}",
        )
    if not 0 <= blocks_to_move <= 4:
        raise Wrong(
            en=f"the base has 4 blocks, {blocks_to_move} is no number of them: give k, not the parameters",
            zh=f"基座有 4 个块，{blocks_to_move} 不是其中的个数：要的是 k，不是参数个数",
        )
    if blocks_to_move < 3:
        raise Wrong(
            en=f"with {blocks_to_move} less than half moves: the embeddings are frozen, and they count among all numbers",
            zh=f"{blocks_to_move} 个还不到一半：词嵌入是冻结的，但也要算进总数",
        )
    if blocks_to_move == 4:
        raise Wrong(en="one block fewer is enough, too: the smallest k is asked for", zh="少一个也够：要的是最小的 k")


@checker("dialogue_labels")
def _(dialogue_labels):
    ids = [11, 12, 13, 14, 15, 16, 17]
    speakers = ["user", "user", "assistant", "assistant", "user", "assistant", "assistant"]
    given = list(ids), list(speakers)
    labels = dialogue_labels(*given)
    if not isinstance(labels, list) or len(labels) != len(ids):
        raise Wrong(en="a list with one label a token is needed", zh="需要一个列表，每个词元一个标签")
    if labels[0] != -100 or labels[1] != -100:
        raise Wrong(en="the guest's first question is trained on", zh="游客的第一个问题参与了训练")
    if labels[4] != -100:
        raise Wrong(
            en="the guest's second question is trained on: the model learns to ask it",
            zh="游客的第二个问题参与了训练：模型会学着自己发问",
        )
    if labels[2] == -100 or labels[3] == -100:
        raise Wrong(
            en="the assistant's first answer is left out; every turn counts",
            zh="助手的第一次回答被漏掉了；每一轮都要学",
        )
    if labels[5] == -100 or labels[6] == -100:
        raise Wrong(
            en="a part of the last answer is left out, stop token included", zh="最后一次回答漏掉了一部分（包括结束符）"
        )
    if labels != [-100, -100, 13, 14, -100, 16, 17]:
        raise Wrong(en="the label of a trained token is its own id", zh="参与训练的词元，标签就是它自己的编号")
    if given != (ids, speakers):
        raise Wrong(
            en="ids or speakers was changed, and the model would read another dialogue: build a new list",
            zh="ids 或 speakers 被改动了，模型读到的就是另一段对话：请新建一个列表",
        )
    ids, speakers = [21, 22, 23, 24], ["system", "assistant", "user", "assistant"]
    labels = dialogue_labels(list(ids), list(speakers))
    if labels != [-100, 22, -100, 24]:
        raise Wrong(
            en=f"for the speakers {speakers} the labels are {labels}: the assistant's tokens alone keep their id, "
            "whoever else speaks, and wherever the turns stand",
            zh=f"说话人为 {speakers} 时，标签是 {labels}：不管还有谁说话、各轮在什么位置，只有助手的词元保留编号",
        )
