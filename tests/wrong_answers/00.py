"""Wrong answers to the exercises of lesson 00; every one must be refused with a reason."""

import numpy as np

WRONG = {
    "majority_share": [
        ("how often, not which share", lambda answers: max(answers.count(a) for a in answers)),
        ("of the different answers", lambda answers: max(answers.count(a) for a in answers) / len(set(answers))),
        ("of the first answer", lambda answers: answers.count(answers[0]) / len(answers)),
        ("one over the number of different answers", lambda answers: 1 / len(set(answers))),
        ("rounded", lambda answers: round(max(answers.count(a) for a in answers) / len(answers), 2)),
    ],
    "easiest_topic": [
        ("the share", 0.1),
        ("the position", 3),
        ("a topic that does not exist", "weather"),
        ("one of the hardest topics", "sight"),
        ("in a list", ["region"]),
        ("with its share", {"region": 0.1}),
        ("an array", np.array(["region", "sight"])),
    ],
    "is_right": [
        ("the colleague's version", lambda answer, truth: truth.lower() in answer.lower()),
        ("the other way round", lambda answer, truth: answer.lower() in truth.lower()),
        ("the beginning alone", lambda answer, truth: answer.strip().lower().startswith(truth.lower())),
        ("capitals count", lambda answer, truth: answer.strip() == truth.strip()),
        ("always right", lambda answer, truth: True),
        ("capitals of the truth count", lambda answer, truth: answer.strip().lower() == truth.strip()),
        ("spaces within, too", lambda answer, truth: answer.lower().replace(" ", "") == truth.lower().replace(" ", "")),
        ("words in any order", lambda answer, truth: set(answer.lower().split()) == set(truth.lower().split())),
    ],
}
