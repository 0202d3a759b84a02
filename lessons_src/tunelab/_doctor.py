"""The doctor: is this machine ready for the lessons, and if not, what to do."""

import hashlib
import importlib.metadata
import importlib.util
import json
import os
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from tunelab import session
from tunelab.display import Verdict, table
from tunelab.paths import CHECKOUT, course_file

_NEEDED = ("torch", "transformers", "peft", "datasets", "numpy", "sklearn", "matplotlib", "chromadb", "flask")
_MEMORY = 1.5e9  # bytes; the budget of a lesson
_Say = Callable[[str, str], str]  # (English, Chinese) -> the reader's
_Row = tuple[bool, str, str, str]  # ok, what is checked, what was found, what to do


def doctor(lang: str | None = None) -> bool:
    """Show one line a check, each ok or with what to do; return whether all are ok. Works before `start()` too."""
    lang = lang or (session.language())

    def say(en: str, zh: str) -> str:
        return zh if lang == "zh" else en

    checks = (_python, _packages, _versions, _memory, _font, _assets, _threads, _network)
    rows = [row for check in checks for row in check(say)]
    header = ["", say("check", "检查"), say("found", "结果"), say("what to do", "怎么办")]
    table(header, [["✓" if ok else "✗", what, found, "" if ok else advice] for ok, what, found, advice in rows])
    return Verdict(all(ok for ok, *_ in rows))


def _python(say: _Say) -> Iterator[_Row]:
    advice = say(
        "make the environment anew with Python 3.11, 3.12 or 3.13", "用 Python 3.11、3.12 或 3.13 重新建立环境"
    )
    yield (3, 11) <= sys.version_info[:2] <= (3, 13), "Python", sys.version.split()[0], advice


def _packages(say: _Say) -> Iterator[_Row]:
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    found = say("missing: ", "缺少：") + ", ".join(missing) if missing else f"{len(_NEEDED)}/{len(_NEEDED)}"
    advice = say("install again, see the README", "重新安装，见 README")
    yield not missing, say("packages needed", "需要的包"), found, advice


def _versions(say: _Say) -> Iterator[_Row]:
    pins = CHECKOUT / "constraints.txt" if CHECKOUT else None
    if pins is None or not pins.is_file():
        return  # installed from a wheel, as on Colab, where other versions are the rule
    tested = dict(re.findall(r"^([\w.-]+)==([\w.]+)", pins.read_text(encoding="utf-8"), flags=re.MULTILINE))
    installed = {name: version for name in tested if (version := _version(name))}
    other = [f"{name} {installed[name]} ({tested[name]})" for name in installed if installed[name] != tested[name]]
    found = ", ".join(other[:4]) + f" +{len(other) - 4}" * (len(other) > 4) or f"{len(installed)}/{len(installed)}"
    advice = say(
        "usually fine; if a lesson fails, install the versions in brackets (constraints.txt)",
        "通常没有问题；若课程出错，请安装括号内的版本（constraints.txt）",
    )
    yield not other, say("versions as tested", "与测试版本一致"), found, advice


def _version(package: str) -> str | None:
    """Installed version without its local part ("2.13.0+cpu"), None where it is not installed."""
    try:
        return importlib.metadata.version(package).split("+")[0]
    except importlib.metadata.PackageNotFoundError:
        return None


def _memory(say: _Say) -> Iterator[_Row]:
    free = _free_memory()
    found = say("unknown", "未知") if free is None else f"{free / 1e9:.1f} GB"
    advice = say("shut down other notebooks and programs", "关闭其他笔记本和程序")
    yield free is None or free >= _MEMORY, say("free memory, 1.5 GB needed", "可用内存，需要 1.5 GB"), found, advice


def _free_memory() -> int | None:
    """Bytes free for this process: of the machine, or of its container (Binder) where that is less."""
    try:
        import psutil
    except ImportError:
        return None
    free, cgroup = psutil.virtual_memory().available, Path("/sys/fs/cgroup")
    try:
        limit, used = (int((cgroup / name).read_text()) for name in ("memory.max", "memory.current"))
    except (OSError, ValueError):  # no container, or one without a limit ("max")
        return free
    return min(free, limit - used)


def _font(say: _Say) -> Iterator[_Row]:
    names = [file.name for file in course_file("assets", "fonts").glob("*") if file.suffix in (".otf", ".ttf")]
    advice = say("restore it: git checkout assets", "恢复字体：git checkout assets")
    yield bool(names), say("Chinese font for figures", "图中的中文字体"), ", ".join(names) or "0", advice


def _assets(say: _Say) -> Iterator[_Row]:
    """Data are there, and the weights of each shipped model have the SHA-256 that its training.json records."""
    data = sum(file.is_file() for file in course_file("assets", "data").rglob("*"))
    records = sorted(course_file("assets", "models").glob("*/training.json"))
    bad = [record.parent.name for record in records if not _is_undamaged(record)]
    found = say("{} data files, {}/{} models", "{} 个数据文件，{}/{} 个模型")
    found = ": ".join([found.format(data, len(records) - len(bad), len(records)), *bad])
    advice = say("missing or damaged: git checkout assets", "缺失或损坏：git checkout assets")
    yield data > 0 and len(records) > 0 and not bad, say("data and models", "数据与模型"), found, advice


def _is_undamaged(record: Path) -> bool:
    weights = record.with_name("model.safetensors")
    recorded = json.loads(record.read_text(encoding="utf-8")).get("sha256")
    return weights.is_file() and hashlib.sha256(weights.read_bytes()).hexdigest() == recorded


def _threads(say: _Say) -> Iterator[_Row]:
    cores, asked = os.cpu_count() or 1, os.environ.get("OMP_NUM_THREADS", "")
    found = say("{} of {} cores", "{}，共 {} 核").format(asked or "1", cores)
    advice = say("slow: set OMP_NUM_THREADS=1 and restart the kernel", "会变慢：设 OMP_NUM_THREADS=1 并重启内核")
    yield not asked.isdecimal() or int(asked) <= cores, say("threads", "线程"), found, advice


def _network(say: _Say) -> Iterator[_Row]:
    yield True, say("network", "网络"), say("not needed (profile tiny)", "不需要（配置 tiny）"), ""
