"Values that are kept come back as they were, to the last bit and as the same objects, or are refused by name."
import collections
import dataclasses
import datetime
import decimal
import enum
import functools
import io
import json
import logging
import math
import random
import re
import threading
import types

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch

import mlops_workbench.jobs.keep_arrays  # noqa: F401  its readers and writers
from mlops_workbench.core import secrets
from mlops_workbench.jobs.keep import Blobs, CannotKeep, Reader, Writer
from mlops_workbench.tune.goals import Goals
from mlops_workbench.tune.results import Result
from mlops_workbench.tune.space import Space, floats
from mlops_workbench.tune.studies import Study


def written(value, **options):
    blobs = Blobs()
    writer = Writer(blobs, **options)
    form = writer.write(value, "it")
    return blobs, *json.loads(json.dumps([form, writer.nodes]))


def again(value, **options):
    blobs, form, nodes = written(value, **options)
    back = Reader(blobs, nodes, names=options.get("names")).read(form)
    assert written(back, **options)[1:] == [form, nodes] or written(back, **options)[1:] == (form, nodes), "writing it again gives the same"
    return back


PLAIN = [None, True, 0, -1, 2**200, 0.1, -0.0, math.inf, 5e-324, 1e308, 1 + 2j, "", "ü\n\x00", "\ud800", b"", bytes(range(256)) * 40, "long " * 3000, [], (), {}, set(), frozenset(),
         {"b": 1, "a": 2}, {(1, 2): {"x"}, None: 0, True: 1, 0.5: 2}, {3, 1, 2}, frozenset({"a", "b"}), [0.1] * 500, tuple(range(-300, 300)), [True] * 200, [2**70] * 200, range(3, 9, 2), slice(None, 3), ...,
         datetime.date(2026, 1, 31), datetime.timedelta(-1, 3, 5), datetime.datetime(2026, 10, 25, 2, 30, fold=1), datetime.datetime(2026, 1, 1, tzinfo=datetime.timezone(datetime.timedelta(hours=2), "X")),
         datetime.time(1, 2, 3, 4), decimal.Decimal("NaN"), decimal.Decimal("1.230"), collections.deque([1, 2], maxlen=2), collections.Counter("aab"), collections.OrderedDict([("z", 1), ("a", 2)]),
         re.compile("a.b", re.I | re.S), int, dict, len, math.sqrt, json, np.mean, np.add, pl.Int64, torch.nn.functional.relu, types.SimpleNamespace]


@pytest.mark.parametrize("value", PLAIN, ids=lambda v: type(v).__name__)
def test_plain_values(value):
    back = again(value)
    assert type(back) is type(value) and (repr(back) == repr(value) or back == value)
    if isinstance(value, dict | collections.deque): assert list(back) == list(value)
    if isinstance(value, collections.deque): assert back.maxlen == value.maxlen


def test_nan_is_the_same_object_where_it_was():
    one, other = float("nan"), float("nan")
    back = again({"d": {one: 1}, "one": one, "other": other, "np": np.nan})
    assert back["one"] in back["d"] and back["other"] not in back["d"] and back["np"] is np.nan


def test_aliases_cycles_and_default_factories():
    shared, counts = [1], collections.defaultdict(list)
    counts["a"] = shared
    ring = {"shared": shared, "counts": counts, "pair": (shared, shared)}
    ring["ring"] = ring
    back = again(ring)
    assert back["ring"] is back and back["pair"][0] is back["pair"][1] is back["shared"] is back["counts"]["a"] and back["counts"]["new"] == []


class Level(enum.IntFlag):
    LOW = 1
    HIGH = 2


class Node:
    __slots__ = ("_Node__hidden", "next")
    def __init__(self): self.__hidden, self.next = 5, self


@dataclasses.dataclass(frozen=True)
class Cut:
    at: float
    made: list = dataclasses.field(default_factory=list, compare=False)


Pair = collections.namedtuple("Pair", "a b")
OWN = {c.__name__: c for c in (Level, Node, Cut, Pair)}


@pytest.fixture
def own(monkeypatch):
    "Classes as if the notebook had defined them."
    for cls in OWN.values(): monkeypatch.setattr(cls, "__module__", "__main__")
    return OWN


def test_objects_of_the_notebook(own):
    cut = Cut(0.5, [Level.LOW])
    back = again([cut, Pair(cut, Node()), Level.LOW | Level.HIGH, {cut: 1}], names=own)
    assert back[0] == cut and back[1].a is back[0] and back[1].b.next is back[1].b and back[1].b._Node__hidden == 5 and back[2] == 3 and type(back[2]) is Level
    assert back[3][back[0]] == 1 and back[0].made == [Level.LOW]


class Loud(dict): ...


class Late:
    def __init__(self): self.lock = threading.Lock()


class Custom:
    def __reduce__(self): return (Custom, ())


def holds_itself():
    inner = []
    outer = (inner,)
    inner.append(outer)
    return outer


REFUSED = {"generator": lambda: (i for i in []), "lambda": lambda: (lambda: 1), "file": lambda: io.StringIO(), "lock": threading.Lock, "bound": lambda: [].append, "partial": lambda: functools.partial(int, base=2),
           "subclass": Loud, "inside": Late, "memoryview": lambda: memoryview(b"a"), "iterator": lambda: iter([1]), "cycle": holds_itself, "error": lambda: ValueError("a"), "expression": lambda: pl.col("a"),
           "lazy": lambda: pl.DataFrame({"a": [1]}).lazy(), "graph": lambda: torch.ones(1, requires_grad=True) * 2, "sentinel": object, "masked": lambda: np.ma.array([1]),
           "record": lambda: np.array([("a", None)], dtype=[("x", "U1"), ("y", object)]), "deep": lambda: functools.reduce(lambda a, _: [a], range(100_000), []), "custom": Custom,
           "logger": lambda: _with_handler(), "sparse": lambda: torch.eye(2).to_sparse(), "pandas objects": lambda: pd.Series([1, "a"]), "period": lambda: pd.period_range("2026", periods=2, freq="D")}


def _with_handler():
    logger = logging.getLogger("kept.test")
    if not logger.handlers: logger.addHandler(logging.NullHandler())
    return logger


@pytest.mark.parametrize("make", REFUSED.values(), ids=REFUSED)
def test_what_is_unknown_is_refused_and_leaves_nothing(make):
    blobs = Blobs()
    writer = Writer(blobs, names={"Late": Late, "Custom": Custom})
    first = writer.write([1], "a")
    count = len(writer.nodes)
    with pytest.raises(CannotKeep): writer.write({"x": [1, make()]}, "it")
    assert len(writer.nodes) == count
    assert Reader(blobs, writer.nodes).read(first) == [1] and Reader(blobs, writer.nodes).read(writer.write((2,), "b")) == (2,)


def test_a_secret_is_never_written(monkeypatch):
    monkeypatch.setenv("KEPT_SECRET", "correct-horse-battery")
    secrets.secret("KEPT_SECRET")
    for value in ("see correct-horse-battery", {"correct-horse-battery": 1}, b"xx correct-horse-battery", pl.DataFrame({"a": ["correct-horse-battery"]}), pl.DataFrame({"a": [["correct-horse-battery"]]}),
                  pd.DataFrame({"a": ["correct-horse-battery"]}), np.array(["correct-horse-battery"]), np.array(["correct-horse-battery"], object), np.str_("correct-horse-battery")):
        blobs = Blobs()
        with pytest.raises(CannotKeep, match="secret"): Writer(blobs).write(value, "it")
        assert not any(b"horse" in data for data in blobs.held.values())
    secrets._given.pop("correct-horse-battery")


def test_too_much_is_refused_before_it_is_written():
    blobs = Blobs()
    writer = Writer(blobs, limit=100_000)
    with pytest.raises(CannotKeep, match="checkpoint_mb"): writer.write(np.zeros(1_000_000), "it")
    assert not blobs.held and writer.write(np.zeros(10), "small")


base = np.arange(24.0).reshape(4, 6)
ARRAYS = [base, base.T, np.asfortranarray(base), base[1:3, ::2], base[::-1], base[:, 1], np.broadcast_to(np.float32(3), (4, 4)), np.array(2.5), np.zeros((3, 0)), np.array([True, False]), np.array([b"ab", b"c"]),
          np.array(["NaT", "2026-01-01"], "M8[s]"), np.array([1, 2], ">i8"), np.array([np.nan, -0.0, np.inf]).view("u8").view("f8"), np.array([[None, "x"], [1.5, [2]]], object), np.zeros(2, [("a", "i4"), ("b", "f8", 2)]),
          np.float16([1, 2]), np.array([1 + 1j])]


@pytest.mark.parametrize("value", ARRAYS, ids=lambda a: f"{a.dtype} {a.shape}")
def test_arrays_to_the_last_bit_and_in_their_layout(value):
    back = again(value)
    assert back.dtype == value.dtype and back.shape == value.shape and back.flags.writeable == value.flags.writeable
    assert back.dtype == object or back.tobytes() == value.tobytes()
    if value.size > 1: assert back.strides == value.strides and back.flags.c_contiguous == value.flags.c_contiguous
    if value.dtype.kind == "f" and value.size: assert np.array_equal(back.sum(axis=0), value.sum(axis=0), equal_nan=True)
    if value.dtype == object: assert back.tolist() == value.tolist()


def test_shared_memory_is_refused_however_it_came_about():
    a, frame, buffer, tensor = np.zeros(10), pd.DataFrame({"x": [1.0, 2.0]}), bytearray(8), torch.zeros(4)
    for pair in ([a, a[2:]], [a[:4], a[3:]], [frame, frame["x"].to_numpy()], [buffer, np.frombuffer(buffer, "u1")], [tensor, tensor[1:]], [tensor, tensor.numpy()], [torch.from_numpy(a), a]):
        with pytest.raises(CannotKeep, match="shares memory"): again(pair)
    again([a, a]), again([a[:4], a[4:]]), again([frame, frame[["x"]]])
    numbers = pl.Series([0.5, 1.5])
    again([numbers, numbers.to_numpy(), numbers.to_numpy()])   # Polars never changes what it has handed out


def test_sources_of_randomness_of_every_kind():
    for make in (np.random.PCG64, np.random.MT19937, np.random.Philox, np.random.SFC64, np.random.PCG64DXSM):
        rng = np.random.Generator(make(7))
        rng.standard_normal(5), rng.integers(0, 10, 3, dtype=np.int32)
        back = again(rng)
        assert back.random(3).tolist() == rng.random(3).tolist() and back.integers(0, 9, 5, dtype=np.int32).tolist() == rng.integers(0, 9, 5, dtype=np.int32).tolist()
    old = np.random.RandomState(3)
    old.randn()
    back = again(old)
    assert back.randn(3).tolist() == old.randn(3).tolist()
    own = random.Random(1)
    own.gauss(0, 1)
    assert again(own).gauss(0, 1) == own.gauss(0, 1)


FRAMES = {
    "types": pl.DataFrame({"i": [1, None], "u": pl.Series([1, 2], dtype=pl.UInt8), "f": [float("nan"), -0.0], "s": ["", None], "b": [True, None], "d": [datetime.date(2026, 1, 1), None], "t": [datetime.datetime(2026, 1, 1), None],
                           "z": pl.Series([datetime.datetime(2026, 1, 1), None]).dt.replace_time_zone("Europe/Rome"), "dur": [datetime.timedelta(1), None], "bin": [b"\x00", None], "dec": [decimal.Decimal("1.20"), None]}),
    "nested": pl.DataFrame({"l": [[1, None], []], "st": [{"a": 1, "b": "x"}, {"a": None, "b": None}], "arr": pl.Series([[1.0, 2.0], [3.0, 4.0]], dtype=pl.Array(pl.Float64, 2))}),
    "categories": pl.DataFrame({"e": pl.Series(["a", "b"], dtype=pl.Enum(["b", "a"])), "c": pl.Series(["x", "y"], dtype=pl.Categorical)}),
    "no rows": pl.DataFrame({"a": []}, schema={"a": pl.Int32}), "pieces": pl.concat([pl.DataFrame({"a": [0.1]}), pl.DataFrame({"a": [0.2, 0.3]})], rechunk=False), "sorted": pl.DataFrame({"a": [3, 1, 2]}).sort("a"),
}


@pytest.mark.parametrize("frame", FRAMES.values(), ids=FRAMES)
def test_polars_frames(frame):
    back = again(frame)
    assert back.schema == frame.schema and back.equals(frame, null_equal=True)
    assert [(c.chunk_lengths(), c.flags) for c in back.get_columns()] == [(c.chunk_lengths(), c.flags) for c in frame.get_columns()]
    for c in frame.get_columns():
        if c.dtype == pl.Float64: assert back[c.name].to_numpy().tobytes() == c.to_numpy().tobytes()


def test_pandas_frames():
    df = pd.DataFrame({"x": [0.5, np.nan], "y": [1.5, -0.0], "n": [1, 2], "b": [True, False], "s": ["a", None], "o": pd.Series(["a", None], dtype=object), "c": pd.Categorical(["u", None], ["v", "u"]),
                       "t": pd.to_datetime(["2026-01-01", None]), "z": pd.to_datetime(["2026-01-01", None]).tz_localize("Europe/Rome"), "d": pd.to_timedelta(["1h", None]), "m": pd.array([1, None], "Int64"), "q": pd.array([True, None], "boolean")})
    df["late"] = df.x + 1
    df.index = pd.MultiIndex.from_product([["a"], [1, 2]], names=["k", None])
    df.columns.name = "what"
    back = again(df)
    pd.testing.assert_frame_equal(back, df, check_freq=True, check_flags=True)
    assert [(b.dtype, b.mgr_locs.as_array.tolist()) for b in back._mgr.blocks] == [(b.dtype, b.mgr_locs.as_array.tolist()) for b in df._mgr.blocks] and back.columns.name == "what"
    assert back[["x", "y"]].to_numpy().sum(axis=1).tobytes() == df[["x", "y"]].to_numpy().sum(axis=1).tobytes()
    odd = pd.DataFrame(np.arange(6.0).reshape(2, 3), columns=[1, 1, "a"])
    pd.testing.assert_frame_equal(again(odd), odd)
    back["x"] = 1.0   # it can be changed like any other
    assert back.x.tolist() == [1.0, 1.0]
    shared = pd.Index(["p", "q"])
    a, b = again([pd.Series([1, 2], shared, name=("n", 1)), pd.Series([3, 4], shared)])
    assert a.index is b.index and a.name == ("n", 1)


def test_tensors_and_networks():
    layer = torch.nn.Linear(2, 2)
    layer(torch.ones(1, 2)).sum().backward()
    net, x = torch.nn.Sequential(layer, torch.nn.BatchNorm1d(2), torch.nn.Dropout(0.5)), torch.ones(3, 2, dtype=torch.bfloat16)
    for part in (net[1], net): part.eval()
    back, y, kind, place, tied = again([net, x, torch.float16, torch.device("cpu"), layer.weight])
    assert torch.equal(back(torch.ones(2, 2)), net(torch.ones(2, 2))) and torch.equal(back[0].weight.grad, layer.weight.grad) and tied is back[0].weight and not back.training
    assert torch.equal(y, x) and y.dtype == x.dtype and (kind, place) == (torch.float16, torch.device("cpu"))


def test_a_damaged_blob_is_found():
    blobs, form, nodes = written(np.arange(10_000))
    name = next(iter(blobs.held))
    blobs.held[name] = blobs.held[name][:-1] + b"x"
    with pytest.raises(CannotKeep, match="damaged"): Reader(blobs, nodes).read(form)


def test_what_is_large_is_written_once():
    blobs = Blobs()
    for value in (np.arange(5000), [1, np.arange(5000)]): Writer(blobs).write(value, "it")
    assert len(blobs.held) == 1


def test_what_a_search_left():
    with Study(None, Space(x=floats(0.0, 1.0)), Goals.of({"loss": "minimize"}, ["size <= 2"])) as study:
        for t in study.ask(14): study.tell(t, {"loss": t.params.x, "size": 3 * t.params.x})
        found = Result(study)
    back = again(found)
    assert back.table().equals(found.table()) and back.best == found.best and back.trials == found.trials and back.importances() == found.importances()
