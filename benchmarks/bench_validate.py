"""Thirty-two checks over a million rows and 19 columns: `mlops_workbench.data.validate` beside pandera, in the same run.

    python benchmarks/bench_validate.py [rows]

pandera is installed into an environment of its own, .venv-pandera, the first time. Both read the same Parquet file into memory first, hold it
against the same promises, and must find the same failing rows; the time is the best of nine, reading excluded.
"""
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import polars as pl

ROOT = Path(__file__).resolve().parent.parent
FLOATS, INTS, SETS = [f"f{i}" for i in range(8)], [f"i{i}" for i in range(5)], [f"s{i}" for i in range(4)]
REQUIRED = [*FLOATS[:5], *INTS[:4], *SETS[:3]]
PATTERN, VALUES = r"^[A-Z]{2}\d{4}$", ["a", "b", "c", "d", "e"]


def data(rows: int):
    import numpy as np
    rng = np.random.default_rng(0)
    frame = pl.DataFrame({f: rng.uniform(0, 1, rows) for f in FLOATS} | {i: rng.integers(0, 100, rows) for i in INTS} | {s: rng.choice(VALUES, rows) for s in SETS}
                         | {"code": [f"{a}{n:04}" for a, n in zip(rng.choice(["AB", "CD"], rows), rng.integers(0, 10000, rows))], "key": rng.permutation(rows)})
    at = pl.int_range(pl.len())
    return frame.with_columns(pl.when(at == 7).then(2.0).otherwise("f0").alias("f0"), pl.when(at == 9).then(pl.lit("z")).otherwise("s0").alias("s0"),
                              pl.when(at < 3).then(pl.lit("ab1")).otherwise("code").alias("code"), pl.when(at == 5).then(None).otherwise("i0").alias("i0"))


def ours(path: str):
    from open_data_contract_standard.model import DataQuality, OpenDataContractStandard, SchemaObject, SchemaProperty

    from mlops_workbench.data.contract import Contract
    from mlops_workbench.data.validate import validate
    def column(name: str, kind: str, **facts): return SchemaProperty(name=name, logicalType=kind, required=name in REQUIRED, **facts)
    columns = [column(f, "number", logicalTypeOptions={"minimum": 0, "maximum": 1}) for f in FLOATS] + [column(i, "integer", logicalTypeOptions={"minimum": 0, "maximum": 99}) for i in INTS]
    columns += [column(s, "string", quality=[DataQuality(type="library", metric="invalidValues", arguments={"validValues": VALUES}, mustBe=0)]) for s in SETS]
    columns += [column("code", "string", logicalTypeOptions={"pattern": PATTERN}), column("key", "integer", unique=True, logicalTypeOptions={"minimum": 0})]
    contract, frame = Contract(OpenDataContractStandard(version="1", schema=[SchemaObject(name="t", properties=columns)])), pl.read_parquet(path)
    return lambda: sorted((c, n) for c, n in validate(frame, contract).failures.select("column", "failing").rows())


def pandera(path: str):
    import pandera.polars as pa
    def column(name: str, kind, *checks, **facts): return pa.Column(kind, list(checks), nullable=name not in REQUIRED, **facts)
    columns = {f: column(f, pl.Float64, pa.Check.in_range(0, 1)) for f in FLOATS} | {i: column(i, pl.Int64, pa.Check.in_range(0, 99)) for i in INTS}
    columns |= {s: column(s, pl.String, pa.Check.isin(VALUES)) for s in SETS}
    columns |= {"code": column("code", pl.String, pa.Check.str_matches(PATTERN)), "key": column("key", pl.Int64, pa.Check.ge(0), unique=True)}
    schema, frame = pa.DataFrameSchema(columns), pl.read_parquet(path)
    def run():
        try: schema.validate(frame, lazy=True)
        except pa.errors.SchemaErrors as e: return sorted((c, n) for c, n in e.failure_cases.group_by("column").len().rows())
        return []
    return run


def measure(make, path: str) -> dict:
    run = make(path)
    found, seconds = run(), []
    for _ in range(9):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return {"seconds": min(seconds), "found": found}


def other_python() -> str:
    python = ROOT / ".venv-pandera" / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", python.parent.parent], check=True)
        subprocess.run([python, "-m", "pip", "install", "-q", "--disable-pip-version-check", "pandera[polars]==0.35.0", f"polars=={pl.__version__}"], check=True, env={**os.environ, "PYTHONPATH": ""})
    return str(python)


def main(rows: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/t.parquet"
        data(rows).write_parquet(path)
        a = measure(ours, path)
        done = subprocess.run([other_python(), __file__, "--pandera", path], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": ""})
        if done.returncode: raise SystemExit(done.stderr)
        b = json.loads(done.stdout.splitlines()[-1])
    same = a["found"] == [tuple(x) for x in b["found"]]
    print(f"{rows:,} rows, 19 columns, 32 checks: workbench {a['seconds']:.2f} s, pandera {b['seconds']:.2f} s, ratio {b['seconds'] / a['seconds']:.1f}; the same failures: {same}")
    if not same: raise SystemExit(f"the failures differ: {a['found']} and {b['found']}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--pandera"]: print(json.dumps(measure(pandera, sys.argv[2])))
    else: main(int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000)
