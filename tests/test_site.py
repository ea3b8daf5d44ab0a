"The site: nbdev stages every page, and the site's configuration names only what is there."
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

pytestmark = pytest.mark.long

ROOT = Path(__file__).parent.parent


def hrefs(contents):
    for item in contents:
        if isinstance(item, str): yield item
        elif isinstance(item.get("contents"), str): yield item["contents"]
        elif "contents" in item: yield from hrefs(item["contents"])
        else: yield item["href"]


def test_the_sidebar_covers_every_page():
    pages = {str(p.relative_to(ROOT / "nbs")) for p in (ROOT / "nbs").rglob("*.ipynb") if ".ipynb_checkpoints" not in p.parts}
    listed = set()
    for pattern in hrefs(yaml.safe_load((ROOT / "_quarto.yml").read_text())["website"]["sidebar"]["contents"]):
        found = {str(p.relative_to(ROOT / "nbs")) for p in (ROOT / "nbs").glob(pattern) if p.suffix == ".ipynb"}
        assert found, f"_quarto.yml names {pattern}, where there is no page"
        listed |= found
    assert pages == listed


def test_nbdev_reads_the_same_configuration():
    assert (ROOT / "nbs" / "_quarto.yml").resolve() == ROOT / "_quarto.yml"


@pytest.fixture(scope="module")
def staged(tmp_path_factory):
    copy = tmp_path_factory.mktemp("site") / "mlops_workbench"
    copy.mkdir()
    for part in ("nbs", "mlops_workbench"): shutil.copytree(ROOT / part, copy / part, symlinks=True, ignore=shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints"))
    for part in ("pyproject.toml", "_quarto.yml", "README.md"): shutil.copy(ROOT / part, copy / part)
    subprocess.run([sys.executable, "-c", "from nbdev.serve import proc_nbs; proc_nbs(n_workers=2)"], cwd=copy, check=True, capture_output=True)
    return copy / "_proc"


def test_every_page_is_staged_in_a_form_that_quarto_reads(staged):
    for page in (ROOT / "nbs").rglob("*.ipynb"):
        if ".ipynb_checkpoints" in page.parts: continue
        made = staged / page.relative_to(ROOT / "nbs")
        assert made.is_file(), f"{page.name} is not staged"
        nb = json.loads(made.read_text())
        assert all(isinstance(c["source"], list | str) for c in nb["cells"])
        text = "".join("".join(c["source"]) for c in nb["cells"])
        assert "#| default_exp" not in text, f"{page.name} was not processed"
