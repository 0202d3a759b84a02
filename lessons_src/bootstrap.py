"""Create the course's environment and start what a learner or a test run needs: `env`, `lab`, `test`.

Called by the Makefile, and directly where there is no make:  python lessons_src/bootstrap.py lab
Standard library only. The syntax stays readable for old Pythons, so that they reach the line that says they are too old.
"""

import argparse
import hashlib
import importlib.util
import json
import locale
import os
import secrets
import shutil
import socket
import subprocess
import sys
import webbrowser

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
VENV = os.path.join(ROOT, ".venv")
OLDEST, NEWEST = (3, 11), (3, 13)  # requires-python in pyproject.toml says the same; a test compares them
FIRST_LESSON = "00_start_here.ipynb"
SPACE_GB = 3  # the environment with PyTorch's CPU build, and room to unpack
UNIT_TESTS = "-n 2 --dist loadfile tests".split()
NOTEBOOK_TESTS = "--nbval-lax --nbval-current-env --nbval-cell-timeout=300 -n 2 --dist loadscope notebooks".split()


class Stop(Exception):
    """Something the reader has to put right; the message says what and how."""


def again(command):
    """The line that runs `command` again, as the reader would type it on this system."""
    return "python lessons_src\\bootstrap.py {}".format(command) if os.name == "nt" else "make {}".format(command)


# ---- Is this machine ready? ---------------------------------------------------------------------------------------


def check_python(version, command="lab"):
    """Raise Stop unless the running Python is one that the course supports."""
    version = tuple(version[:2])
    if OLDEST <= version <= NEWEST:
        return
    raise Stop(
        "This is Python {}.{}, too {}: the course needs Python 3.11, 3.12 or 3.13. Install one of them (python.org, "
        "your package manager, pyenv or conda) beside this one, then run:\n    make {} PYTHON=python3.12\n"
        "or, without make (Windows: py -3.12 in place of python3.12):\n    python3.12 lessons_src/bootstrap.py {}".format(
            *version, "old" if version < OLDEST else "new", command, command
        )
    )


def check_venv_module():
    """Raise Stop where Python came without ensurepip, as Debian's and Ubuntu's does."""
    if importlib.util.find_spec("venv") is None or importlib.util.find_spec("ensurepip") is None:
        raise Stop(
            "This Python cannot create environments: its venv module is a package of its own on Debian and Ubuntu. "
            "Run:\n    sudo apt install python{}.{}-venv\nthen the same command again.".format(*sys.version_info[:2])
        )


def diagnose(log):
    """What to do about a failed install, told from the text that pip wrote."""
    text = log.lower()
    network = ("nameresolution", "name resolution", "getaddrinfo", "newconnectionerror", "connecttimeout", "proxyerror")
    if "no space left" in text or "errno 28" in text:
        return "The disk is full: the environment needs about {} GB. Make room, then".format(SPACE_GB)
    if "certificate_verify_failed" in text or "sslerror" in text:
        return (
            "The package index was reached, but its certificate was not accepted (a proxy?). Ask your network's "
            "administrator for pip's `cert` setting, then"
        )
    if any(sign in text for sign in network) or "readtimeout" in text or "connection broken" in text:
        return "The package index was not reached. Check the network, or set a mirror (README, Troubleshooting), then"
    if "no matching distribution" in text or "resolutionimpossible" in text:
        return "The index that pip uses lacks a version that constraints.txt names. Use another mirror, then"
    return "pip's own message stands above. When that is put right,"


# ---- The environment ----------------------------------------------------------------------------------------------


def venv_python(venv=VENV):
    """Path of the environment's Python."""
    return os.path.join(venv, "Scripts", "python.exe") if os.name == "nt" else os.path.join(venv, "bin", "python")


def environment_key(root=ROOT, newest=False):
    """Hash of what the environment depends on: the project's metadata, the pins, the Python, the folder."""
    import tomllib  # Python 3.11 and newer, which check_python has made sure of

    with open(os.path.join(root, "pyproject.toml"), "rb") as file:
        pyproject = tomllib.load(file)
    with open(os.path.join(root, "constraints.txt"), encoding="utf-8") as file:
        pins = "" if newest else file.read()
    metadata = [pyproject["build-system"], pyproject["project"], pyproject["tool"]["hatch"]]
    parts = [metadata, pins, list(sys.version_info[:2]), os.path.realpath(root)]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def environment_state(venv, key):
    """One of "none", "ready", "outdated", "unfinished" (an install that broke half-way), "foreign" (not made here)."""
    if not os.path.isdir(venv) or not os.listdir(venv):
        return "none"
    try:
        with open(os.path.join(venv, "tunelab-state"), encoding="utf-8") as file:
            state = file.read().split()
    except OSError:
        return "foreign"
    if state[:1] != ["ready"]:
        return "unfinished"
    return "ready" if state[1:] == [key] and os.path.exists(venv_python(venv)) else "outdated"


def write_state(venv, *words):
    """Leave the note that `environment_state` reads; replaced in one step, so never half-written."""
    path = os.path.join(venv, "tunelab-state")
    with open(path + ".part", "w", encoding="utf-8") as file:
        file.write(" ".join(words) + "\n")
    os.replace(path + ".part", path)


def only_one(path):
    """Hold a lock until this process ends, or raise Stop when another install holds it."""
    handle = open(path, "w")  # stays open: the lock lives as long as the handle
    try:
        if os.name == "nt":
            import msvcrt

            msvcrt.locking(handle.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise Stop(
            "Another install is at work in this folder. Wait until it ends, then run the same command again."
        ) from None
    return handle


def ensure_environment(newest=False, torch_index="", command="lab"):
    """Create .venv and install the course, unless a finished one of the same versions is there.

    A note inside .venv says "installing" before the first step and "ready" only after the last, so an environment whose
    install broke is never used: the next call deletes it and starts afresh (pip's cache keeps the downloads).
    """
    check_python(sys.version_info, command)
    key = environment_key(newest=newest)
    if environment_state(VENV, key) == "ready":
        return
    check_venv_module()
    lock = only_one(VENV + ".lock")
    state = environment_state(VENV, key)  # again: another process may have finished it just now
    if state == "ready":
        return
    if state == "foreign":
        raise Stop("There is a .venv that this course did not make. Rename or delete it, then run: " + again(command))
    if state != "none":
        why = "The last install did not finish" if state == "unfinished" else "The versions or the folder have changed"
        say("{}: making .venv afresh (what was downloaded is in pip's cache).".format(why))
        try:
            shutil.rmtree(VENV)
        except OSError as error:
            raise Stop(
                "Cannot delete .venv ({}). Close JupyterLab, then run: {}".format(error, again(command))
            ) from None
    try:
        install(newest, torch_index, command)
    except KeyboardInterrupt:
        raise Stop("\nInterrupted: .venv is not finished. To make it afresh, run: " + again(command)) from None
    write_state(VENV, "ready", key)
    lock.close()


def install(newest, torch_index, command):
    """Create .venv and run pip in it."""
    say("Making the environment in .venv with Python {}.{}: a few minutes, once.".format(*sys.version_info[:2]))
    os.makedirs(VENV, exist_ok=True)
    write_state(VENV, "installing")
    steps = [[sys.executable, "-m", "venv", VENV]]
    log = os.path.join(VENV, "pip.log")
    pip = [venv_python(), "-m", "pip", "--disable-pip-version-check", "--log", log, "install"]
    pip += [] if newest else ["-c", os.path.join(ROOT, "constraints.txt")]
    if torch_index:  # PyTorch's CPU build is not on the ordinary index; the README says where to find the address
        steps.append([*pip, "torch", "--index-url", torch_index])
    steps.append([*pip, "-e", ROOT + "[lab,dev]"])
    for step in steps:
        if subprocess.call(step, cwd=ROOT) == 0:
            continue
        text = ""
        if os.path.exists(log):
            with open(log, encoding="utf-8", errors="replace") as file:
                text = file.read()
        if shutil.disk_usage(ROOT).free < 2e8:
            text += "no space left"
        raise Stop("The install did not finish. {} run: {}".format(diagnose(text), again(command)))
    # Compiled from source on many machines; without a compiler lesson 09 shows its stored comparison instead.
    if subprocess.call([*pip, "--quiet", "-e", ROOT + "[hnsw]"], cwd=ROOT) != 0:
        say("hnswlib could not be compiled here: lesson 09 shows the stored comparison. Everything else is in place.")
    settings = os.path.join(VENV, "share", "jupyter", "lab", "settings")
    os.makedirs(settings, exist_ok=True)
    with open(os.path.join(settings, "overrides.json"), "w", encoding="utf-8") as file:
        # No question about Jupyter's news and no look for updates: a lesson opens on the lesson, without a network.
        json.dump(
            {"@jupyterlab/apputils-extension:notification": {"fetchNews": "false", "checkForUpdates": False}}, file
        )


# ---- lab ----------------------------------------------------------------------------------------------------------


def default_edition(environ=os.environ):
    """ "zh" where the reader's system speaks Chinese, else "en"."""
    named = next((environ[name] for name in ("LC_ALL", "LC_MESSAGES", "LANG") if environ.get(name)), "")
    if not named and os.name == "nt":
        try:
            named = locale.setlocale(locale.LC_CTYPE, "")
        except locale.Error:
            named = ""
    return "zh" if named.lower().startswith(("zh", "chinese")) else "en"


def free_port(wanted):
    """The first free port from `wanted` on; raises Stop when twenty in a row are taken."""
    for port in range(wanted, wanted + 20):
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            if os.name != "nt":  # there, the option would let two servers share the port
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        if port != wanted:
            say("Port {} is taken (is JupyterLab open already?): using {}.".format(wanted, port))
        return port
    raise Stop("Ports {} to {} are all taken. Choose another: make lab PORT=9000".format(wanted, wanted + 19))


def has_browser(environ=os.environ):
    """Whether a browser window can be opened here."""
    if sys.platform.startswith("linux") and not (environ.get("DISPLAY") or environ.get("WAYLAND_DISPLAY")):
        return False
    try:
        webbrowser.get()
    except webbrowser.Error:
        return False
    return True


def lab(edition, port):
    """Open JupyterLab on the first lesson; returns its exit status."""
    notebook = "/".join(["notebooks"] + (["zh"] if edition == "zh" else []) + [FIRST_LESSON])
    if not os.path.exists(os.path.join(ROOT, notebook)):
        raise Stop(
            "{} is missing. Fetch it again (git checkout {}), or build it: make notebooks".format(notebook, notebook)
        )
    port = free_port(port)
    token = secrets.token_hex(16)
    command = [venv_python(), "-m", "jupyterlab", notebook, "--ip=127.0.0.1", "--port={}".format(port)]
    command += ["--ServerApp.root_dir={}".format(ROOT), "--ServerApp.port_retries=0", "--log-level=WARN"]
    browser = has_browser()
    if not browser:
        command.append("--no-browser")
    if hasattr(os, "geteuid") and os.geteuid() == 0:  # a container; Jupyter refuses root otherwise
        command.append("--allow-root")
    say("\nJupyterLab: {} this address:".format("your browser opens; if it does not, open" if browser else "open"))
    say("    http://127.0.0.1:{}/lab/tree/{}?token={}".format(port, notebook, token))
    say("Stop it with Ctrl+C.\n")
    server = subprocess.Popen(command, cwd=ROOT, env=dict(os.environ, JUPYTER_TOKEN=token))
    while True:
        try:
            return server.wait()
        except KeyboardInterrupt:  # Ctrl+C reached JupyterLab too, which asks before it stops
            continue


# ---- test ---------------------------------------------------------------------------------------------------------


def run_environ(environ=os.environ):
    """The variables of a test run: one thread, no network in any Python process, claims that do not hold are errors."""
    guard = os.path.join(ROOT, "tests", "no_network")
    paths = [guard] + [path for path in environ.get("PYTHONPATH", "").split(os.pathsep) if path and path != guard]
    return dict(
        environ,
        PYTHONPATH=os.pathsep.join(paths),
        OMP_NUM_THREADS="1",
        GOMP_SPINCOUNT="0",
        PYTHONHASHSEED="0",
        HF_HUB_OFFLINE="1",
        TUNELAB_STRICT="1",
        JUPYTER_PREFER_ENV_PATH="1",  # never a kernel that the user installed elsewhere
    )


def run_tests():
    """Unit tests, then every notebook from a fresh kernel; returns pytest's exit status."""
    for what, arguments in (("unit tests", UNIT_TESTS), ("notebooks", NOTEBOOK_TESTS)):
        say("\n== {} ==".format(what))
        status = subprocess.call([venv_python(), "-m", "pytest", *arguments], cwd=ROOT, env=run_environ())
        if status:
            break
    return status


def say(line):
    """Print at once, also where the output is a pipe."""
    print(line, flush=True)


def main(arguments=None):
    """Run one of the commands; returns the exit status."""
    parser = argparse.ArgumentParser(prog="bootstrap.py", description=__doc__.splitlines()[0])
    parser.add_argument("command", choices=["env", "lab", "test"])
    parser.add_argument("--edition", choices=["en", "zh", ""], default="", help="default: from the locale")
    parser.add_argument("--port", type=int, default=8888)
    parser.add_argument("--torch-index", default=os.environ.get("TORCH_INDEX", ""), help="index to take PyTorch from")
    parser.add_argument("--newest", action="store_true", help="newest versions instead of constraints.txt")
    options = parser.parse_args(arguments)
    try:
        ensure_environment(options.newest, options.torch_index, options.command)
        if options.command == "lab":
            edition = options.edition or os.environ.get("LANG_EDITION") or default_edition()
            if edition not in ("en", "zh"):
                raise Stop("LANG_EDITION is {!r}: use en or zh.".format(edition))
            return lab(edition, options.port)
        return run_tests() if options.command == "test" else 0
    except Stop as stop:
        print(stop, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
