"""From a lesson's source to the cells of one edition: all of the builder that needs no kernel.

A lesson is a jupytext percent file (prose in both languages side by side, code once) and a .toml of the same name (what
its exercises, quiz and glossary say). `read_lesson` reads and checks both; `render` writes one edition. How to write a
lesson stands in README.md beside this file.
"""

import hashlib
import json
import re
import symtable
import tomllib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import jupytext
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell

LANGS = ("en", "zh")
LANGUAGE = {"en": "English", "zh": "Chinese"}
COMMAND = "python lessons_src/build.py"

KEYS = {"markdown": {"lang", "partner", "insert"}, "code": {"exercise", "args", "tags"}}
_VALUE = r'"[^"\\]*"|\["[^"\\]*"(?:, ?"[^"\\]*")*\]'  # a string, or a list of strings
_HEADER = re.compile(rf"# %%(?P<prose> \[markdown\])?(?P<keys>(?: [a-z]+=(?:{_VALUE}))*)")
_LOOKS_LIKE_HEADER = re.compile(r"\s*#\s*%%")
_PERCENT = {"extension": ".py", "format_name": "percent", "comment_magics": False}  # else `# ls ...` becomes a command
_STUB = re.compile(r"^(\s*)# stub: ?")
_PROSE_TABLES = ("quiz", "glossary")  # rendered here; what the other tables say is seen in outputs

WORDS = {
    "en": {
        "exercise": "Exercise {} · {}",
        "effort": "About {minutes} min · difficulty {stars}",
        "hint": "Hint",
        "solution": "Solution",
        "quiz": "## Quiz",
        "answers": "Answers, with reasons",
        "glossary": "## Glossary\n\n| Term | 中文 | In one line |",
    },
    "zh": {
        "exercise": "练习 {} · {}",
        "effort": "约 {minutes} 分钟 · 难度 {stars}",
        "hint": "提示",
        "solution": "参考答案",
        "quiz": "## 小测验",
        "answers": "答案与理由",
        "glossary": "## 术语表\n\n| 术语 | English | 一句话解释 |",
    },
}

SETUP = """\
# On your own machine there is nothing to install here; on Colab this cell fetches the course.
import importlib.util
import sys

if importlib.util.find_spec("tunelab") is None:
    if "google.colab" not in sys.modules:
        raise ModuleNotFoundError(
            "The course is not installed: run `make lab` in its folder, and open this notebook there. "
            "课程还没有安装：请在课程目录运行 make lab，再从那里打开本笔记本。"
        )
"""


class BuildError(Exception):
    """A lesson that cannot be built: says where, what was found, and what to do."""


def fail(where: str, what: str, todo: str) -> BuildError:
    """The error for `where` (file, file:line or file: [table]), always in the same three parts."""
    return BuildError(f"{where}: {what}\n    -> {todo}")


@dataclass(frozen=True)
class SourceCell:
    """One cell of a lesson's source."""

    line: int  # of its header in the file, counted from 1
    kind: str  # "markdown" or "code"
    keys: dict[str, Any]  # the metadata in its header
    text: str  # without the comment signs of prose

    @property
    def digest(self) -> str:
        """What the partner cell in the other language remembers of this one."""
        return _digest(self.text.strip())[:8]


@dataclass(frozen=True)
class Lesson:
    """A lesson as written: its source cells and its texts."""

    name: str  # "01_title", the stem of all its files
    path: str  # of its source, as errors show it
    cells: tuple[SourceCell, ...]
    texts: dict[str, Any] = field(repr=False)  # the parsed .toml

    @property
    def number(self) -> str:
        return self.name[:2]

    def where(self, cell: SourceCell) -> str:
        return f"{self.path}:{cell.line}"

    def text(self, lang: str, *keys: str | int) -> str:
        """A text of the .toml in one language; BuildError where it is missing."""
        node: Any = self.texts
        try:
            for key in (*keys, lang):
                node = node[key]
            return node.strip()
        except (KeyError, TypeError, AttributeError):
            raise fail(
                f"{self.name}.toml", f"no text at {_dotted(keys)}.{lang}", "add it in both languages, en and zh"
            ) from None

    @property
    def digest_of_labels(self) -> str:
        """Changes with every text that outputs show: claims, labels, titles."""
        labels = {key: value for key, value in self.texts.items() if key not in _PROSE_TABLES}
        return _digest(json.dumps(labels, sort_keys=True, default=str))[:12]


class Rendered(NamedTuple):
    """A notebook cell and the line of the source that it came from."""

    cell: NotebookNode
    line: int


# --- reading ---


def read_lesson(source: Path, root: Path) -> Lesson:
    """Read a lesson and check all that can be checked without running it; BuildError names file, line and remedy."""
    path = source.relative_to(root).as_posix()
    texts_file = source.with_suffix(".toml")
    if not texts_file.exists():
        raise fail(path, f"{texts_file.name} is missing", "create it beside the source; it needs at least a title")
    try:
        texts = tomllib.loads(texts_file.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise fail(texts_file.name, str(error), "correct the file") from error
    _require_both_languages(texts, (), texts_file.name)
    lesson = Lesson(source.stem, path, parse(source.read_bytes().decode("utf-8"), path), texts)
    _require_partners_in_step(lesson)
    _require_first_cell(lesson)
    _require_exercises_everywhere(lesson, source.parents[1] / "checks" / source.name)
    return lesson


def parse(text: str, path: str) -> tuple[SourceCell, ...]:
    """The cells of a percent source; the headers are read strictly, because jupytext drops what it cannot parse."""
    lines = text.replace("\r\n", "\n").split("\n")
    headers = list(_headers(lines, path))
    if not headers:
        raise fail(path, "no cell found", "start each cell with a line `# %%` or `# %% [markdown]`")
    first = headers[0][0] - 1
    for number, line in enumerate(lines[:first], start=1):
        if line.strip() and not line.startswith("#"):
            raise fail(f"{path}:{number}", "code before the first cell", "move it under a header, `# %%`")
    parsed = jupytext.reads("\n".join(lines[first:]), fmt=_PERCENT).cells
    if [cell.cell_type for cell in parsed] != [kind for _, kind, _ in headers]:
        raise fail(path, f"{len(headers)} cell headers, but jupytext reads {len(parsed)} cells", "look for an odd one")
    cells = []
    ends = [line for line, _, _ in headers[1:]] + [len(lines) + 1]
    for (line, kind, keys), end, cell in zip(headers, ends, parsed, strict=True):
        for number, prose in enumerate(lines[line : end - 1], start=line + 1):
            if kind == "markdown" and prose.strip() and not prose.startswith("#"):
                raise fail(f"{path}:{number}", f"prose without its `# `: {prose!r}", "start each line with `# `")
        if bool(cell.source.strip()) == ("insert" in keys):
            raise fail(f"{path}:{line}", "an empty cell, or text under an insert", "fill it, or delete the text")
        cells.append(SourceCell(line, kind, keys, cell.source))
    return tuple(cells)


def _headers(lines: list[str], path: str) -> Iterator[tuple[int, str, dict[str, Any]]]:
    for number, line in enumerate(lines, start=1):
        if not _LOOKS_LIKE_HEADER.match(line):
            continue
        match = _HEADER.fullmatch(line.rstrip())
        if not match:
            raise fail(
                f"{path}:{number}",
                f"cannot read the cell header {line.strip()!r}",
                'write `# %%` or `# %% [markdown]`, then key="value" in double quotes, or tags=["value"]',
            )
        kind = "markdown" if match["prose"] else "code"
        keys = {key: json.loads(value) for key, value in re.findall(rf"([a-z]+)=({_VALUE})", match["keys"])}
        for key, value in keys.items():
            if key not in KEYS[kind]:
                known = ", ".join(sorted(KEYS[kind]))
                raise fail(f"{path}:{number}", f"unknown key {key!r} of a {kind} cell", f"choose from {known}")
            if isinstance(value, list) != (key == "tags"):
                raise fail(f"{path}:{number}", f"{key}={value!r}", 'tags is a list, tags=["..."]; all else is a string')
        yield number, kind, keys


def _require_both_languages(node: Any, keys: tuple[str | int, ...], file: str) -> None:
    if isinstance(node, list):
        node = dict(enumerate(node))
    if not isinstance(node, Mapping):
        return
    present = [lang for lang in LANGS if isinstance(node.get(lang), str) and node[lang].strip()]
    if present != list(LANGS) and any(lang in node for lang in LANGS):
        missing = " and ".join(LANGUAGE[lang] for lang in LANGS if lang not in present)
        raise fail(f"{file}: [{_dotted(keys)}]", f"no {missing} text", "write it in both languages, en and zh")
    for key, value in node.items():
        _require_both_languages(value, (*keys, key), file)


def _require_first_cell(lesson: Lesson) -> None:
    code = [cell for cell in lesson.cells if cell.kind == "code"]
    call = f'start("{lesson.number}", LANG'
    if not code or 'LANG = "en"' not in code[0].text.split("\n") or call not in code[0].text:
        where = lesson.where(code[0]) if code else lesson.path
        todo = f'it needs the lines `LANG = "en"` and `{call})`'
        raise fail(where, "the first code cell does not start the lesson", todo)
    if any("exercise" in cell.keys for cell in code) and not re.search(r"import .*\bcheck\b", code[0].text):
        todo = "let it say `from tunelab import check, ...`: the cells that the builder adds call it"
        raise fail(lesson.where(code[0]), "the first code cell does not import check", todo)


def _require_exercises_everywhere(lesson: Lesson, checks: Path) -> None:
    """Each exercise stands once in the source, once in the .toml and once among the checkers; no other does."""
    cells = {}
    for cell in lesson.cells:
        name = cell.keys.get("exercise")
        if name is None and "args" in cell.keys:
            raise fail(lesson.where(cell), "args without an exercise", 'add exercise="name" or drop args')
        if name in cells:
            raise fail(lesson.where(cell), f"exercise {name!r} stands here a second time", "give it another name")
        if name is not None:
            cells[name] = cell
    for name in lesson.texts.get("exercises", {}):
        if name not in cells:
            raise fail(f"{lesson.name}.toml", f"[exercises.{name}] has no cell", f'add `# %% exercise="{name}"`')
    checkers = re.findall(r'@checker\("(.*?)"\)', checks.read_text(encoding="utf-8")) if checks.exists() else []
    for name, cell in cells.items():
        if name not in lesson.texts.get("exercises", {}):
            raise fail(lesson.where(cell), f"exercise {name!r} has no texts", f"add [exercises.{name}] to the .toml")
        if name not in checkers:
            raise fail(lesson.where(cell), f"exercise {name!r} has no checker", f"add it to checks/{checks.name}")


# --- both languages ---


def prose_pairs(cells: Iterable[SourceCell], path: str) -> list[tuple[SourceCell, SourceCell]]:
    """The (English, Chinese) prose cells; BuildError where one stands alone or in the wrong order."""
    pairs, english = [], None
    for cell in (*cells, None):
        lang = cell.keys.get("lang") if cell and cell.kind == "markdown" else None
        if english and lang != "zh":
            raise fail(f"{path}:{english.line}", "English prose without its Chinese partner", "let it follow directly")
        if lang == "zh" and not english:
            raise fail(f"{path}:{cell.line}", "Chinese prose without its English partner", "put it directly before")
        if cell and cell.kind == "markdown" and lang not in LANGS and "insert" not in cell.keys:
            raise fail(f"{path}:{cell.line}", f"prose with lang={lang!r}", 'write lang="en" or lang="zh"')
        if lang == "zh":
            pairs.append((english, cell))
        english = cell if lang == "en" else None
    return pairs


def _require_partners_in_step(lesson: Lesson) -> None:
    """BuildError, with every pair of it, where a prose cell changed after its partner was last read against it."""
    problems = []
    for en, zh in prose_pairs(lesson.cells, lesson.path):
        changed = [a for a, b in ((en, zh), (zh, en)) if b.keys.get("partner") != a.digest]
        if not changed:
            continue
        if not (en.keys.get("partner") and zh.keys.get("partner")):
            what = "this pair was never stamped"
        elif len(changed) == 2:
            what = "both texts changed since they were last read together"
        else:
            old, new = (zh, en) if changed == [en] else (en, zh)
            what = f"the {_language(new)} text changed; the {_language(old)} text (line {old.line}) has not followed"
        todo = f"make both say the same, then run `{COMMAND} --stamp --lesson {lesson.number}`"
        problems.append(str(fail(lesson.where(en), what, todo)))
    if problems:
        raise BuildError("\n".join(problems))


def _language(cell: SourceCell) -> str:
    return LANGUAGE[cell.keys["lang"]]


def stamp(text: str, path: str) -> str:
    """The same source with every prose pair's hashes brought up to date; nothing but header lines changes."""
    lines = text.split("\n")
    for en, zh in prose_pairs(parse(text, path), path):
        for cell, partner in ((en, zh), (zh, en)):
            header = lines[cell.line - 1]
            if "partner" in cell.keys:
                new = re.sub(r'partner="[^"]*"', f'partner="{partner.digest}"', header)
            else:
                new = re.sub(r"(\s*)$", rf' partner="{partner.digest}"\1', header, count=1)
            lines[cell.line - 1] = new
    return "\n".join(lines)


# --- rendering ---


def setup_code(pyproject: Mapping[str, Any]) -> str:
    """The install part of every notebook's first code cell, from the one place that knows the repository."""
    try:
        url, tag = pyproject["project"]["urls"]["Repository"], pyproject["tool"]["tunelab"]["tag"]
        missing_on_colab = pyproject["project"]["optional-dependencies"]["colab"]
    except KeyError as error:
        todo = "it needs [project.urls] Repository, [project.optional-dependencies] colab and [tool.tunelab] tag"
        raise fail("pyproject.toml", f"no entry {error}", todo) from error
    lines = [f'    %pip install -q --no-deps "tunelab @ git+{url}@{tag}"']
    if missing_on_colab:
        requirements = " ".join('"' + requirement.replace('"', "'") + '"' for requirement in missing_on_colab)
        lines.append(f"    %pip install -q {requirements}")
    return SETUP + "\n".join(lines)


def render(lesson: Lesson, lang: str, setup: str, *, solutions: bool = False) -> list[Rendered]:
    """The cells of one edition, with ids. solutions: fill in the exercises and insist that each check says right."""
    rendered: list[Rendered] = []
    exercises = 0
    started = False
    for cell in lesson.cells:
        if cell.kind == "markdown":
            if "insert" in cell.keys:
                new = [new_markdown_cell(_insert(lesson, cell, lang))]
            elif cell.keys["lang"] == lang:
                new = [new_markdown_cell(cell.text)]
            else:
                continue
        elif not started:
            started = True
            own = re.sub(r'^LANG = "en"$', f'LANG = "{lang}"', cell.text, flags=re.MULTILINE)
            new = [new_code_cell(f"{setup}\n\n{own}")]
        elif "exercise" in cell.keys:
            exercises += 1
            new = _exercise_cells(lesson, cell, lang, exercises, solutions)
        else:
            new = [new_code_cell(cell.text)]
        for one in new:
            if "tags" in cell.keys and one.cell_type == "code":
                one.metadata["tags"] = cell.keys["tags"]
            rendered.append(Rendered(one, cell.line))
    _give_ids(one.cell for one in rendered)
    return rendered


def _give_ids(cells: Iterable[NotebookNode]) -> None:
    """Ids from the cells' sources: a change in one cell leaves the ids of all others alone."""
    seen: Counter[str] = Counter()
    for cell in cells:
        digest = _digest(f"{cell.cell_type}\n{cell.source}")[:12]
        seen[digest] += 1
        cell.id = digest if seen[digest] == 1 else f"{digest}-{seen[digest]}"


class Exercise(NamedTuple):
    """An exercise cell taken apart."""

    stub: str
    solution: str
    args: list[str]


def split_exercise(lesson: Lesson, cell: SourceCell) -> Exercise:
    """Stub and solution of a solution-first cell.

    Below `# solution` stands the solution alone. `# stub: code` above it is code of the stub alone; without such a line
    the stub gets `...` at the marker's indent or, at the margin, `name = ...` for each answer not yet defined.
    """
    where, name = lesson.where(cell), cell.keys["exercise"]
    args = [arg.strip() for arg in cell.keys.get("args", name).split(",")]
    lines = cell.text.split("\n")
    markers = [number for number, line in enumerate(lines) if line.strip() == "# solution"]
    if len(markers) != 1:
        raise fail(where, f"{len(markers)} lines `# solution` in exercise {name!r}", "write exactly one")
    above, below = lines[: markers[0]], lines[markers[0] + 1 :]
    if not "".join(below).strip() or any(map(_STUB.match, below)):
        raise fail(where, f"exercise {name!r}", "the solution, and no `# stub:`, stands below `# solution`")

    solution = "\n".join([line for line in above if not _STUB.match(line)] + below).strip("\n")
    defined = _assigned(solution, where, "solution")
    stub_lines = [_STUB.sub(r"\1", line) for line in above]
    if stub_lines == above:
        marker = lines[markers[0]]
        indent = marker[: len(marker) - len(marker.lstrip())]
        if indent:
            stub_lines.append(f"{indent}...")
        else:
            known = _assigned("\n".join(above), where, "part above `# solution`")
            stub_lines += [f"{arg} = ..." for arg in args if arg in defined and arg not in known]
    stub = "\n".join(stub_lines).strip("\n")
    undefined = [arg for arg in args if arg not in _assigned(stub, where, "stub") and (arg in defined or arg == name)]
    if undefined:
        todo = 'let stub and solution define what is checked, or name it with args="a,b"'
        raise fail(where, f"the stub of {name!r} does not define {', '.join(undefined)}", todo)
    return Exercise(stub, solution, args)


def _exercise_cells(lesson: Lesson, cell: SourceCell, lang: str, number: int, solutions: bool) -> list[NotebookNode]:
    words, name = WORDS[lang], cell.keys["exercise"]
    exercise = split_exercise(lesson, cell)
    entry = lesson.texts["exercises"][name]
    minutes, difficulty = entry.get("minutes"), entry.get("difficulty")
    if not isinstance(minutes, int) or difficulty not in (1, 2, 3):
        what = f"minutes={minutes!r}, difficulty={difficulty!r}"
        raise fail(f"{lesson.name}.toml: [exercises.{name}]", what, "whole minutes, and a difficulty of 1, 2 or 3")
    title, task, hint = (lesson.text(lang, "exercises", name, key) for key in ("title", "task", "hint"))
    effort = words["effort"].format(minutes=minutes, stars="★" * difficulty + "☆" * (3 - difficulty))
    call = f'check("{name}", {", ".join(exercise.args)})'
    solution = f"```python\n{exercise.solution}\n```"
    return [
        new_markdown_cell(f"### {words['exercise'].format(number, title)}\n\n*{effort}*\n\n{task}"),
        new_code_cell(exercise.solution if solutions else exercise.stub),
        new_code_cell(f'assert {call} == "right"' if solutions else call),
        new_markdown_cell(_folded(words["hint"], hint) + "\n\n" + _folded(words["solution"], solution)),
    ]


def _insert(lesson: Lesson, cell: SourceCell, lang: str) -> str:
    inserts = {"quiz": _quiz, "glossary": _glossary}
    kind = cell.keys["insert"]
    if kind not in inserts:
        todo = "choose quiz or glossary; a diagram is a code cell, figures.diagram(...)"
        raise fail(lesson.where(cell), f"insert={kind!r}", todo)
    if not lesson.texts.get(kind):
        raise fail(lesson.where(cell), f"insert={kind!r}, but the .toml has no [[{kind}]]", "add it, or drop the cell")
    return inserts[kind](lesson, lang)


def _quiz(lesson: Lesson, lang: str) -> str:
    questions = lesson.texts["quiz"]
    if not 4 <= len(questions) <= 6:
        raise fail(f"{lesson.name}.toml", f"the quiz has {len(questions)} questions", "write 4 to 6")
    words = WORDS[lang]
    parts = [words["quiz"]]
    for number, question in enumerate(questions):
        options = question.get("options", [])
        if len(options) < 2 or [option.get("right") for option in options].count(True) != 1:
            where = f"{lesson.name}.toml: [[quiz]] {number + 1}"
            raise fail(where, "needs two options or more, one of them with right = true", "correct the options")
        asked, answered = [], []
        for index, option in enumerate(options):
            letter, place = chr(ord("A") + index), ("quiz", number, "options", index)
            asked.append(f"- **{letter}.** {lesson.text(lang, *place, 'text')}")
            sign = "✓" if option["right"] else "✗"
            answered.append(f"- **{letter}** {sign} {lesson.text(lang, *place, 'why')}")
        parts.append(f"**{number + 1}. {lesson.text(lang, 'quiz', number, 'question')}**")
        parts += ["\n".join(asked), _folded(words["answers"], "\n".join(answered))]
    return "\n\n".join(parts)


def _glossary(lesson: Lesson, lang: str) -> str:
    other = "zh" if lang == "en" else "en"
    rows = [WORDS[lang]["glossary"], "|---|---|---|"]
    for number in range(len(lesson.texts["glossary"])):
        place = ("glossary", number)
        row = [lesson.text(lang, *place), lesson.text(other, *place), lesson.text(lang, *place, "note")]
        rows.append("| " + " | ".join(text.replace("|", r"\|") for text in row) + " |")
    return "\n".join(rows)


def _folded(summary: str, body: str) -> str:
    """A folded block; the blank lines make JupyterLab, GitHub and Colab read what is inside as Markdown."""
    return f"<details>\n<summary>{summary}</summary>\n\n{body}\n\n</details>"


def _assigned(code: str, where: str, part: str) -> set[str]:
    """The names that code assigns or defines at its top level; BuildError where it does not parse."""
    try:
        table = symtable.symtable(code, "<exercise>", "exec")
    except SyntaxError as error:
        raise fail(where, f"the {part} is not valid Python: {error}", "correct it") from error
    return {symbol.get_name() for symbol in table.get_symbols() if symbol.is_assigned()}


def _dotted(keys: Iterable[str | int]) -> str:
    return ".".join(map(str, keys)) or "top level"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8")).hexdigest()
