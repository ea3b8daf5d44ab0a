"""The endpoint answers existing clients, refuses what it cannot answer, and logs what it answered."""

import gzip
import json
import socket
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import polars as pl
import pytest

from .helpers_model import bundle_of_everything, deploy, everything, people, toy_bundle

pytest.importorskip("starlette")
http = pytest.importorskip("tritonclient.http")

from mlops_workbench.deploy.endpoint import create_app, example_request, serving  # noqa: E402
from mlops_workbench.deploy.registry import Registry  # noqa: E402
from mlops_workbench.deploy.score import read_predictions  # noqa: E402


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    folder = tmp_path_factory.mktemp("endpoint store")
    deploy(folder, toy_bundle())
    deploy(folder, toy_bundle(), promote=False)
    return folder


@pytest.fixture(scope="module")
def url(store):
    with serving(store, max_body_mb=1, refresh=0.1) as address: yield address


@pytest.fixture
def client(url):
    client = http.InferenceServerClient(url.removeprefix("http://"))
    yield client
    client.close()


def tensors(frame: pl.DataFrame, binary: bool, shape=lambda n: [n, 1], number="FP64"):
    "The client's tensors for the rows."
    n = frame.height
    made = []
    for name, values, datatype in [("income", frame["income"].cast(pl.Float64).fill_null(float("nan")).to_numpy(), number),
                                   ("job", np.array(frame["job"].fill_null("").to_list(), object), "BYTES")]:
        if datatype != "BYTES": values = values.astype(http._infer_result.triton_to_np_dtype(datatype))
        t = http.InferInput(name, shape(n), datatype)
        t.set_data_from_numpy(values.reshape(shape(n)), binary_data=binary)
        made.append(t)
    return made


def post(url: str, body, path="/v2/models/loans/infer", headers=None):
    "Status and JSON of the answer."
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    try: answer = urllib.request.urlopen(urllib.request.Request(url + path, data, headers or {}))
    except urllib.error.HTTPError as e: return e.code, json.loads(e.read())
    return answer.status, json.loads(answer.read())


def body(**change):
    "A request of two rows, its tensors changed or left out."
    made = {"income": {"name": "income", "shape": [2], "datatype": "FP64", "data": [40, 60]},
            "job": {"name": "job", "shape": [2, 1], "datatype": "BYTES", "data": ["clerk", "nurse"]}}
    for name, to in change.items():
        if to is None: del made[name]
        else: made[name] = made.get(name, {}) | to
    return {"inputs": list(made.values())}


# ---- tritonclient, unchanged


def test_health_and_metadata(client):
    assert client.is_server_live() and client.is_server_ready() and client.is_model_ready("loans") and client.is_model_ready("loans", "2")
    assert client.get_server_metadata()["name"] == "mlops_workbench"
    said = client.get_model_metadata("loans")
    assert said["versions"] == ["1"] and [i["name"] for i in said["inputs"]] == ["income", "job"]
    assert {o["name"]: o["shape"] for o in said["outputs"]} == {"probability": [-1, 2], "label": [-1, 1], "decision": [-1, 1]}
    assert said["parameters"]["classes"] == ["no", "yes"]
    assert client.get_model_config("loans")["input"][0]["data_type"] == "TYPE_FP64"
    assert client.get_model_repository_index() == [{"name": "loans", "version": "1", "state": "READY", "reason": ""}]


def test_an_unknown_model_is_not_ready(client):
    assert not client.is_model_ready("cards")
    with pytest.raises(http.InferenceServerException, match="did you mean 'loans'"): client.get_model_metadata("loan")


@pytest.mark.parametrize("binary_in", [True, False])
@pytest.mark.parametrize("binary_out", [True, False, None])
@pytest.mark.parametrize("rows", [1, 2, 37])
def test_answers_equal_the_bundles(client, store, binary_in, binary_out, rows):
    frame = people(rows, seed=rows)
    expected = toy_bundle().predict(frame)
    outputs = None if binary_out is None else [http.InferRequestedOutput(n, binary_data=binary_out) for n in ("label", "probability", "decision")]
    answer = client.infer("loans", tensors(frame, binary_in), outputs=outputs, request_id=f"r{rows}")
    assert answer.get_response()["id"] == f"r{rows}" and answer.get_response()["model_version"] == "1"
    np.testing.assert_allclose(answer.as_numpy("probability")[:, 1], expected["probability_yes"], atol=1e-6)
    labels = [v.decode() if isinstance(v, bytes) else v for v in answer.as_numpy("label").ravel()]
    assert labels == expected["label"].to_list()
    assert [["no", "yes"][i] for i in answer.as_numpy("decision").ravel()] == expected["decision"].to_list()


@pytest.mark.parametrize("number", ["FP16", "FP32", "INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16", "UINT32", "UINT64"])
def test_every_numeric_datatype(client, number):
    frame = pl.DataFrame({"income": [40.0, 60.0], "job": ["pilot", "pilot"]})
    for binary in (True, False):
        p = client.infer("loans", tensors(frame, binary, number=number)).as_numpy("probability")[:, 1]
        np.testing.assert_allclose(p, 1 / (1 + np.exp([1, -1])), atol=1e-6)


def test_columns_of_every_kind(tmp_path):
    "Whole numbers of 64 bits arrive whole, as bytes and as JSON; dates as numbers or text; texts with anything in them."
    bundle, rows = deploy(tmp_path, bundle_of_everything()), everything(40, seed=3, odd=True).with_columns(remark=pl.Series([None, "", "late\0👍 ÄRGER"] + ["so late again"] * 37))
    expected, raw = bundle.predict(rows)["probability_yes"], bundle.graph.feeds(rows)
    with serving(tmp_path, refresh=0.1) as address:
        client = http.InferenceServerClient(address.removeprefix("http://"))
        assert {i["name"]: i["datatype"] for i in client.get_model_metadata("loans")["inputs"]} == {c: {"O": "BYTES", "i": "INT64", "f": "FP64"}[x.dtype.kind] for c, x in raw.items()}
        made = []
        for name, values in raw.items():
            if name == "hash": continue
            made.append(http.InferInput(name, [40, 1], {"O": "BYTES", "i": "INT64", "f": "FP64"}[values.dtype.kind]))
            made[-1].set_data_from_numpy(values, binary_data=True)
        made.append(http.InferInput("hash", [40, 1], "UINT64"))
        made[-1].set_data_from_numpy(rows["hash"].fill_null(2**63).to_numpy().reshape(-1, 1), binary_data=True)
        known = rows["hash"].is_not_null().to_numpy()
        np.testing.assert_allclose(client.infer("loans", made).as_numpy("probability")[known, 1], expected.to_numpy()[known], atol=1e-6)
        client.close()
        shown = rows.with_columns(pl.col("at").dt.strftime("%Y-%m-%dT%H:%M:%S%.3f"), pl.col("born").cast(pl.String), pl.col("member").cast(pl.Float64))
        types = {"account": "INT64", "hash": "UINT64", "income": "FP64", "member": "FP64"}
        status, answer = post(address, {"inputs": [{"name": c, "shape": [40], "datatype": types.get(c, "BYTES"), "data": shown[c].to_list()} for c in raw]})
        assert status == 200, answer
        found = next(o for o in answer["outputs"] if o["name"] == "probability")["data"]
        np.testing.assert_allclose(np.reshape(found, (40, 2))[:, 1], expected, atol=1e-6)
        assert post(address, example_request(bundle))[0] == 200
        wrong = {"name": "account", "shape": [1], "datatype": "INT64", "data": [2**63]}
        row = {"inputs": [wrong if c == "account" else {"name": c, "shape": [1], "datatype": types.get(c, "BYTES"), "data": [None]} for c in raw]}
        assert post(address, row)[0] == 422 and "'account'" in json.dumps(post(address, row)[1])


def test_flat_shapes_versions_and_compression(client):
    frame = people(5)
    answer = client.infer("loans", tensors(frame, True, shape=lambda n: [n]), model_version="2", request_compression_algorithm="gzip", response_compression_algorithm="gzip")
    assert answer.get_response()["model_version"] == "2" and answer.as_numpy("label").shape == (5, 1)
    assert client.infer("loans", tensors(frame, False), request_compression_algorithm="deflate").as_numpy("label").shape == (5, 1)


def test_only_the_outputs_asked_for(client):
    answer = client.infer("loans", tensors(people(2), True), outputs=[http.InferRequestedOutput("decision")])
    assert [o["name"] for o in answer.get_response()["outputs"]] == ["decision"]
    with pytest.raises(http.InferenceServerException, match="unknown output 'labels'"):
        client.infer("loans", tensors(people(2), True), outputs=[http.InferRequestedOutput("labels")])


# ---- missing values


def test_missing_values_in_json(url):
    status, answer = post(url, body(income={"data": [None, float("nan")]}, job={"data": [None, ""]}))
    assert status == 200
    assert answer["outputs"][0]["data"] == [0.5] * 4
    assert answer["outputs"][0]["shape"] == [2, 2]


# ---- refusals

REFUSED = [
    (b"", 400, "no JSON"), (b"hello", 400, "no JSON"), (b"[1]", 400, "inputs"), (b"{}", 400, "inputs"), (b'{"inputs": 3}', 400, "inputs"),
    (b'{"inputs": [{"shape": [1]}]}', 400, "name"), (b"[" * 100_000, 400, "no JSON"), (b"\xff\xfe", 400, "no JSON"),
    (b'{"inputs": [], "id": 3}', 400, "id"), (b'{"inputs": []}', 422, "missing columns 'income', 'job'"),
    (body(job=None), 422, "missing column 'job'"), (body(jobs={"name": "jobs"}), 422, "unknown column 'jobs'"),
    (body(income={"data": [1, "x"]}), 422, "'income': row 1"), (body(income={"data": [1, True]}), 422, "'income': row 1"),
    (body(income={"datatype": "BYTES", "data": ["1", "2"]}), 422, "'income' holds numbers"), (body(job={"datatype": "FP32", "data": [1, 2]}), 422, "'job' holds texts"),
    (body(job={"data": ["a", 2]}), 422, "'job': row 1"), (body(income={"datatype": "INT32", "data": [1.5, 2]}), 422, "'income': row 0"),
    (body(income={"datatype": "FLOAT"}), 422, "'income': unknown datatype"), (body(income={"datatype": ["FP64"]}), 422, "'income': unknown datatype"),
    (body(income={"shape": [2, 2]}), 422, "'income': shape"), (body(income={"shape": "2"}), 422, "'income': shape"), (body(income={"shape": [-1]}), 422, "'income': shape"),
    (body(income={"shape": [0], "data": []}), 422, "'income': there are no rows"), (body(income={"shape": [3]}), 422, "'income': its shape says 3"),
    (body(income={"shape": [3], "data": [1, 2, 3]}), 422, "'job' has 2 rows"), (body(income={"data": [[1, 2], [3, 4]]}), 422, "'income'"), (body(income={"data": 7}), 422, "'income'"),
    (body(income={"data": [1e400, 1]}), 422, "'income': row 0 is infinite"), (body(income={"data": [10**400, 1]}), 422, "'income'"),
    (body(income={"parameters": {"binary_data_size": 16}}), 400, "'income'"), (body(income={"parameters": {"shared_memory_region": "x"}}), 400, "shared memory"),
    ({**body(), "outputs": [{"name": "decisions"}]}, 422, "did you mean 'decision'"), ({**body(), "outputs": ["decision"]}, 400, "outputs"),
    ({"inputs": [*body()["inputs"], body()["inputs"][0]]}, 422, "'income' is given more than once"),
    ({**body(), "outputs": [{"name": "decision", "parameters": 3}]}, 400, "parameters"),
]


@pytest.mark.parametrize("sent, status, text", REFUSED, ids=[str(i) for i in range(len(REFUSED))])
def test_refusals_name_the_column(url, sent, status, text):
    got, answer = post(url, sent)
    assert (got, list(answer)) == (status, ["error"])
    assert text in answer["error"]


@pytest.mark.parametrize("head, sent", [("x", b"{}"), ("99", b"{}"), ("-1", b"{}"), ("1", json.dumps(body()).encode())])
def test_a_wrong_header_length_is_400(url, head, sent):
    assert post(url, sent, headers={"Inference-Header-Content-Length": head})[0] == 400


def test_binary_data_that_does_not_fit(url):
    request = {"inputs": [{"name": "income", "shape": [1], "datatype": "FP64", "parameters": {"binary_data_size": 8}},
                          {"name": "job", "shape": [1], "datatype": "BYTES", "parameters": {"binary_data_size": 5}}]}
    head = json.dumps(request).encode()
    good = head + np.float64(60).tobytes() + b"\1\0\0\0a"
    headers = {"Inference-Header-Content-Length": str(len(head))}
    assert post(url, good, headers=headers)[0] == 200
    assert post(url, good[:-1], headers=headers) == (400, {"error": "the binary data of 'job' does not fit the body"})
    assert "belong to no tensor" in post(url, good + b"x", headers=headers)[1]["error"]
    for tail, text in [(b"\2\0\0\0a", "ends in the middle|end in the middle"), (b"\1\0\0\0\xff", "not UTF-8")]:
        status, answer = post(url, good[:-5] + tail, headers=headers)
        assert status == 422 and "'job'" in answer["error"] and any(t in answer["error"] for t in text.split("|"))


def test_unknown_paths_and_methods(url):
    assert post(url, b"{}", path="/v2/models/cards/infer")[0] == 404
    assert post(url, b"{}", path="/v2/models/loans/versions/9/infer")[0] == 404
    assert post(url, b"{}", path="/v2/models/loans/versions/champion/infer")[0] == 404
    status, answer = post(url, b"{}", path="/nowhere")
    assert status == 404 and list(answer) == ["error"]
    assert post(url, b"{}", path="/v2/models/loans")[0] == 405


def test_a_large_body_is_413(url):
    big = b'{"inputs": [' + b" " * 50_000_000
    assert post(url, big) == (413, {"error": "the body is larger than 1 MB; remedy: send fewer rows at a time"})
    assert post(url, gzip.compress(big), headers={"Content-Encoding": "gzip"})[0] == 413


def test_a_large_body_in_chunks_is_413(url):
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as s:
        s.sendall(b"POST /v2/models/loans/infer HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        for _ in range(30): s.sendall(b"%x\r\n" % 100_000 + b" " * 100_000 + b"\r\n")
        s.sendall(b"0\r\n\r\n")
        assert b" 413 " in s.recv(200)


def test_a_large_body_is_refused_before_it_is_sent(url):
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as s:
        s.sendall(b"POST /v2/models/loans/infer HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 50000000\r\n\r\n")
        assert s.recv(200).startswith(b"HTTP/1.1 413 ")


def test_a_broken_compressed_body_is_400(url):
    assert post(url, b"not gzip", headers={"Content-Encoding": "gzip"})[0] == 400
    assert post(url, gzip.compress(b"{}")[:-4], headers={"Content-Encoding": "gzip"})[0] == 400
    assert post(url, b"{}", headers={"Content-Encoding": "br"})[0] == 400


# ---- the registry and the log


def wait_for(condition):
    "Wait until it holds; the test run's own limit ends a wait that never does."
    while not condition(): time.sleep(0.02)


def test_a_promotion_and_a_rollback_are_followed(tmp_path):
    deploy(tmp_path, toy_bundle())
    registry = Registry(tmp_path)
    with serving(tmp_path, refresh=0.05) as url:
        served = lambda: post(url, body())[1]["model_version"]
        assert served() == "1"
        deploy(tmp_path, toy_bundle())
        wait_for(lambda: served() == "2")
        registry.rollback("loans")
        wait_for(lambda: served() == "1")


def test_a_damaged_champion_leaves_the_old_one_serving(tmp_path, caplog):
    deploy(tmp_path, toy_bundle())
    with serving(tmp_path, refresh=0.05) as url:
        second = deploy(tmp_path, toy_bundle(), promote=False)
        file = tmp_path / "models/loans/2/model.onnx"
        file.write_bytes(file.read_bytes() + b"x")
        Registry(tmp_path).promote("loans", second.version)
        def ready():
            try: return urllib.request.urlopen(url + "/v2/health/ready").status
            except urllib.error.HTTPError as e: return e.code
        wait_for(lambda: ready() == 503)
        assert post(url, body())[1]["model_version"] == "1"
        assert "model.onnx of loans@2 was edited" in urllib.request.urlopen(url).read().decode()


def test_pinned_models_and_no_models(tmp_path):
    with serving(tmp_path) as url:
        assert post(url, body())[0] == 404
        assert "No model is being served" in urllib.request.urlopen(url).read().decode()
    deploy(tmp_path, toy_bundle())
    deploy(tmp_path, toy_bundle())
    with serving(tmp_path, models=["loans@1"]) as url: assert post(url, body())[1]["model_version"] == "1"


def test_answers_are_logged_with_their_requests(tmp_path):
    deploy(tmp_path, toy_bundle())
    with serving(tmp_path) as url:
        with ThreadPoolExecutor(4) as pool: ids = list(pool.map(lambda i: post(url, body() | {"id": f"r{i}"})[1]["id"], range(20)))
        assert post(url, body(job=None))[0] == 422
    log = read_predictions(tmp_path, "loans")
    assert sorted(log["request"]) == sorted(ids * 2)
    assert set(log["input_income"]) == {40.0, 60.0} and set(log["output_label"]) == {"no", "yes"}
    assert set(log["version"]) == {1} and set(log["source"]) == {"endpoint"}


def test_a_failing_log_never_fails_a_request(tmp_path):
    deploy(tmp_path, toy_bundle())
    (tmp_path / "predictions").write_text("in the way")
    with serving(tmp_path) as url:
        for _ in range(3): assert post(url, body())[0] == 200


def test_the_page_escapes_and_loads_nothing(tmp_path):
    import re
    nasty = people().with_columns(pl.lit("<script>alert('1')</script>").alias("job"))
    deploy(tmp_path, toy_bundle(reference=nasty))
    with serving(tmp_path, log=False) as url: text = urllib.request.urlopen(url).read().decode()
    assert "<script" not in text and "&lt;script" in text and "loans@1" in text
    assert not re.search(r"(src|href)\s*=|url\(|@import", text)


def test_the_example_on_the_page_works(tmp_path):
    from mlops_workbench.deploy.endpoint import example_request
    bundle = deploy(tmp_path, toy_bundle())
    with serving(tmp_path, log=False) as url: assert post(url, example_request(bundle))[0] == 200


def test_a_missing_extra_is_named(tmp_path, monkeypatch):
    import sys

    from mlops_workbench.core.errors import UserError
    monkeypatch.setitem(sys.modules, "starlette.applications", None)
    with pytest.raises(UserError, match=r"mlops_workbench\[serve\]"): create_app(tmp_path)


@pytest.mark.parametrize("how, status", [("SIGTERM", -15), ("SIGINT", 130)])
def test_a_stopped_server_has_written_its_log(tmp_path, how, status):
    import signal
    import subprocess
    import sys
    deploy(tmp_path, toy_bundle())
    code = ("import sys; from mlops_workbench.deploy.endpoint import serve\n"
            "try: serve(sys.argv[1], port=0, on_start=lambda url: print(url, flush=True))\nexcept KeyboardInterrupt: sys.exit(130)")
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    url = process.stdout.readline().strip()
    assert post(url, body())[0] == 200
    process.send_signal(getattr(signal, how))
    assert process.wait() == status
    assert read_predictions(tmp_path, "loans").height == 2


def test_small_answers_are_not_held_back():
    "asyncio turns Nagle's algorithm off only for sockets that name TCP; with it on, every answer waits 40 ms for the client's acknowledgement."
    from mlops_workbench.deploy.endpoint import _listen
    with _listen("127.0.0.1", 0) as listener: assert listener.proto == socket.IPPROTO_TCP


def test_every_framing_with_trained_trees(tmp_path):
    from .helpers_model import applicants, trained_bundle
    rows = applicants(4, seed=9)
    request = {"inputs": [{"name": "income", "shape": [4], "datatype": "FP64", "data": rows["income"].to_list()}, {"name": "children", "shape": [4], "datatype": "INT8", "data": rows["children"].to_list()},
                          {"name": "member", "shape": [4], "datatype": "BOOL", "data": rows["member"].to_list()}, {"name": "since", "shape": [4], "datatype": "BYTES", "data": [str(d) for d in rows["since"]]},
                          {"name": "job", "shape": [4], "datatype": "BYTES", "data": rows["job"].to_list()}, {"name": "zip", "shape": [4], "datatype": "BYTES", "data": rows["zip"].to_list()}]}
    for framing in ("binary", "multiclass", "regression"):
        bundle = deploy(tmp_path / framing, trained_bundle(framing))
        expected = bundle.predict(rows)
        with serving(tmp_path / framing) as url: status, answer = post(url, request)
        assert status == 200, answer
        outputs = {o["name"]: np.array(o["data"]).reshape(o["shape"]) for o in answer["outputs"]}
        if framing == "regression": np.testing.assert_allclose(outputs["value"][:, 0], expected["value"], rtol=1e-5)
        else:
            np.testing.assert_allclose(outputs["probability"], expected.select(f"probability_{c}" for c in bundle.classes).to_numpy(), atol=1e-6)
            assert outputs["label"].ravel().tolist() == expected["label"].to_list()
        logged = read_predictions(tmp_path / framing, "loans")
        assert logged.height == 4 and ("output_value" in logged.columns) == (framing == "regression")


JUNK = [None, 0, -1, 1.5, True, "x", "", [], [[]], {}, {"a": 1}, [1], ["x"], [[1], [2]], [[1, 2]], 1e308, 10**30, "\ud800", "income", ["income"], [None, None], [True, False],
        float("nan"), float("inf"), [2, 1], [2, 2, 2], [10**12]]


def _places(value, at=()):
    "Every place inside a JSON value."
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield *at, key
        yield from _places(inner, (*at, key))


def test_no_request_breaks_the_server():
    "Valid requests, altered at random in one to three places, are answered or refused, and nothing else."
    import copy
    import random

    from mlops_workbench.deploy.protocol import RequestError, infer
    draw, bundle, answered = random.Random(0), toy_bundle(), 0
    good = body(income={"parameters": {}}) | {"id": "a", "parameters": {"binary_data_output": False}, "outputs": [{"name": "label", "parameters": {"binary_data": True}}]}
    places = list(_places(good))
    for _ in range(4000):
        request = copy.deepcopy(good)
        for _ in range(draw.choice([1, 1, 2, 3])):
            *path, last = draw.choice(places)
            try:
                inner = request
                for key in path: inner = inner[key]
                if draw.random() < 0.15: del inner[last]
                else: inner[last] = draw.choice(JUNK)
            except (KeyError, IndexError, TypeError): pass
        try: infer(bundle, json.dumps(request).encode())
        except RequestError as e: assert e.status in (400, 422) and str(e).encode()
        else: answered += 1
    assert 0 < answered < 4000
