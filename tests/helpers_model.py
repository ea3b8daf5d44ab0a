"""Small bundles for tests: one written by hand, one trained on synthetic rows."""

import numpy as np
import polars as pl

from mlops_workbench.deploy.bundle import Bundle, build_bundle, save_bundle, toy_graph
from mlops_workbench.deploy.registry import Registry

TASK = {"name": "loans", "target": "approve", "framing": "binary", "classes": ["no", "yes"]}


def people(rows: int = 200, seed: int = 0) -> pl.DataFrame:
    "Rows that the toy graph reads, a tenth of each column missing, and their answers."
    rng = np.random.default_rng(seed)
    income = rng.normal(50, 10, rows)
    jobs = rng.choice(["clerk", "nurse", "pilot"], rows)
    frame = pl.DataFrame({"income": income, "job": jobs, "approve": np.where(income + rng.normal(0, 5, rows) > 50, "yes", "no")})
    lost = pl.Series(rng.random(rows) < 0.1)
    return frame.with_columns(pl.when(lost).then(None).otherwise(pl.col("income")).alias("income"), pl.when(lost.reverse()).then(None).otherwise(pl.col("job")).alias("job"))


def toy_bundle(name: str = "loans", **facts) -> Bundle:
    "A bundle of the toy graph, not saved."
    return build_bundle(toy_graph(), name=name, task=facts.pop("task", TASK | {"name": name}), reference=facts.pop("reference", people()), **facts)


def deploy(store, bundle: Bundle, promote: bool = True) -> Bundle:
    "The bundle saved, registered and, unless told otherwise, promoted."
    saved = save_bundle(bundle, store)
    registry = Registry(store)
    registry.register(saved)
    if promote: registry.promote(saved.name, saved.version)
    return saved


def applicants(rows: int = 600, seed: int = 0) -> pl.DataFrame:
    "Rows with a column of every kind: number, whole number, boolean, date, text, digits that are a code, a sensitive column, and three targets."
    rng = np.random.default_rng(seed)
    income, member = rng.lognormal(3, 0.5, rows), rng.random(rows) < 0.5
    frame = pl.DataFrame({
        "income": income, "children": rng.integers(0, 4, rows), "member": member,
        "since": pl.Series(rng.integers(18_000, 19_000, rows).tolist(), dtype=pl.Int32).cast(pl.Date),
        "job": rng.choice(["clerk", "nurse", "été"], rows), "zip": rng.choice(["02139", "10115", "00100"], rows),
        "black": (rng.random(rows) < 0.3).astype(int)})
    score = np.log(income) - 3 + member * 0.7 + (frame["job"] == "nurse").to_numpy() + rng.normal(0, 0.3, rows)
    return frame.with_columns(race=pl.when(pl.col("black") == 1).then(pl.lit("black")).otherwise(pl.lit("white")), amount=score * 100,
                              approve=pl.Series(np.where(score > 0.7, "yes", "no")), grade=pl.Series(np.array(["a", "b", "c"])[np.digitize(score, [0.3, 1])]))


def everything(rows: int = 600, seed: int = 0, odd: bool = False) -> pl.DataFrame:
    "Rows with a column of every kind a model takes, and a target `y`; the odd ones with missing values."
    rng = np.random.default_rng(seed)
    words = ["late", "broken", "Very", "ärger", "cable", "screen", "again"]
    member, remark = rng.random(rows) < 0.5, [" ".join(rng.choice(words, rng.integers(3, 9))) + f", no. {i}" for i in range(rows)]
    frame = pl.DataFrame({
        "income": rng.lognormal(3, 2, rows), "account": 2**60 + rng.integers(-50, 50, rows), "hash": pl.Series(2**63 + rng.integers(0, 2**62, rows).astype(np.uint64), dtype=pl.UInt64),
        "member": member, "at": pl.Series(rng.integers(1_600_000_000_000, 1_700_000_000_000, rows)).cast(pl.Datetime("ms")), "born": pl.Series(rng.integers(0, 9000, rows).tolist(), dtype=pl.Int32).cast(pl.Date),
        "remark": remark, "job": rng.choice(["clerk", "nurse", "été"], rows), "y": np.where(member | np.array(["late" in r for r in remark]), "yes", "no")})
    if not odd: return frame
    return frame.with_columns(pl.when(pl.Series(rng.random(rows) < 0.8)).then(pl.col(c)).alias(c) for c in frame.columns if c != "y")


TARGETS = {"binary": ("approve", ("no", "yes")), "multiclass": ("grade", ("a", "b", "c")), "regression": ("amount", ())}
DERIVED = {"race": "CASE WHEN black = 1 THEN 'black' ELSE 'white' END"}


def bundle_of_everything(**facts) -> Bundle:
    "A bundle with a few boosted trees, trained on `everything`."
    from mlops_workbench.model.calibrate import Calibration
    from mlops_workbench.model.features import Features
    from mlops_workbench.model.graph import to_onnx
    from mlops_workbench.model.network import Labelled
    from mlops_workbench.model.policy import Policy
    from mlops_workbench.model.predictor import Predictor
    from mlops_workbench.model.task import Task
    from mlops_workbench.model.trees import fit_trees
    frame = everything()
    task = Task("loans", "y", "binary", ("no", "yes"), tuple(c for c in frame.columns if c != "y"))
    features = Features.fit(frame, task)
    trees = fit_trees(Labelled(features.transform(frame), task.labels(frame), np.ones(frame.height)), None, framing="binary", params={"min_data_in_leaf": 5}, rounds=15, threads=1)
    predictor = Predictor(task, features, [trees], [1.0], Calibration("binary"))
    return build_bundle(to_onnx(predictor, Policy("threshold")), name="loans", task=task, reference=frame, **facts)


def trained_bundle(framing: str = "binary", policy=None, **facts) -> Bundle:
    "A bundle with a few boosted trees, trained on `applicants`; its task derives race."
    from mlops_workbench.model.calibrate import Calibration
    from mlops_workbench.model.features import Features
    from mlops_workbench.model.graph import to_onnx
    from mlops_workbench.model.network import Labelled
    from mlops_workbench.model.policy import Policy
    from mlops_workbench.model.predictor import Predictor
    from mlops_workbench.model.task import Task
    from mlops_workbench.model.trees import fit_trees
    frame, (target, classes) = applicants(), TARGETS[framing]
    task = Task("loans", target, framing, classes, ("income", "children", "member", "since", "job", "zip"), ("race",), derived=DERIVED)
    features = Features.fit(frame, task)
    rows = Labelled(features.transform(frame), task.labels(frame), np.ones(frame.height))
    params = {"min_data_in_leaf": 5, "cat_smooth": 1, "min_data_per_group": 5}
    trees = fit_trees(rows, None, framing=framing, classes=max(len(classes), 2), params=params, rounds=15, threads=1)
    predictor = Predictor(task, features, [trees], [1.0], Calibration(framing, b=(0.0,) * max(1, len(classes) if framing == "multiclass" else 1)))
    policy = policy or Policy({"binary": "threshold", "multiclass": "argmax", "regression": "none"}[framing])
    return build_bundle(to_onnx(predictor, policy), name="loans", task=task, reference=frame, policy=policy, **facts)
