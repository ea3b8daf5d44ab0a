"Secrets planted in every place that a run writes, and looked for in every file of the store."
import base64
import gzip
import io
import json
import os
import re
import subprocess
import sys
import threading
import time
import zipfile
import zlib
from pathlib import Path
from urllib.parse import quote

import nbformat
import pytest

from mlops_workbench.core import guard, redaction, secrets
from mlops_workbench.core.errors import InputError, NotFoundError, ParameterError
from mlops_workbench.core.redaction import redact, redact_tokens
from mlops_workbench.core.runs import Runs
from mlops_workbench.jobs.execute import run_job, wait_for_mirrors

ODD = "tr0ub4dor &3\"/\\'ü~pass"   # with everything that is escaped somewhere
PLAIN = "correct-horse-battery-staple"


@pytest.fixture(autouse=True)
def forget(monkeypatch):
    "Each test knows no secret at first."
    for name in redaction._VARIABLES: monkeypatch.delenv(name, raising=False)
    before = dict(redaction._given)
    redaction._given.clear()
    yield
    redaction._given.clear()
    redaction._given.update(before)


@pytest.fixture
def project(tmp_path, monkeypatch):
    (tmp_path / "settings.ini").write_text("[project]\nname = demo\n")
    (tmp_path / "jobs").mkdir()
    monkeypatch.chdir(tmp_path)
    for name in ("MLW_ROOT", "MLW_STORE", "MLW_RUN_ID", "MLW_FOLDER"): monkeypatch.delenv(name, raising=False)
    return tmp_path


def write(path, *cells, parameters=""):
    found = [nbformat.v4.new_markdown_cell("# A job")] + ([nbformat.v4.new_code_cell(parameters, metadata={"tags": ["parameters"]})] if parameters else [])
    nb = nbformat.v4.new_notebook(cells=[*found, *map(nbformat.v4.new_code_cell, cells)], metadata={"kernelspec": {"name": "python3", "display_name": "python3", "language": "python"}})
    nbformat.write(nb, path)


def unpacked(data, depth=0):
    "The data, and what is inside of it: compressed, in base64, in JSON."
    yield data
    if depth > 2: return
    if data[:2] == b"\x1f\x8b": yield from unpacked(gzip.decompress(data), depth + 1)
    if data[:2] == b"PK":
        with zipfile.ZipFile(io.BytesIO(data)) as z:
            for name in z.namelist(): yield from unpacked(z.read(name), depth + 1)
    if data[:4] == b"\x89PNG":
        for m in re.finditer(rb"(?:zTXt|iTXt)", data):
            for at in range(m.end(), min(m.end() + 200, len(data))):
                if data[at:at + 1] == b"\x78":
                    try: yield zlib.decompressobj().decompress(data[at:])
                    except zlib.error: pass
    for m in re.finditer(rb"[A-Za-z0-9+/]{24,}={0,2}", data.replace(b"\\n", b"")):
        try: inner = base64.b64decode(m[0] + b"=" * (-len(m[0]) % 4))
        except ValueError: continue
        yield inner
        if inner[:4] == b"\x89PNG": yield from unpacked(inner, depth + 1)


def ways(value):
    "How a value may be written; independent of what the package looks for."
    plain = value.encode()
    escaped = json.dumps(value)[1:-1]
    texts = {value, escaped, json.dumps(value, ensure_ascii=False)[1:-1], json.dumps(escaped)[1:-1], repr(value)[1:-1], quote(value), quote(value, safe="")}
    return {t.encode() for t in texts} | {plain.hex().encode(), value.encode("utf-16-le"), value.encode("utf-16-be"), base64.b64encode(plain).rstrip(b"=")[:-1]}


def leaks(folder, *values):
    "The files that hold one of the values, and how."
    found = []
    for file in sorted(Path(folder).rglob("*")):
        if not file.is_file(): continue
        for data in unpacked(file.read_bytes()):
            bare = re.sub(rb"\x1b\[[0-9;]*m|\\u001b\[[0-9;]*m", b"", data)
            found += [(file.relative_to(folder).as_posix(), w) for value in values for w in ways(value) if w in data or w in bare]
    return found


PLANT = """
import base64, json, logging, os, subprocess, sys, time
from pathlib import Path
from urllib.parse import quote
from mlops_workbench.core.runs import job_run
from mlops_workbench.core.secrets import secret
run = job_run("plant")
os.environ["ONLY_HERE"] = "".join(["open", "sesame", "-and-", "close"])
found = [secret(password), secret("ONLY_HERE"), secret("FROM_KEYRING")]
"""
OUTPUT = """
for p in found:
    print(p, json.dumps(p), repr(p), quote(p, safe=""), base64.b64encode(b"me:" + p.encode()).decode(), p.encode().hex())
    print("\\x1b[31m" + p[:4] + "\\x1b[0m" + p[4:])
    sys.stderr.write(json.dumps({"inside": json.dumps(p)}))
    for piece in (p[:5], p[5:8], p[8:]):
        sys.stdout.write(piece)
        sys.stdout.flush()
        time.sleep(0.1)
    subprocess.run(["echo", p])
found
"""
FILES = """
log = logging.getLogger("plant")
log.addHandler(logging.FileHandler(run.folder / "job.log"))
for p in found:
    log.error("cannot reach %s", p)
    try: raise RuntimeError(p)
    except RuntimeError: log.exception("again")
    with open(run.folder / "kernel.log", "a") as f: f.write(p + chr(10))
    (run.folder / "notes.txt").write_bytes(p.encode("utf-16"))
    run.warn(p)
    run.metric(p, 1.0)
    run.metric(p, 0.5, step=1)
    run.output("file", p)
run.save_json("assessment.json", found)
"""
WIDGET = """
import ipywidgets
from IPython.display import HTML, SVG, display
for p in found: display(ipywidgets.Text(value=p, description="Password"))
display(HTML(f"<b title='{p}'>{p}</b>"))
"""
FIGURE = """
%matplotlib inline
import matplotlib.pyplot as plt
for i, p in enumerate(found):
    figure, axes = plt.subplots(figsize=(3, 2))
    axes.set_title(p)
    axes.set_xlabel("at " + p)
    axes.plot([1, 2], label=p)
    axes.legend()
    axes.annotate(p, (0, 1))
    for kind in ("svg", "png", "pdf"): figure.savefig(run.folder / f"figure-{i}.{kind}", metadata={"Title": p})
    with open(run.folder / f"figure-{i}.svg") as f: display(SVG(f.read()))
plt.show()
"""

KEYRING = """
import os
from pathlib import Path
from keyring.backend import KeyringBackend
class Memory(KeyringBackend):
    priority = 1
    def get_password(self, service, name): return Path(os.environ["TEST_KEYRING"]).read_text() if (service, name) == ("demo", "FROM_KEYRING") else None
    def set_password(self, service, name, value): Path(os.environ["TEST_KEYRING"]).write_text(value)
"""


@pytest.fixture
def planted(project, monkeypatch, tmp_path_factory):
    "The store after a job that tells three secrets in eight places: by reference, from the kernel alone, from the keyring."
    aside = tmp_path_factory.mktemp("keyring")
    (aside / "memory_keyring.py").write_text(KEYRING)
    (aside / "value").write_text("k3yring of the tower")
    for name, value in {"WAREHOUSE_PASSWORD": ODD, "PYTHONPATH": str(aside), "PYTHON_KEYRING_BACKEND": "memory_keyring.Memory", "TEST_KEYRING": str(aside / "value")}.items(): monkeypatch.setenv(name, value)
    write(project / "jobs" / "plant.ipynb", PLANT, OUTPUT, FILES, WIDGET, FIGURE, "raise ValueError(found)", parameters="password: str = 'secret:WAREHOUSE_PASSWORD'")
    record = run_job("plant", ["password=secret:WAREHOUSE_PASSWORD"])
    wait_for_mirrors()
    return project / "store", Runs().get(record["id"]), (ODD, "opensesame-and-close", "k3yring of the tower")


def test_secrets_in_eight_places_are_in_no_file_of_the_store(planted):
    store, record, values = planted
    assert leaks(store, *values) == []
    folder = store / "runs" / record["id"]
    assert (record["status"], record["error"], record["parameters"]) == ("failed", "ValueError", {"password": "secret:WAREHOUSE_PASSWORD"})
    marks = {"[secret WAREHOUSE_PASSWORD]", "[secret ONLY_HERE]", "[secret FROM_KEYRING]"}
    assert marks <= set(re.findall(r"\[secret \w+\]", record["message"]))                                     # the error, for the banner
    nb = nbformat.read(folder / "notebook.ipynb", 4)
    code = [c for c in nb.cells if c.cell_type == "code"]
    assert any("secret:WAREHOUSE_PASSWORD" in c.source for c in code[:3])                                     # the parameter, by reference
    said = {i: json.dumps(c.outputs) for i, c in enumerate(code)}
    printed, drawn = next(s for s in said.values() if '"stderr"' in s), next(s for s in said.values() if "image/png" in s)
    assert all(printed.count(m) >= 8 for m in marks) and all(m in drawn for m in marks)                        # output, and text in figures
    assert "[secret ONLY_HERE]" in next(s for s in said.values() if "traceback" in s)
    states = json.dumps(nb.metadata["widgets"])
    assert all(m in states for m in marks)                                                                     # the state of widgets
    for name in ("job.log", "kernel.log", "report.html", "assessment.json", "metrics.jsonl", "reported.json", "figure-0.svg"):
        assert "[secret " in (folder / name).read_text(), name
    assert list(folder.glob("wandb/offline-run-*/*.wandb")) and record["warnings"][0] in marks                  # the mirror


def test_the_search_would_find_them(project):
    write(project / "jobs" / "leak.ipynb", "import os\nos.environ['X_PASS'] = 'nobody-asked-for-it'\nprint(os.environ['X_PASS'])\nos.environ['X_PASS'].encode().hex()")
    run_job("leak", settings=None)
    wait_for_mirrors()
    assert {re.sub(r".*/", "", file) for file, _ in leaks(project / "store", "nobody-asked-for-it")} >= {"notebook.ipynb", "report.html"}   # never read as a secret
    (project / "aside").mkdir()
    (project / "aside" / "a").write_bytes(gzip.compress(ODD.encode()))
    (project / "aside" / "b").write_bytes(ODD.encode("utf-16"))
    assert [f for f, _ in leaks(project / "aside", ODD)] == ["a", "b"]


def test_a_notebook_saved_in_the_middle_of_the_cell_that_reads_and_prints_holds_nothing(project):
    cell = "import os, time\nfrom mlops_workbench.core.secrets import secret\nos.environ['K'] = 'won-emasesnepo'[::-1]\np = secret('K')\nprint(p[:6], end='', flush=True)\ntime.sleep(1.5)\nprint(p[6:], p)\nimport sys; sys.stdout.flush()\ntime.sleep(2.5)\nprint(p)"
    write(project / "jobs" / "slow.ipynb", cell)
    over, seen = threading.Event(), set()
    def watch():
        while not over.wait(0.05):
            for file in (project / "store").rglob("notebook.ipynb"): seen.add(file.read_bytes())
    watcher = threading.Thread(target=watch)
    watcher.start()
    record = run_job("slow")
    over.set()
    watcher.join()
    wait_for_mirrors()
    assert record["status"] == "succeeded" and leaks(project / "store", "opensesame-now") == []
    assert any(b"[secret K]" in text and b'"status": "running"' in text for text in seen)   # it was saved while the cell ran
    assert not any(b"sesame-now" in text or b"opense" in text for text in seen)


def test_a_secret_without_a_run_and_a_value_that_is_unset_later_stay_out(project, monkeypatch):
    monkeypatch.setenv("API_KEY", PLAIN)
    write(project / "jobs" / "plain.ipynb", "import os\nfrom mlops_workbench.core.secrets import secret\nkey = secret('API_KEY')\ndel os.environ['API_KEY']", "print(key)", "key.upper() and key")
    assert run_job("plain")["status"] == "succeeded"
    wait_for_mirrors()
    assert leaks(project / "store", PLAIN) == []


def test_a_run_that_is_resumed_restores_no_secret(project, monkeypatch, tmp_path):
    monkeypatch.setenv("API_KEY", PLAIN)
    flag = tmp_path / "flag"
    cells = [nbformat.v4.new_markdown_cell("# A job"), nbformat.v4.new_code_cell("from mlops_workbench.core.secrets import secret\nfrom pathlib import Path"), nbformat.v4.new_markdown_cell("## One"),
             nbformat.v4.new_code_cell("key = secret('API_KEY')\nurl = f'db://me:{key}@host'\nrows = [1, 2]"), nbformat.v4.new_markdown_cell("## Two"), nbformat.v4.new_code_cell("total = sum(rows)"),
             nbformat.v4.new_markdown_cell("## Three"), nbformat.v4.new_code_cell(f"print(key, url)\nif not Path({str(flag)!r}).exists(): raise ValueError(url)\nprint(total)")]
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": {"name": "python3", "display_name": "python3", "language": "python"}}), project / "jobs" / "parts.ipynb")
    assert run_job("parts")["status"] == "failed"
    flag.touch()
    record = run_job("parts")
    wait_for_mirrors()
    assert record["status"] == "succeeded" and leaks(project / "store", PLAIN) == []
    assert "[secret API_KEY]" in (project / "store" / "runs" / record["id"] / "notebook.ipynb").read_text()


def test_a_parameter_refers_to_a_secret_and_a_missing_one_stops_it_first(project, monkeypatch):
    write(project / "jobs" / "ask.ipynb", "from mlops_workbench.core.secrets import secret\nassert len(secret(password)) == 28", parameters="password: str = 'secret:NO_SUCH_ONE'")
    with pytest.raises(NotFoundError, match="NO_SUCH_ONE"): run_job("ask")
    assert Runs().ids() == []
    monkeypatch.setenv("API_KEY", PLAIN)
    assert run_job("ask", {"password": "secret:API_KEY"})["status"] == "succeeded"
    with pytest.raises(ParameterError, match="password=secret:NAME"): run_job("ask", {"password": PLAIN})
    with pytest.raises(ParameterError, match="holds a secret"): run_job("ask", {"password": "postgresql://me:" + "hunter22@host/db"})
    wait_for_mirrors()
    assert leaks(project / "store", PLAIN) == []


def test_short_values_are_refused_and_the_keyring_is_asked_second(monkeypatch, tmp_path):
    import keyring
    from keyring.backend import KeyringBackend
    class Memory(KeyringBackend):
        priority = 1
        entries = {}
        def get_password(self, service, username): return self.entries.get((service, username))
        def set_password(self, service, username, password): self.entries[service, username] = password
    before = keyring.get_keyring()
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLW_ROOT", raising=False)
    try:
        keyring.set_keyring(Memory())
        keyring.set_password("mlops_workbench", "TOKEN_A", "from the keyring")
        keyring.set_password("mine", "TOKEN_A", "of the project")
        assert secrets.secret("TOKEN_A") == "from the keyring"
        (tmp_path / "settings.ini").write_text("[project]\nname = mine\n")
        assert secrets.secret("secret:TOKEN_A") == "of the project"
        monkeypatch.setenv("TOKEN_A", "of the environment")
        assert secrets.secret("TOKEN_A") == "of the environment"
        monkeypatch.setenv("TOKEN_A", "12345")
        with pytest.raises(InputError, match="fewer than 6"): secrets.secret("TOKEN_A")
        with pytest.raises(NotFoundError, match="keyring set mlops_workbench TOKEN_B"): secrets.secret("TOKEN_B")
    finally: keyring.set_keyring(before)
    assert redact("of the project, from the keyring, of the environment") == ", ".join(["[secret TOKEN_A]"] * 3)


def test_no_keyring_installed_is_no_trouble(monkeypatch):
    monkeypatch.setitem(sys.modules, "keyring", None)
    with pytest.raises(NotFoundError, match="export ABSENT"): secrets.secret("ABSENT")


FORMS = {
    "AWS": "AKIA" + "Q" * 16, "AWS secret": "aws_secret_access_key = " + "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY", "GitHub": "ghp_" + "aB3" * 12, "GitHub 2": "github_pat_" + "1" * 22 + "_x",
    "GitLab": "glpat-" + "a1B2" * 5, "Slack": "xoxb-" + "123456789012-abcdef", "HF": "hf_" + "aB" * 17, "OpenAI": "sk-" + "aB3d" * 12, "OpenAI project": "sk-proj-" + "aB3_d-" * 8,
    "Anthropic": "sk-ant-api03-" + "aB3_d-" * 8, "Google": "AIza" + "aB3" * 11 + "aB", "Stripe": "sk_live_" + "aB3d" * 6, "npm": "npm_" + "aB3d" * 9, "PyPI": "pypi-AgEIcHlwaS5vcmc" + "aB3d" * 15,
    "JWT": "eyJhbGciOiJIUzI1NiJ9" + ".eyJzdWIiOiIxMjM0In0" + ".dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk", "Azure": "DefaultEndpointsProtocol=https;AccountName=a;AccountKey=" + "aB3d" * 21 + "==",
    "SAS": "https://a.blob.core.windows.net/c?sv=1&sig=" + "aB3d" * 10 + "%3D", "wandb": "WANDB_API_KEY=" + "0a1b2c3d4e" * 4, "wandb netrc": "machine api.wandb.ai\n  login user\n  password " + "0a1b2c3d4e" * 4,
    "URL": "amqp://guest:" + "s3cr3t!@broker:5672/", "ODBC": "Server=tcp:x;Uid=me;Password=" + "s3cr3t!x;Encrypt=yes", "header": "Authorization: Bearer " + "aB3d.-_~" * 4,
    "key": "-----BEGIN RSA PRIVATE KEY-----\n" + "MIIE" * 20 + "\n-----END RSA PRIVATE KEY-----",
}


@pytest.mark.parametrize("name", FORMS)
def test_tokens_of_well_known_forms_are_redacted(name):
    text = f"before {FORMS[name]} behind"
    clean = redact_tokens(text)
    assert "[redacted]" in clean and clean.startswith("before") and clean.endswith("behind")
    core = re.split(r"[=:\s]", FORMS[name].split("@")[0])[-1] if name not in ("key", "ODBC", "SAS", "Azure") else "aB3daB3d" if name in ("SAS", "Azure") else "s3cr3t" if name == "ODBC" else "MIIE"
    assert core not in clean and redact_tokens(clean) == clean
    assert core not in json.dumps(redact([text.splitlines(), {"a": json.dumps(text)}])) or name == "wandb netrc"


@pytest.mark.parametrize("text", [
    "0a1b2c3d4e" * 4, "sha256:" + "0a1b2c3d" * 8, "6f9619ff-8b86-d011-b42d-00c04fc964ff", "sk-toggleable__label-arrow sk-estimator-doc-link", "the wandb run has id 0a1b2c3d and commit " + "0a1b2c3d4e" * 4,
    "https://example.org:8080/a@b?c=d", "postgresql://user:{password}@host/db", "db://me:$PASSWORD@host", "db://me:***@host", "me@example.org", "password = secret('NAME'); x = 1", "hf_hub_download(repo_id)",
    "pypi-server", "npm_config_registry", "AKIA is a prefix", "eyJ is how it begins", "git@github.com:a/b.git", "glob glpat-", "secret:NAME", "[secret NAME]", "'key': 'value'", "sigma=0.25; sig=1"])
def test_what_is_no_secret_stays(text):
    redaction._given[PLAIN] = "API_KEY"
    assert redact(text) == text


def test_pictures_and_random_data_stay_as_they_are():
    import random
    rng = random.Random(0)
    redaction._given[PLAIN] = "API_KEY"
    for _ in range(3):
        data = base64.b64encode(rng.randbytes(300_000)).decode()
        assert redact(data) == data and redact({"image/png": data}) == {"image/png": data}
        assert redact(f'<img src="data:image/png;base64,{data}">') == f'<img src="data:image/png;base64,{data}">'


@pytest.mark.parametrize("value", [ODD, PLAIN, "secret", "API_KEY", "ends with blank ", "two\nlines that are long enough to be told", "ünïcödé-日本", "a.*b+c?(d)[e]{2}^$|\\", "{'quoted': \"both\"}", "x" * 6])
def test_every_spelling_is_found_and_redacting_twice_changes_nothing(value):
    redaction._given[value] = "API_KEY"
    import html
    forms = [value, json.dumps(value), json.dumps(json.dumps(value)), repr(value), repr(repr(value)), quote(value), quote(value, safe=""), html.escape(value), repr(value.encode()), value.encode().hex(), str({"a": value}),
             base64.b64encode(value.encode()).decode(), base64.b64encode(f"user:{value}".encode()).decode(), base64.urlsafe_b64encode(f"u:{value}".encode()).decode(), "\x1b[1m".join(value)]
    for form in forms:
        clean = redact(f"<<{form}>>")
        assert "[secret API_KEY]" in clean, form
        assert redact(clean) == clean
        if len(set(value)) > 1 and value not in "[secret API_KEY]": assert value.strip() not in re.sub(r"\x1b\[[0-9;]*m", "", clean)


def test_a_value_cut_anywhere_is_held_back_until_it_is_whole():
    redaction._given[ODD] = "API_KEY"
    text = f"one {ODD} two {ODD[:9]} three {ODD}{ODD}"
    for size in range(1, 30):
        pieces, out = redaction.Pieces(), []
        for at in range(0, len(text), size): out.append(pieces.feed(text[at:at + size]))
        assert "".join([*out, pieces.flush()]) == redact(text), size
    assert redact([text[:10], text[10:]])[1] == ""


def test_json_stays_json_and_types_stay():
    redaction._given[ODD] = "API_KEY"
    value = {"a": [ODD, 1, None, 2.5, True], ODD: {"b": (ODD, Path(f"/x/{ODD.replace('/', '')}"))}, "c": b"raw " + ODD.encode()}
    clean = redact(value)
    assert json.loads(redact(json.dumps({"x": ODD, "n": 1}))) == {"x": "[secret API_KEY]", "n": 1}
    assert clean["a"] == ["[secret API_KEY]", 1, None, 2.5, True] and isinstance(clean["[secret API_KEY]"]["b"], tuple) and ODD.encode() not in clean["c"]
    assert value["a"][0] == ODD


def test_no_text_with_a_secret_is_drawn_in_a_picture(monkeypatch):
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg, RendererAgg
    from matplotlib.figure import Figure
    from matplotlib.textpath import TextPath
    figure = Figure(figsize=(3, 2))
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.set_title(PLAIN)              # before it is known to be one
    guard.keep("API_KEY", PLAIN)
    figure.suptitle(f"also {PLAIN}")
    axes.set_xticks([0, 1], [PLAIN, "b"])
    axes.table([[PLAIN]])
    drawn, draw = [], RendererAgg.draw_text
    monkeypatch.setattr(RendererAgg, "draw_text", lambda self, gc, x, y, s, *args, **kwargs: (drawn.append(s), draw(self, gc, x, y, s, *args, **kwargs))[1])
    out = io.BytesIO()
    figure.savefig(out, format="png", metadata={"Title": PLAIN})
    assert "[secret API_KEY]" in drawn and not any(PLAIN in s for s in drawn) and PLAIN.encode() not in out.getvalue()
    for kind in ("path", "none"):
        with matplotlib.rc_context({"svg.fonttype": kind}):
            out = io.StringIO()
            figure.savefig(out, format="svg")
            assert PLAIN not in out.getvalue() and "[secret API_KEY]" in out.getvalue()
    assert len(TextPath((0, 0), PLAIN).vertices) == len(TextPath((0, 0), "[secret API_KEY]").vertices)


def test_matplotlib_imported_after_the_secret_is_guarded_too():
    code = f"""
import sys, os
from mlops_workbench.core.secrets import secret
os.environ["K"] = {PLAIN!r}
secret("K")
assert "matplotlib" not in sys.modules
import io, matplotlib.pyplot as plt
plt.title({PLAIN!r})
out = io.StringIO()
plt.savefig(out, format="svg")
print({PLAIN!r} in out.getvalue(), "[secret K]" in out.getvalue())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=os.environ | {"MPLBACKEND": "agg"})
    assert done.stdout.split() == ["False", "True"], done.stderr


def test_text_in_a_png_is_taken_out_and_the_picture_stays(tmp_path):
    from matplotlib.figure import Figure
    redaction._given[PLAIN] = "API_KEY"
    figure, out = Figure(figsize=(1, 1)), io.BytesIO()
    figure.savefig(out, format="png", metadata={"Comment": "nothing"})
    def chunk(kind, content): return len(content).to_bytes(4, "big") + kind + content + zlib.crc32(kind + content).to_bytes(4, "big")
    data = out.getvalue()
    for text in (chunk(b"tEXt", b"Title\0" + PLAIN.encode()), chunk(b"zTXt", b"Title\0\0" + zlib.compress(PLAIN.encode())), chunk(b"iTXt", b"Title\0\1\0\0\0" + zlib.compress(PLAIN.encode()))):
        (tmp_path / "a.png").write_bytes(data[:33] + text + data[33:])
        assert leaks(tmp_path, PLAIN) != []
        assert guard.redact_folder(tmp_path) == (["a.png"], []) and leaks(tmp_path, PLAIN) == []
        from matplotlib.image import imread
        assert (imread(tmp_path / "a.png") == imread(io.BytesIO(data))).all()
        inside = base64.b64encode(data[:33] + text + data[33:]).decode()
        assert leaks_in(redact({"data": {"image/png": inside, "text/html": f"<img src='data:image/png;base64,{inside}'>"}})) == []


def leaks_in(value): return [d for d in unpacked(json.dumps(value).encode()) if PLAIN.encode() in d]


def test_the_folder_is_swept_and_what_cannot_be_mended_is_said(tmp_path):
    redaction._given[PLAIN] = "API_KEY"
    (tmp_path / "patch.diff").write_text(f"+key = '{PLAIN}'\n+other = 'ghp_{'a1' * 18}'\n")
    (tmp_path / "data.csv").write_text("url\nhttps://me:pass" + "word@host\n")
    (tmp_path / "weights.bin").write_bytes(b"\0\1\2" + PLAIN.encode())
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "debug.log").write_bytes(b"\xff broken utf-8 " + PLAIN.encode())
    changed, left = guard.redact_folder(tmp_path)
    assert changed == ["patch.diff", "sub/debug.log"] and [s.split()[0] for s in left] == ["weights.bin"]
    assert "[redacted]" in (tmp_path / "patch.diff").read_text() and "password@" in (tmp_path / "data.csv").read_text()   # a job's own data are its own
    assert (tmp_path / "sub" / "debug.log").read_bytes() == b"\xff broken utf-8 [secret API_KEY]"


def test_a_sealed_secret_is_read_with_the_key_only():
    said = guard.hand_over("API_KEY", PLAIN, key=b"one key")
    assert PLAIN not in json.dumps(said) and said != guard.hand_over("API_KEY", PLAIN, key=b"one key")
    with pytest.raises(ValueError): guard.take_over(said, key=b"another")
    assert redaction._given == {}
    assert guard.take_over(said, key=b"one key") == "API_KEY" and redaction._given == {PLAIN: "API_KEY"}


def test_redacting_costs_little(tmp_path):
    for i in range(5): redaction._given[f"{PLAIN}-{i}"] = f"KEY_{i}"
    text = "a line of ordinary output, with numbers 0.123 and names\n" * 20_000
    begun = time.process_time()
    assert redact(text) == text
    assert time.process_time() - begun < 1.0   # more than a megabyte
