"""The exercise checkers of lesson 00."""

from collections import Counter

from tunelab import world
from tunelab.exercises import Wrong, checker, expect_close


@checker("majority_share")
def _(majority_share):
    expect_close(majority_share(["x"]), 1.0, en="one answer is its own majority", zh="只有一个答案时，它就是多数")
    expect_close(
        majority_share(["a", "b", "a", "c"]),
        0.5,
        en="two of four answers are the commonest",
        zh="四个答案里有两个是最常见的",
    )
    expect_close(
        majority_share(["b", "c", "c", "c", "a"]),
        0.6,
        en="the commonest answer need not come first, and a share is a part of all answers",
        zh="最常见的答案不一定排在最前；比例要除以答案总数",
    )
    expect_close(
        majority_share(["c", "a", "a"]),
        2 / 3,
        en="two of three answers are the commonest, and the share is not to be rounded",
        zh="三个答案里有两个是最常见的；比例不要四舍五入",
    )


@checker("easiest_topic")
def _(easiest_topic):
    best = {}
    for topic in world.TOPICS:
        best[topic] = Counter(spot.facts[topic] for spot in world.places()).most_common(1)[0][1]
    if not isinstance(easiest_topic, str) or easiest_topic not in best:
        raise Wrong(
            en=f"{easiest_topic!r} is no topic; one of {', '.join(best)} is wanted, not its share",
            zh=f"{easiest_topic!r} 不是话题；应填 {', '.join(best)} 之一，而不是它的比例",
        )
    if best[easiest_topic] < max(best.values()):
        raise Wrong(
            en=f"for {easiest_topic} the commonest answer is right {best[easiest_topic]} times; another topic has more",
            zh=f"{easiest_topic} 的最常见答案答对 {best[easiest_topic]} 次，还有更多的话题",
        )


@checker("is_right")
def _(is_right):
    cases = [
        ("20 yuan", "20 yuan", True),
        ("120 yuan", "20 yuan", False),
        ("20 yuan or 30 yuan", "20 yuan", False),
        ("20", "20 yuan", False),
        (" Silk Scarf ", "silk scarf", True),
        ("silk scarf", "Silk Scarf", True),
        ("scarf silk", "silk scarf", False),
        ("silkscarf", "silk scarf", False),
        ("20元", "20元", True),
        ("120元", "20元", False),
        ("", "20元", False),
    ]
    for answer, truth, expected in cases:
        if is_right(answer, truth) is not expected:
            found = {True: ("right", "对"), False: ("wrong", "错")}[expected]
            raise Wrong(
                en=f"the answer {answer!r} is {found[0]} where the truth is {truth!r}; is_right must return {expected}",
                zh=f"正确答案是 {truth!r} 时，{answer!r} 是{found[1]}的，is_right 应返回 {expected}",
            )
