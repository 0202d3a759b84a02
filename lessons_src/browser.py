"""Open every notebook in JupyterLab in a real browser, run all cells, move each slider, take a screenshot (`make browser`).

Needs the extra `browser` (pip install playwright) and a Chromium on the machine: CHROMIUM=/path/to/chromium, or one on PATH.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

from bootstrap import free_port, run_environ
from verify import ROOT, notebooks

RUN_ALL = """async () => {
  const app = window.jupyterapp;
  await app.restored;
  const panel = app.shell.currentWidget;
  await panel.context.ready;
  await panel.sessionContext.ready;
  return await app.commands.execute('notebook:run-all-cells');
}"""
# The document as the page holds it: outputs stored by the run that has just ended.
OUTPUTS = """() => window.jupyterapp.shell.currentWidget.context.model.toJSON().cells
  .filter(cell => cell.cell_type === 'code').flatMap(cell => cell.outputs)"""


def find_chromium() -> str:
    """Path of a Chromium; exits with a line that says how to get one."""
    names = [os.environ.get("CHROMIUM", ""), "chromium", "chromium-browser", "google-chrome"]
    found = next((path for name in names if name and (path := shutil.which(name))), None)
    if not found:
        raise SystemExit("No Chromium found. Install one (Debian: apt install chromium), or set CHROMIUM to its path.")
    return found


def start_lab(scratch: Path) -> tuple[subprocess.Popen, str]:
    """JupyterLab without a browser and a token, on this machine's loopback only; returns it with its address.

    Its settings lie in `scratch`: the user's own stay out of it, and autosave is off, or a long run would be written into
    notebooks/.
    """
    port = free_port(8900)
    settings = scratch / "settings" / "@jupyterlab" / "docmanager-extension" / "plugin.jupyterlab-settings"
    settings.parent.mkdir(parents=True)
    settings.write_text('{"autosave": false}', encoding="utf-8")
    environ = run_environ() | {
        "JUPYTERLAB_SETTINGS_DIR": str(scratch / "settings"),
        "JUPYTERLAB_WORKSPACES_DIR": str(scratch / "workspaces"),
    }
    command = [
        sys.executable,
        "-m",
        "jupyterlab",
        "--no-browser",
        "--ip=127.0.0.1",
        f"--port={port}",
        "--log-level=ERROR",
    ]
    command += ["--IdentityProvider.token=", "--LabApp.expose_app_in_browser=True", "--allow-root"]
    server = subprocess.Popen(command, cwd=ROOT, env=environ, stderr=subprocess.DEVNULL)
    address = f"http://127.0.0.1:{port}"
    for _ in range(60):
        try:
            urllib.request.urlopen(f"{address}/api", timeout=2)
            return server, address
        except (TimeoutError, urllib.error.URLError):
            time.sleep(1)
    server.kill()
    raise SystemExit("JupyterLab did not start within 60 seconds. Try it by hand: make lab")


# Of the notebook and the panels around it, whichever holds all of its cells.
HEIGHT = """() => Math.max(...[...document.querySelectorAll(
  '.jp-Notebook, .jp-WindowedPanel-outer, .jp-WindowedPanel-inner')].map(part => part.scrollHeight))"""
# What a slider shows beside itself: the text or the picture.
SHOWN = """box => { const view = box.querySelector('.widget-html-content, img');
  return view ? view.src || view.textContent : ''; }"""


def move_sliders(page) -> str:
    """Press an arrow key on every slider; returns the label of the first whose text or picture stays as it was."""
    for slider in page.locator(".widget-slider").all():
        box = slider.locator("xpath=ancestor::*[contains(@class, 'widget-vbox')][1]")
        before = box.evaluate(SHOWN)
        handle = slider.locator("[role=slider]")
        at_end = handle.get_attribute("aria-valuenow") == handle.get_attribute("aria-valuemax")
        handle.focus()
        page.keyboard.press("ArrowLeft" if at_end else "ArrowRight")
        for _ in range(60):
            if (now := box.evaluate(SHOWN)) and now != before:
                break
            page.wait_for_timeout(500)
        else:
            return f"the slider {slider.inner_text()!r} does not redraw"
    return ""


def run_in_page(page, address: str, path: Path, picture: Path) -> str:
    """Run one notebook in the page and move its sliders; returns what went wrong ("" when nothing did)."""
    page.goto(f"{address}/doc/tree/{path.relative_to(ROOT).as_posix()}?reset")
    page.wait_for_function("() => window.jupyterapp && window.jupyterapp.shell.currentWidget", timeout=60_000)
    finished = page.evaluate(RUN_ALL)
    outputs = page.evaluate(OUTPUTS)
    # One window as tall as the notebook, so that the picture holds all of it (JupyterLab draws only what is in view).
    height = page.evaluate(HEIGHT)
    page.set_viewport_size({"width": 1100, "height": min(16_000, height + 200)})
    page.wait_for_timeout(2_000)
    stuck = move_sliders(page)
    page.screenshot(path=str(picture))
    page.set_viewport_size({"width": 1100, "height": 900})
    errors = [f"{output['ename']}: {output['evalue']}" for output in outputs if output["output_type"] == "error"]
    return errors[0] if errors else stuck if finished else "run-all-cells reported a failure"


def main(arguments: list[str] | None = None) -> int:
    """Run and print one line a notebook; returns 1 when any failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "browser", help="folder of the screenshots")
    parser.add_argument("--lesson", default="", help="two digits, such as 01; default: all")
    parser.add_argument("--lang", choices=["en", "zh", ""], default="", help="default: both")
    options = parser.parse_args(arguments)
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        raise SystemExit(
            "The browser check needs playwright. Run: .venv/bin/python -m pip install playwright"
        ) from None
    chosen, chromium = notebooks(options.lesson, options.lang), find_chromium()
    options.out.mkdir(parents=True, exist_ok=True)
    failed = 0
    with tempfile.TemporaryDirectory() as scratch, sync_playwright() as playwright:
        server, address = start_lab(Path(scratch))
        try:
            browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
            for path in chosen:
                start = time.monotonic()
                page = browser.new_page(viewport={"width": 1100, "height": 900})
                page.set_default_timeout(600_000)
                name = "-".join(path.relative_to(ROOT / "notebooks").with_suffix("").parts)
                problem = run_in_page(page, address, path, options.out / f"{name}.png")
                page.close()
                print(f"{name:<44} {time.monotonic() - start:6.1f} s  {problem or 'ok'}", flush=True)
                failed += bool(problem)
            browser.close()
        finally:
            server.terminate()
            server.wait()
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
