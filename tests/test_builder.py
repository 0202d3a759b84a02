"""The builder, on the sample lesson in tests/sample_lesson/: what it writes, what it refuses, what it never breaks."""

import importlib
import re
import shutil
import sys
from pathlib import Path

import nbformat
import psutil
import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
SAMPLE = REPOSITORY / "tests" / "sample_lesson"
sys.path.insert(0, str(REPOSITORY / "lessons_src"))
build = importlib.import_module("build")
build_cells = importlib.import_module("build_cells")

PYPROJECT = """
[project]
name = "tunelab"
urls = { Repository = "https://example.org/course" }
optional-dependencies = { colab = ["chromadb>=1.5"] }
[tool.tunelab]
tag = "v1"
"""
# Enough of tunelab to run the sample without importing torch in every kernel.
STAND_IN = """
def start(lesson, lang):
    print("lesson", lesson, lang)

def check(name, *answers):
    print("checked", name)
"""


class Course:
    """A course of one lesson in a folder of its own."""

    def __init__(self, root: Path):
        self.root = root
        self.source = root / "lessons_src" / "lessons" / "90_sample.py"
        self.texts = self.source.with_suffix(".toml")
        self.checks = root / "lessons_src" / "checks" / "90_sample.py"
        for file in (self.source, self.checks):
            file.parent.mkdir(parents=True)
        shutil.copy(SAMPLE / "90_sample.py", self.source)
        shutil.copy(SAMPLE / "90_sample.toml", self.texts)
        shutil.copy(SAMPLE / "90_sample_checks.py", self.checks)
        (root / "pyproject.toml").write_text(PYPROJECT, encoding="utf-8")
        (root / "lessons_src" / "tunelab.py").write_text(STAND_IN, encoding="utf-8")

    def build(self, *args: str) -> int:
        return build.main(list(args), root=self.root)

    def file(self, lang: str = "en", folder: str = "notebooks") -> Path:
        return self.root / folder / ("" if lang == "en" else lang) / "90_sample.ipynb"

    def notebook(self, lang: str = "en", folder: str = "notebooks") -> nbformat.NotebookNode:
        return nbformat.read(self.file(lang, folder), as_version=4)

    def code(self, lang: str = "en", folder: str = "notebooks") -> list[str]:
        return [cell.source for cell in self.notebook(lang, folder).cells if cell.cell_type == "code"]

    def prose(self, lang: str = "en") -> str:
        return "\n\n".join(cell.source for cell in self.notebook(lang).cells if cell.cell_type == "markdown")

    def edit(self, file: Path, old: str, new: str) -> None:
        text = file.read_text(encoding="utf-8")
        assert old in text
        file.write_text(text.replace(old, new, 1), encoding="utf-8")

    def pretend_executed(self) -> None:
        """Build without a kernel, then write outputs as a run would have left them."""
        assert self.build("--no-execute") == 0
        for lang in ("en", "zh"):
            notebook = self.notebook(lang)
            code = [cell for cell in notebook.cells if cell.cell_type == "code"]
            for count, cell in enumerate(code, start=1):
                cell.execution_count = count
                cell.outputs = [nbformat.v4.new_output("stream", name="stdout", text=f"output {count}\n")]
            nbformat.write(notebook, self.file(lang))


@pytest.fixture
def course(tmp_path: Path) -> Course:
    return Course(tmp_path)


# --- what is written ---


def test_editions_share_every_code_cell_but_the_language(course):
    assert course.build("--no-execute") == 0
    english, chinese = course.code("en"), course.code("zh")
    assert english[1:] == chinese[1:]
    assert english[0].replace('LANG = "en"', 'LANG = "zh"') == chinese[0]
    assert english[0] != chinese[0]


def test_first_cell_installs_from_the_repository_named_once(course):
    course.build("--no-execute")
    first = course.code()[0]
    assert '%pip install -q --no-deps "tunelab @ git+https://example.org/course@v1"' in first
    assert '%pip install -q "chromadb>=1.5"' in first
    assert first.endswith('LANG = "en"\nsession = start("90", LANG)')


def test_each_edition_has_its_own_prose_only(course):
    course.build("--no-execute")
    assert "# 90 · A sample" in course.prose("en") and "示例" not in course.prose("en")
    assert "# 90 · 示例" in course.prose("zh") and "A sample" not in course.prose("zh")


def test_rebuilding_gives_the_same_bytes(course):
    course.build("--no-execute")
    before = [course.file(lang).read_bytes() for lang in ("en", "zh")]
    course.build("--no-execute")
    assert [course.file(lang).read_bytes() for lang in ("en", "zh")] == before


def test_ids_are_unique_and_survive_a_new_cell_elsewhere(course):
    course.build("--no-execute")
    before = [cell.id for cell in course.notebook().cells]
    assert len(set(before)) == len(before)
    course.edit(course.source, "# %%\n# ls the files", "# %%\nnew = 1\n\n# %%\n# ls the files")
    course.build("--no-execute")
    after = [cell.id for cell in course.notebook().cells]
    assert len(after) == len(before) + 1 and [one for one in after if one in before] == before


def test_comments_stay_comments_and_no_source_key_is_left(course):
    course.build("--no-execute")
    assert any(cell.startswith("# ls the files") for cell in course.code())
    assert [dict(cell.metadata) for cell in course.notebook().cells if cell.metadata] == [
        {"tags": ["raises-exception"]}
    ]


def test_one_lesson_and_one_language(course):
    assert course.build("--lesson", "90", "--lang", "zh", "--no-execute") == 0
    assert course.file("zh").exists() and not course.file("en").exists()


# --- exercises, quiz, glossary ---


def test_an_exercise_becomes_task_stub_check_and_folded_help(course):
    course.build("--no-execute")
    cells = course.notebook().cells
    start = next(number for number, cell in enumerate(cells) if "Exercise 1" in cell.source)
    task, stub, check, folded = (cell.source for cell in cells[start : start + 4])
    assert task == "### Exercise 1 · The share that is trained\n\n*About 5 min · difficulty ★☆☆*\n\nReturn the share."
    assert stub.endswith('"""Trainable share of a square layer of `width`."""\n    ...')
    assert check == 'check("lora_share", lora_share)'
    assert folded.count("<details>") == folded.count("</details>") == 2
    assert "```python\ndef lora_share" in folded and "return 2 * rank / width\n```" in folded
    assert "练习 1 · 训练的比例" in course.prose("zh") and "约 5 分钟" in course.prose("zh")


def test_stubs_of_variables_and_of_bugs(course):
    course.build("--no-execute")
    code = course.code()
    assert "# Which rate gave the lower loss: 5e-3 or 5e-5?\nbest_rate = ..." in code
    buggy = "PAD = 0\n\n\ndef labels(ids):\n    for one in ids:\n        assert one >= 0\n    return ids"
    assert code[code.index(buggy) + 1] == 'check("stop_bug", labels, PAD)'
    assert not any("stub:" in text or "# solution" in text for text in [*code, course.prose()])


def test_solutions_stand_in_place_of_the_stubs(course):
    assert course.build("--solutions", str(course.root / "solved"), "--no-execute") == 0
    code = course.code("zh", folder="solved")
    assert 'assert check("best_rate", best_rate) == "right"' in code
    assert not any("..." in cell for cell in code)
    assert not course.file().exists()


def test_quiz_explains_every_option_and_the_glossary_is_a_table(course):
    course.build("--no-execute")
    quiz = next(cell.source for cell in course.notebook().cells if cell.source.startswith("## Quiz"))
    assert quiz.count("<details>") == 4
    assert "**1. Is one right?**\n\n- **A.** yes\n- **B.** no\n\n<details>" in quiz
    assert "- **A** ✓ it is\n- **B** ✗ one is right\n\n</details>" in quiz
    assert r"| rank | 秩 | The r of \|ΔW\|. |" in course.prose("en")
    assert r"| 秩 | rank | \|ΔW\| 的 r。 |" in course.prose("zh")


# --- what is refused ---

SOURCE, TEXTS, CHECKS = "source", "texts", "checks"


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        (SOURCE, '[markdown] lang="zh"', "[markdown] lang=zh", r"90_sample\.py:9: cannot read the cell header"),
        (SOURCE, '# %% tags=["raises-exception"]', '# %% tags="x"', "tags is a list"),
        (SOURCE, "# %%\n# ls", '# %% colour="red"\n# ls', "unknown key 'colour' of a code cell"),
        (SOURCE, "# 现在轮到你了。", "现在轮到你了。", "prose without its `# `"),
        (SOURCE, "# The builder's tests", "import os  #", r"py:1: code before the first cell"),
        (SOURCE, "# 现在轮到你了。", "", "an empty cell"),
        (SOURCE, '[markdown] lang="en"', '[markdown] lang="zh"', "Chinese prose without its English partner"),
        (SOURCE, '[markdown] lang="zh"', '[markdown] lang="en"', "English prose without its Chinese partner"),
        (SOURCE, '[markdown] lang="en"', '[markdown] lang="fr"', "prose with lang='fr'"),
        (SOURCE, 'insert="quiz"', 'insert="diagram:a"', r"figures\.diagram"),
        (SOURCE, 'LANG = "en"', 'LANG = "de"', "does not start the lesson"),
        (SOURCE, "import check, start", "import start", "import check"),
        (SOURCE, 'start("90"', 'start("91"', "does not start the lesson"),
        (SOURCE, 'exercise="best_rate"', 'exercise="worst_rate"', r"\[exercises.best_rate\] has no cell"),
        (SOURCE, 'exercise="best_rate"', 'exercise="lora_share"', "stands here a second time"),
        (SOURCE, "    # solution\n", "", "0 lines `# solution` in exercise 'lora_share'"),
        (SOURCE, "best_rate = 5e-3", "other = 5e-3", "the stub of 'best_rate' does not define best_rate"),
        (SOURCE, "# stub: return ids", "# stub: return (", "the stub is not valid Python"),
        (TEXTS, "[exercises.best_rate]", "[labels.best_rate]", "exercise 'best_rate' has no texts"),
        (TEXTS, ', zh = "较大的那个。"', "", r"\[exercises.best_rate.hint\]: no Chinese text"),
        (TEXTS, "minutes = 3", "", "minutes=None"),
        (TEXTS, "right = false", "right = true", "one of them with right = true"),
        (TEXTS, "[[glossary]]", "[[terms]]", r"no \[\[glossary\]\]"),
        (TEXTS, "title = {", "title = ", r"90_sample\.toml: .*line 1"),
        (CHECKS, '@checker("best_rate")', "", "exercise 'best_rate' has no checker"),
    ],
)
def test_mistakes_are_named_and_nothing_is_written(course, capsys, file, old, new, message):
    course.edit(getattr(course, file), old, new)
    assert course.build("--no-execute") == 1
    error = capsys.readouterr().err
    assert re.search(message, error), error
    assert "-> " in error and not course.file().exists()


def test_an_unknown_lesson_lists_the_known_ones(course, capsys):
    assert course.build("--lesson", "42") == 1
    assert "90_sample" in capsys.readouterr().err


def test_a_missing_pyproject_entry_is_named(course, capsys):
    course.edit(course.root / "pyproject.toml", 'tag = "v1"', "")
    assert course.build("--no-execute") == 1
    assert "[tool.tunelab] tag" in capsys.readouterr().err


# --- both languages in step ---


@pytest.mark.parametrize(
    ("edits", "message"),
    [
        ([("Now it is your turn", "Your turn")], "the English text changed; the Chinese text (line"),
        ([("现在轮到你了", "轮到你了")], "the Chinese text changed; the English text (line"),
        ([("Now it is your turn", "Your turn"), ("现在轮到你了", "轮到你了")], "both texts changed"),
    ],
)
def test_a_change_on_one_side_asks_for_the_other(course, capsys, edits, message):
    for old, new in edits:
        course.edit(course.source, old, new)
    assert course.build("--no-execute") == 1
    error = capsys.readouterr().err
    assert message in error and "--stamp --lesson 90" in error
    assert course.build("--stamp") == 0
    assert course.build("--no-execute") == 0


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_stamp_changes_the_headers_alone(course, newline):
    stamped = course.source.read_text(encoding="utf-8").replace("\n", newline)
    never_stamped = re.sub(r' partner="\w+"', "", stamped)
    course.source.write_bytes(never_stamped.encode("utf-8"))
    assert course.build("--no-execute") == 1
    for _ in range(2):
        assert course.build("--stamp") == 0
        assert course.source.read_bytes() == stamped.encode("utf-8")


# --- drift ---


def test_check_passes_on_what_was_built(course):
    course.pretend_executed()
    assert course.build("--check") == 0


def drift_hand_edit(course):
    course.edit(course.file("zh"), "print(rank)", "print(rank + 1)")
    return r"notebooks/zh/90_sample\.ipynb: cell \d+ differs from lessons_src/lessons/90_sample\.py:\d+ \(source\)"


def drift_id(course):
    notebook = course.notebook()
    notebook.cells[3].id = "another"
    nbformat.write(notebook, course.file())
    return r"cell 4 differs .* \(id\)"


def drift_label(course):
    course.edit(course.texts, "title = {", "labels = { x = { en = 'x', zh = 'x' } }\ntitle = {")
    return "metadata differ"


def drift_widgets(course):
    notebook = course.notebook()
    notebook.metadata["widgets"] = {}
    nbformat.write(notebook, course.file())
    return "metadata differ"


def drift_not_executed(course):
    course.file().unlink()
    course.build("--no-execute")
    return "was not executed in order"


def drift_stored_error(course):
    notebook = course.notebook()
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    code[2].outputs = [nbformat.v4.new_output("error", ename="ValueError", evalue="", traceback=[])]
    nbformat.write(notebook, course.file())
    return "stores an error: ValueError"


def drift_missing(course):
    course.file("zh").unlink()
    return r"notebooks/zh/90_sample\.ipynb: is missing"


def drift_orphan(course):
    shutil.copy(course.file(), course.file().with_name("89_renamed.ipynb"))
    return r"89_renamed\.ipynb: no lesson has this name"


@pytest.mark.parametrize(
    "drift",
    [
        drift_hand_edit,
        drift_id,
        drift_label,
        drift_widgets,
        drift_not_executed,
        drift_stored_error,
        drift_missing,
        drift_orphan,
    ],
    ids=lambda drift: drift.__name__,
)
def test_check_names_the_drift(course, capsys, drift):
    course.pretend_executed()
    message = drift(course)
    files = {file: file.read_bytes() for file in course.root.glob("notebooks/**/*.ipynb")}
    assert course.build("--check") == 1
    error = capsys.readouterr().err
    assert re.search(message, error), error
    assert "-> " in error
    assert {file: file.read_bytes() for file in course.root.glob("notebooks/**/*.ipynb")} == files


def test_outputs_outlive_a_change_of_prose_but_not_of_code(course):
    course.pretend_executed()
    course.edit(course.source, "Now it is your turn", "Your turn")
    course.build("--stamp")
    assert course.build("--no-execute") == 0 and course.build("--check") == 0
    assert "Your turn" in course.prose()

    course.edit(course.source, "rank = 8", "rank = 9")
    course.build("--no-execute")
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in course.notebook().cells)


# --- outputs ---


def test_normalise_joins_streams_keeps_last_redraw_and_drops_widget_views():
    def stream(text, name="stdout"):
        return nbformat.v4.new_output("stream", name=name, text=text)

    bar = nbformat.v4.new_output("display_data", data={build.WIDGET_VIEW: {"model_id": "1"}})
    slider = nbformat.v4.new_output("display_data", data={build.WIDGET_VIEW: {}, "image/png": "eA=="})
    outputs = [
        stream("a\n"),
        stream("b\n"),
        bar,
        stream("1%\r50%"),
        stream("\r100%\r\n"),
        slider,
        stream("c", "stderr"),
    ]
    stored = build.normalise(outputs, Path("unused"))
    assert [one.get("text") or dict(one.data) for one in stored] == ["a\nb\n100%\r\n", {"image/png": "eA=="}, "c"]
    assert build.WIDGET_VIEW in slider.data  # what was passed in stays as it is


def test_normalise_shortens_the_paths_of_this_machine(tmp_path):
    warning = nbformat.v4.new_output(
        "stream", name="stderr", text=f"{tmp_path / 'lessons_src' / 'a.py'}:3: UserWarning\n"
    )
    error = nbformat.v4.new_output("error", ename="E", evalue="", traceback=[f"File {nbformat.__file__}:1"])
    warning, error = build.normalise([warning, error], tmp_path)
    assert warning.text == f"{Path('lessons_src', 'a.py')}:3: UserWarning\n"
    assert error.traceback == [f"File {Path('nbformat', '__init__.py')}:1"]


def test_an_interrupted_write_keeps_the_old_file(tmp_path, monkeypatch):
    file = tmp_path / "a.ipynb"
    file.write_bytes(b"old")
    monkeypatch.setattr(build.os, "replace", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        build.write_atomically(file, b"new")
    assert file.read_bytes() == b"old" and list(tmp_path.iterdir()) == [file]


def test_an_executed_build_is_reproducible_and_a_failing_one_leaves_it_alone(course, capsys):
    assert course.build() == 0 and course.build("--check") == 0
    kernels = [child for child in psutil.Process().children() if "ipykernel_launcher" in child.cmdline()]
    assert not kernels, "a kernel outlives its notebook"
    before = [course.file(lang).read_bytes() for lang in ("en", "zh")]
    assert "lesson 90 zh" in before[1].decode("utf-8") and b"execution_count" in before[0]
    assert course.build("--lang", "en") == 0
    assert course.file().read_bytes() == before[0]

    course.edit(course.source, "rank = 8", "rank = {}['missing']")
    assert course.build() == 1
    error = capsys.readouterr().err
    assert re.search(r"Lesson 90_sample:\nlessons_src/lessons/90_sample\.py:20: cell 3 of the en edition", error), error
    assert "it begins `# ls the files" in error and "KeyError: 'missing'" in error and "\x1b" not in error
    assert [course.file(lang).read_bytes() for lang in ("en", "zh")] == before


def test_a_cell_that_should_raise_must_raise(course, capsys):
    course.edit(course.source, "raise RuntimeError", "print")
    assert course.build("--lang", "en") == 1
    assert "it raised nothing" in capsys.readouterr().err


def test_a_kernel_that_dies_is_named(course, capsys):
    course.edit(course.source, "rank = 8", "import os\n\nos._exit(1)")
    assert course.build("--lang", "zh") == 1
    error = capsys.readouterr().err
    assert "cell 3 of the zh edition failed" in error and "Kernel died" in error
    assert not course.file("zh").exists()


def test_every_solution_of_the_sample_passes_the_real_checkers(course):
    (course.root / "lessons_src" / "tunelab.py").unlink()
    shutil.copytree(REPOSITORY / "lessons_src" / "tunelab", course.root / "lessons_src" / "tunelab")
    shutil.copytree(REPOSITORY / "assets" / "fonts", course.root / "assets" / "fonts")
    assert course.build("--solutions", str(course.root / "solved"), "--lang", "zh") == 0
    html = "".join(str(cell.get("outputs")) for cell in course.notebook("zh", folder="solved").cells)
    assert html.count("✓") >= 3 and "✗" not in html
