"""The exercise checkers of lesson 05."""

import math

from tunelab import choosing, models
from tunelab.exercises import Wrong, call, checker, expect_close


@checker("cache_bytes")
def _(cache_bytes):
    expect_close(
        cache_bytes(1, 1, 1, 1),
        4,
        en="one key and one value, each a number of two bytes",
        zh="一个 key 加一个 value，各是一个两字节的数",
    )
    expect_close(
        cache_bytes(28, 4, 128, 4096),
        234_881_024,
        en="Qwen2.5-7B, 28 blocks, 4 key-value heads of 128, 4,096 tokens: all four multiply",
        zh="Qwen2.5-7B：28 个模块，4 个 128 宽的 key-value 头，4096 个词元，四个数相乘",
    )


@checker("bits_per_byte")
def _(bits_per_byte):
    expect_close(
        bits_per_byte(math.log(2), 4, "abcd"),
        1.0,
        en="four tokens of one bit each (ln 2 nats) for four bytes are one bit a byte",
        zh="四个字节，四个词元，每个一比特（ln 2 奈特）：每字节一比特",
    )
    expect_close(
        bits_per_byte(math.log(2), 2, "abcd"),
        0.5,
        en="half as many tokens for the same text cost half the bits",
        zh="同样的文本，词元数减半，比特数也减半",
    )
    expect_close(
        bits_per_byte(math.log(8), 2, "票价"),
        1.0,
        en="a Chinese character is three bytes in UTF-8",
        zh="一个汉字的 UTF-8 编码是三个字节",
    )
    expect_close(
        bits_per_byte(1.3, 7, "票价 45 yuan"),
        1.3 * 7 / math.log(2) / 14,
        en="a text of both kinds has as many bytes as its UTF-8 code; and the result is not to be rounded",
        zh="中英混排的文本，字节数就是它的 UTF-8 编码长度；结果不要取整",
    )


@checker("my_chart")
def _(my_chart):
    if not isinstance(my_chart, choosing.Chart):
        raise Wrong(
            en=f"my_chart is to be a choosing.Chart, this is {type(my_chart).__name__}",
            zh=f"my_chart 应是 choosing.Chart，得到的是 {type(my_chart).__name__}",
        )
    old, new = choosing.CORRECTED, "qwen3-0.6b"
    if new in old.nodes:
        raise Wrong(
            en="choosing.CORRECTED itself was changed: old.nodes | {...} makes a new dict, old.nodes[...] = does not; "
            "restart the kernel to have the old chart back",
            zh="choosing.CORRECTED 本身被改动了：old.nodes | {...} 得到新字典，old.nodes[...] = 则不会；重启内核可以恢复原图",
        )
    if new not in my_chart.nodes:
        raise Wrong(
            en=f"no box is called {new!r}: nodes is a dict, and the name of the model is the key",
            zh=f"没有名为 {new!r} 的方框：nodes 是字典，键是模型的名字",
        )
    box = my_chart.nodes[new]
    if box.kind != "model" or box.models != (new,):
        raise Wrong(
            en=f'the box is of the kind "model" and its models are ({new!r},), a tuple; '
            f"these are {box.kind!r}, {box.models!r}",
            zh=f'方框的种类应是 "model"，models 应是元组 ({new!r},)；得到的是 {box.kind!r}、{box.models!r}',
        )
    if lost := set(old.nodes) - set(my_chart.nodes):
        raise Wrong(en=f"the box {min(lost)!r} is gone", zh=f"方框 {min(lost)!r} 不见了")

    def chosen(chart, task, gb, use="lora", open_licence=True):
        try:
            return call(choosing.choose_model, task, ["zh"], gb, use=use, open_licence=open_licence, chart=chart).model
        except Wrong as wrong:
            if "ChoiceError" in wrong.en:
                return None
            raise

    for use in choosing.USES:
        need, more = (choosing.memory_gb(name, use) / (1 - choosing.SPARE) for name in (new, "qwen2.5-1.5b"))
        for gb in (need * 1.001, (need + more) / 2, more * 0.999):
            if chosen(my_chart, "generation", gb, use) != new:
                got = chosen(my_chart, "generation", gb, use)
                raise Wrong(
                    en=f"with {gb:.2f} GB for {use} the walk ends in {got or 'no model'}, not in {new}: look "
                    "at the line's target and condition, and at its place",
                    zh=f"{use}，{gb:.2f} GB 时走到的是 {got or '空处'}，而不是 {new}：检查这条线的终点、条件和次序",
                )
        for gb in (need * 0.999, more * 1.001, 1000.0):
            for task in choosing.TASKS:
                before, after = chosen(old, task, gb, use, False), chosen(my_chart, task, gb, use, False)
                if before != after and not (task == "generation" and before is None):
                    raise Wrong(
                        en=f"{task} with {gb:.2f} GB for {use} was {before} and is now {after or 'no model'}: "
                        "leave the other lines, and their order, as they were",
                        zh=f"{task}，{use}，{gb:.2f} GB 时原来是 {before}，现在成了 {after or '空处'}：其他的线和次序要保持原样",
                    )


@checker("unknown_share")
def _(unknown_share):
    _, tokenizer = models.load_encoder("minilm")
    cases = (
        (["房间干净"], 1.0, "a text of four unknown characters", "四个字都不认识的文本"),
        (["the room is clean"], 0.0, "an English text", "一段英文"),
        (
            ["房间", "the room is very clean"],
            2 / 7,
            "texts of unequal length count by their tokens",
            "长短不一的文本按词元数计",
        ),
    )
    for texts, right, en, zh in cases:
        given = list(texts)
        expect_close(unknown_share(tokenizer, given), right, en=en, zh=zh)
        if given != texts:
            raise Wrong(
                en="the list of texts was changed: leave it as it is, others still need it",
                zh="文本列表被改动了：请保持原样，别处还要用",
            )
