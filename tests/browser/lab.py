"A JupyterLab on a project, and a browser that looks at it; everything listens on 127.0.0.1 and ends with the test."
import io
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import nbformat

CHROMIUM = Path(os.environ.get("CHROMIUM") or "/usr/bin/chromium")
IMAGES = Path(__file__).parents[2] / "nbs" / "images"
COMMAND = "import sys; from mlops_workbench.ui.cli import main; sys.exit(main())"


class Lab:
    "A server on a project, started as a person would: `mlw lab`."
    def __init__(self, project: Path, home: Path, *, dark: bool = False):
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            self.port = s.getsockname()[1]
        self.project, self.token, self.home = project, secrets.token_hex(16), home
        for plugin, content in (("apputils-extension/themes", {"theme": "JupyterLab Dark" if dark else "JupyterLab Light"}), ("apputils-extension/notification", {"fetchNews": "false", "checkForUpdates": False}),
                                ("notebook-extension/tracker", {"windowingMode": "none"})):
            file = home / "settings" / "@jupyterlab" / f"{plugin}.jupyterlab-settings"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps(content))
        env = {k: v for k, v in os.environ.items() if not k.startswith(("MLW_", "JUPYTER", "JPY"))} | {"JUPYTERLAB_SETTINGS_DIR": str(home / "settings"), "JUPYTERLAB_WORKSPACES_DIR": str(home / "workspaces")}
        env |= {"JUPYTER_CONFIG_DIR": str(home / "config"), "JUPYTER_DATA_DIR": str(home / "data"), "JUPYTER_RUNTIME_DIR": str(home / "runtime"), "IPYTHONDIR": str(home / "ipython"), "OMP_NUM_THREADS": "2"}
        options = ["--no-browser", "--ServerApp.ip=127.0.0.1", f"--ServerApp.port={self.port}", "--ServerApp.port_retries=0", "--ServerApp.allow_root=True", f"--IdentityProvider.token={self.token}"]
        self.log = open(home / "lab.log", "w")
        self.process = subprocess.Popen([sys.executable, "-c", COMMAND, "-C", str(project), "lab", *options], env=env, stdin=subprocess.DEVNULL, stdout=self.log, stderr=subprocess.STDOUT, start_new_session=True)
        for _ in range(600):
            try: return self.ask("/api/status") and None
            except OSError: time.sleep(0.1)
            if self.process.poll() is not None: break
        raise RuntimeError(f"JupyterLab did not start: {(home / 'lab.log').read_text()[-2000:]}")

    def ask(self, path: str, method: str = "GET", body: object = None):
        "The answer of the server's interface."
        data = json.dumps(body).encode() if body is not None else None
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", data, {"Authorization": f"token {self.token}", "Content-Type": "application/json"}, method=method)
        with urllib.request.urlopen(request, timeout=30) as answer: return json.loads(answer.read() or b"null")

    def end(self) -> None:
        "End the server with its kernels."
        for kernel in self.ask("/api/kernels"): self.ask(f"/api/kernels/{kernel['id']}", "DELETE")
        for stop in (signal.SIGTERM, signal.SIGKILL):
            try: os.killpg(self.process.pid, stop)     # its own session
            except ProcessLookupError: break
            try:
                self.process.wait(15)
                break
            except subprocess.TimeoutExpired: continue
        self.log.close()

    def notebook(self, name: str, *cells: str) -> str:
        "The name of a notebook of the project with these cells."
        nb = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(c) for c in cells], metadata={"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}})
        nbformat.write(nb, self.project / name)
        return name

    def address(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}/lab/tree/{path}?reset&token={self.token}"


@contextmanager
def chromium(playwright):
    browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox", "--disable-gpu"])
    try: yield browser
    finally: browser.close()


def visit(browser, lab: Lab, path: str, *, width: int = 1320, height: int = 1000):
    "The notebook, open and ready."
    page = browser.new_context(viewport={"width": width, "height": height}).new_page()
    page.set_default_timeout(60_000)
    page.goto(lab.address(path))
    page.wait_for_selector(".jp-Notebook .jp-Cell")
    page.wait_for_function("document.querySelector('.jp-Notebook-ExecutionIndicator')?.dataset.status === 'idle'")
    return page


def run_first_cell(page) -> None:
    "Run it; a kernel that has only just connected may miss the first try."
    for _ in range(20):
        if page.locator("dialog").count(): page.locator("dialog .jp-mod-accept").last.click()      # a slow machine may be asked which kernel is meant
        page.locator(".jp-Cell .cm-content").first.click()
        page.keyboard.press("Control+Enter")
        try: return page.wait_for_function("/\\[[*0-9]+\\]/.test(document.querySelector('.jp-InputPrompt').textContent)", timeout=3_000) and None
        except Exception: continue
    raise RuntimeError("the cell is not run")


def keep(target, name: str, *, most: int = 2000) -> None:
    "Keep a picture for the documentation, in few colours, where MLW_KEEP_SCREENSHOTS asks for it."
    if not os.environ.get("MLW_KEEP_SCREENSHOTS"): return
    from PIL import Image
    target.evaluate("e => e.scrollIntoView()")
    box, page = target.bounding_box(), target.page
    top, bottom = max(box["y"], 0), min(box["y"] + box["height"], page.viewport_size["height"] - 26)      # above the line of the status
    seen = page.screenshot(clip={"x": box["x"], "y": top, "width": box["width"], "height": min(bottom - top, most)})
    picture = Image.open(io.BytesIO(seen)).convert("RGB").quantize(64, dither=Image.Dither.NONE)
    IMAGES.mkdir(exist_ok=True)
    picture.save(IMAGES / f"workbench-{name}.png", optimize=True)
