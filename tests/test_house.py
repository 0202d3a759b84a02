"""The house: dependencies said once, the environment that repairs itself, a test run that cannot reach the network."""

import ast
import os
import re
import socket
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import jupytext
import nbformat
import pytest
from markdown_it import MarkdownIt

import bootstrap
import environment

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
REQUIREMENTS = [
    *PROJECT["dependencies"],
    *(item for extra in PROJECT["optional-dependencies"].values() for item in extra),
]


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


# ---- dependencies ----


def test_environment_yml_is_what_the_generator_writes():
    assert environment.main(["--check"]) == 0, "run: python lessons_src/environment.py"


def test_metadata_holds_lower_bounds_only():
    assert [item for item in REQUIREMENTS if not re.fullmatch(r"[A-Za-z0-9._-]+>=[0-9.]+", item)] == []
    assert PROJECT["requires-python"] == f">=3.{bootstrap.OLDEST[1]},<3.{bootstrap.NEWEST[1] + 1}"


def test_colab_installs_neither_jupyterlab_nor_ipywidgets():
    colab = PROJECT["optional-dependencies"]["colab"]
    assert set(colab) <= set(PROJECT["dependencies"])
    assert not {"jupyterlab", "ipywidgets"} & {item.split(">=")[0] for item in colab + PROJECT["dependencies"]}


def test_constraints_pin_every_direct_dependency_at_or_above_its_bound():
    lines = [line for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines() if line[:1] != "#"]
    assert [line for line in lines if not re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.]+", line)] == []  # pins alone
    pins = {normal(line.split("==")[0]): line.split("==")[1] for line in lines}

    def numbers(version: str) -> list[int]:
        return [int(part) for part in re.findall(r"\d+", version)]

    extra = {normal(item.split(">=")[0]) for item in PROJECT["optional-dependencies"]["browser"]}  # not in the test run
    for item in REQUIREMENTS:
        name, bound = item.split(">=")
        if normal(name) not in extra:
            assert normal(name) in pins, f"constraints.txt has no pin for {name}"
            assert numbers(pins[normal(name)]) >= numbers(bound)
    assert pins["torch"] == "2.13.0"


# ---- size ----


def test_the_tree_stays_small():
    listed = subprocess.run(["git", "ls-files", "-z", "-c", "-o", "--exclude-standard"], cwd=ROOT, capture_output=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    sizes = {
        name: os.path.getsize(ROOT / name) for name in listed.stdout.decode().split("\0") if (ROOT / name).is_file()
    }
    assert [name for name, size in sizes.items() if size > 8e6] == []
    assert sum(sizes.values()) < 40e6


# ---- make and the bootstrap script ----


@pytest.mark.skipif(os.name == "nt", reason="Windows has no make")
def test_make_alone_prints_the_targets():
    out = subprocess.run(["make"], cwd=ROOT, capture_output=True, text=True).stdout
    documented = set(re.findall(r"^make ([a-z-]+)", out, re.MULTILINE))
    phony = re.search(r"^\.PHONY:(.*)$", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE).group(1).split()
    assert documented == set(phony) - {"help", "python"}


@pytest.mark.skipif(os.name == "nt", reason="Windows has no make")
def test_make_says_so_when_no_python_runs(tmp_path):
    make = subprocess.run(["sh", "-c", "command -v make"], capture_output=True, text=True).stdout.strip()
    (tmp_path / "sh").symlink_to("/bin/sh")
    done = subprocess.run([make, "lab"], cwd=ROOT, capture_output=True, text=True, env={"PATH": str(tmp_path)})
    assert done.returncode != 0 and "Install Python 3.11, 3.12 or 3.13" in done.stderr


@pytest.mark.parametrize(
    ("version", "word"), [((3, 8), "old"), ((3, 10, 13), "old"), ((3, 14), "new"), ((2, 7), "old")]
)
def test_another_python_is_refused_with_the_way_on(version, word):
    with pytest.raises(
        bootstrap.Stop, match=rf"too {word}: the course needs Python 3.11, 3.12 or 3.13.*(?s:.*)bootstrap.py"
    ):
        bootstrap.check_python(version)


@pytest.mark.parametrize("version", [(3, 11, 0), (3, 12, 9), (3, 13, 0)])
def test_supported_pythons_are_taken(version):
    bootstrap.check_python(version)


def test_jupyterlab_serves_the_folder_that_its_printed_address_counts_from(monkeypatch, capsys):
    class Server:
        def __init__(self, command, **settings):
            Server.command = command

        def wait(self):
            return 0

    monkeypatch.setattr(bootstrap.subprocess, "Popen", Server)
    assert bootstrap.lab("zh", 8888) == 0
    assert (
        f"--ServerApp.root_dir={ROOT}" in Server.command
    )  # else it is the notebook's own folder, and the page is empty
    assert "/lab/tree/notebooks/zh/00_start_here.ipynb?token=" in capsys.readouterr().out


def test_bootstrap_is_readable_for_old_pythons():
    ast.parse((ROOT / "lessons_src" / "bootstrap.py").read_text(encoding="utf-8"), feature_version=(3, 7))


def test_missing_venv_module_is_named(monkeypatch):
    monkeypatch.setattr(bootstrap.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(bootstrap.Stop, match=r"apt install python3\.\d+-venv"):
        bootstrap.check_venv_module()


def test_states_of_an_environment(tmp_path):
    venv = tmp_path / "venv"
    assert bootstrap.environment_state(str(venv), "k") == "none"
    venv.mkdir()
    assert bootstrap.environment_state(str(venv), "k") == "none"
    (venv / "pyvenv.cfg").touch()
    assert bootstrap.environment_state(str(venv), "k") == "foreign"
    bootstrap.write_state(str(venv), "installing")
    assert bootstrap.environment_state(str(venv), "k") == "unfinished"
    bootstrap.write_state(str(venv), "ready", "k")
    assert bootstrap.environment_state(str(venv), "k") == "outdated"  # ready, but its Python is gone
    python = Path(bootstrap.venv_python(str(venv)))
    python.parent.mkdir()
    python.touch()
    assert bootstrap.environment_state(str(venv), "k") == "ready"
    assert bootstrap.environment_state(str(venv), "other pins") == "outdated"


@pytest.fixture
def empty_house(tmp_path, monkeypatch):
    """bootstrap.py as if the course lay in an empty folder; returns the folder of its .venv."""
    monkeypatch.setattr(bootstrap, "VENV", str(tmp_path / ".venv"))
    monkeypatch.setattr(bootstrap, "environment_key", lambda newest=False: "k")
    return tmp_path / ".venv"


def test_an_interrupted_install_is_made_afresh(empty_house, monkeypatch, capsys):
    def interrupted(*_):
        empty_house.mkdir()
        bootstrap.write_state(str(empty_house), "installing")
        (empty_house / "half-written").touch()
        raise KeyboardInterrupt

    def complete(*_):
        python = Path(bootstrap.venv_python(str(empty_house)))
        python.parent.mkdir(parents=True)
        python.touch()

    monkeypatch.setattr(bootstrap, "install", interrupted)
    with pytest.raises(bootstrap.Stop, match="Interrupted"):
        bootstrap.ensure_environment()
    assert bootstrap.environment_state(str(empty_house), "k") == "unfinished"
    monkeypatch.setattr(bootstrap, "install", complete)
    bootstrap.ensure_environment()
    assert "did not finish" in capsys.readouterr().out
    assert bootstrap.environment_state(str(empty_house), "k") == "ready"
    assert not (empty_house / "half-written").exists()


def test_somebody_elses_venv_is_left_alone(empty_house):
    empty_house.mkdir()
    (empty_house / "pyvenv.cfg").touch()
    with pytest.raises(bootstrap.Stop, match="did not make"):
        bootstrap.ensure_environment()
    assert (empty_house / "pyvenv.cfg").exists()


def test_two_installs_do_not_meet(empty_house):
    lock = bootstrap.only_one(str(empty_house) + ".lock")
    with pytest.raises(bootstrap.Stop, match="Another install"):
        bootstrap.ensure_environment()
    lock.close()


@pytest.mark.parametrize(
    ("log", "words"),
    [
        ("[Errno -3] Temporary failure in name resolution", "not reached"),
        ("OSError: [Errno 28] No space left on device", "disk is full"),
        ("[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed", "certificate"),
        ("ERROR: No matching distribution found for torch==2.13.0", "another mirror"),
        ("error: something else", "pip's own message"),
    ],
)
def test_a_failed_install_is_explained(log, words):
    assert words in bootstrap.diagnose(log)


def test_a_taken_port_is_replaced_by_the_next(capsys):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert bootstrap.free_port(port) > port
    assert f"Port {port} is taken" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("variables", "edition"),
    [({"LANG": "zh_CN.UTF-8"}, "zh"), ({"LANG": "en_GB.UTF-8"}, "en"), ({"LC_ALL": "C", "LANG": "zh_CN"}, "en")],
)
def test_the_edition_follows_the_locale(variables, edition):
    assert bootstrap.default_edition(variables) == edition


# ---- the test run itself ----


def in_test_run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], env=bootstrap.run_environ(), capture_output=True, text=True)
    return done.stdout + done.stderr


@pytest.mark.parametrize(
    "code",
    [
        "import socket; socket.create_connection(('example.com', 80), timeout=2)",
        "import socket; socket.create_connection(('192.0.2.1', 80), timeout=2)",
        "import socket; socket.socket().connect_ex(('192.0.2.1', 80))",
        "import urllib.request; urllib.request.urlopen('https://example.com', timeout=2)",
    ],
)
def test_the_network_is_blocked(code):
    assert "the network is blocked in tests" in in_test_run(code)


def test_loopback_stays_open():
    code = "import socket; s = socket.create_server(('127.0.0.1', 0)); socket.create_connection(s.getsockname()); print('in')"
    assert in_test_run(code).strip() == "in"


def write_notebook(path: Path, *cells: str) -> None:
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in cells])
    nbformat.write(notebook, path)


def nbval(folder: Path, *options: str) -> subprocess.CompletedProcess:
    """Run the notebooks of a folder as the course's own are run."""
    (folder / "conftest.py").write_text((ROOT / "conftest.py").read_text(encoding="utf-8"), encoding="utf-8")
    command = [
        sys.executable,
        "-m",
        "pytest",
        "--nbval-lax",
        "--nbval-current-env",
        "--nbval-cell-timeout=300",
        *options,
    ]
    environ = {name: value for name, value in bootstrap.run_environ().items() if not name.startswith("PYTEST_")}
    return subprocess.run(
        [*command, "-p", "no:cacheprovider", "--rootdir", str(folder), str(folder)],
        env=environ, cwd=folder, capture_output=True, text=True, timeout=100,
    )  # fmt: skip


def test_a_dead_kernel_fails_at_once(tmp_path):
    write_notebook(tmp_path / "dies.ipynb", "a = 1", "import os; os._exit(1)", "a")
    start = time.monotonic()
    done = nbval(tmp_path)
    assert time.monotonic() - start < 120, "it waited for the cell's time limit"  # of five minutes
    assert "The kernel died while this cell ran" in done.stdout and "2 failed, 1 passed" in done.stdout


def test_kernels_run_offline_in_their_own_folder(tmp_path):
    folder = tmp_path / "zh"
    folder.mkdir()
    names = ("OMP_NUM_THREADS", "GOMP_SPINCOUNT", "PYTHONHASHSEED", "HF_HUB_OFFLINE", "TUNELAB_STRICT")
    write_notebook(
        folder / "ok.ipynb",
        "import os, socket",
        "try:\n    socket.create_connection(('example.com', 80))\nexcept OSError as error:\n    assert 'blocked' in str(error)\n"
        "else:\n    raise AssertionError('the network was reached')",
        "assert os.path.basename(os.getcwd()) == 'zh'",
        f"assert [os.environ[name] for name in {names}] == ['1', '0', '0', '1', '1']",
    )
    done = nbval(tmp_path, "-n", "2", "--dist", "loadscope")
    assert done.returncode == 0, done.stdout
    assert re.search(r"=+ 4 passed in [\d.]+s", done.stdout)


# ---- prose ----


@pytest.mark.parametrize("source", sorted((ROOT / "lessons_src" / "lessons").glob("*.py")), ids=lambda path: path.stem)
def test_emphasis_in_prose_is_rendered(source):
    """Markdown leaves `**` as it stands between a full stop and a Chinese character: the stop belongs behind it."""
    notebook = jupytext.read(source, fmt={"extension": ".py", "format_name": "percent", "comment_magics": False})
    markdown, left = MarkdownIt("commonmark").enable("table"), []
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            page = markdown.render(re.sub(r"\$[^$]*\$", "", cell.source))
            page = re.sub(r"<(code|pre)[^>]*>.*?</\1>", "", page, flags=re.DOTALL)
            left += re.findall(r".{0,30}\*.{0,30}", page)
    assert left == []
