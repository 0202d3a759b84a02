"""The checkers of the sample lesson."""

from tunelab.exercises import Wrong, checker


@checker("lora_share")
def _(share):
    if share(4, 16) != 0.5:
        raise Wrong(en="count both factors", zh="两个因子都要数")


@checker("best_rate")
def _(rate):
    if rate != 5e-3:
        raise Wrong(en="compare the losses again", zh="再比较一次损失")


@checker("stop_bug")
def _(labels, pad):
    if labels([3, pad]) != [3, -100]:
        raise Wrong(en="the pad token is still an answer", zh="填充词元仍被当作答案")
