"A trial of a population is what it would be alone; what differs by trial really differs."
import math
import platform
import subprocess
import sys

import numpy as np
import onnxruntime
import pytest
import torch
from mlops_workbench.core.errors import InputError, ParameterError
from mlops_workbench.model import backbone as backbone_module
from mlops_workbench.model.features import Encoded
from mlops_workbench.model.loss import mean_loss
from mlops_workbench.model.network import Labelled, NetworkMember, fit_encoding
from mlops_workbench.model.population import train_population
from mlops_workbench.model.stack import NetworkParams, Stack, noise, schedule


@pytest.fixture(autouse=True)
def one_thread():
    "Small products gain nothing from more."
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def rows(n: int, seed: int, framing: str = "binary", weighted: bool = False) -> Labelled:
    rng = np.random.default_rng(seed)
    num = rng.normal(size=(n, 3)).astype(np.float32)
    cat = np.stack([rng.integers(2, 6, n), rng.integers(0, 4, n)], axis=1)
    score = 1.5 * np.sin(2 * num[:, 0]) + 0.7 * (cat[:, 0] - 3.5) + 0.5 * rng.normal(size=n)
    num[rng.random(n) < 0.15, 1] = np.nan
    num[:, 2] = np.nan   # always missing
    y = {"binary": (score > 0).astype(np.int64), "multiclass": np.digitize(score, [-0.7, 0.7]), "regression": 50 + 20 * score, "absolute_error": 50 + 20 * score, "quantiles": 50 + 20 * score,
         "multilabel": np.stack([score > 0, score > 1], axis=1).astype(np.int64)}[framing]
    return Labelled(Encoded(num, cat), y, rng.uniform(0.2, 3, n) if weighted else np.ones(n))


AIMS = {"absolute_error": {"framing": "regression", "loss": "absolute_error"}, "quantiles": {"framing": "quantiles", "quantiles": (0.1, 0.5, 0.9)}}   # of others: the framing's name


def learn(params, framing="binary", n=600, weighted=False, **options):
    train, valid = rows(n, 0, framing, weighted), rows(300, 1, framing, weighted)
    encoding = fit_encoding(train.x, train.y, n_categories=[6, 4], regression=framing in ("regression", *AIMS))
    classes = 2 if framing == "multilabel" else 3
    return train_population(train, valid, params, encoding=encoding, classes=classes, batch=100, **AIMS.get(framing, {"framing": framing}), **options), valid


def several(n: int = 6, **same) -> list[NetworkParams]:
    rng = np.random.default_rng(3)
    return [NetworkParams(10 ** rng.uniform(-3.3, -2), 10 ** rng.uniform(-3, 0), rng.uniform(0, 0.4), int(rng.choice([8, 16, 24])), 1 + i % 3, seed=100 + i,
                          schedule=("cosine", "linear", "constant")[i % 3], smoothing=0.05 * (i % 2), inputs=("bins", "wholes")[i % 2], **same) for i in range(n)]


KINDS = {"layers": {}, "residual": {"backbone": "residual"}, "members": {"backbone": "members", "members": 3}}


@pytest.mark.parametrize("framing", ["binary", "multiclass", "regression"])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_alone_is_as_in_company(kind, framing, weighted):
    trials = several(**KINDS[kind])
    together, valid = learn(trials, framing, weighted=weighted, epochs=4, rungs=())
    for params, trained in zip(trials, together):
        alone, _ = learn([params], framing, weighted=weighted, epochs=4, rungs=())
        np.testing.assert_allclose([v for _, v in alone[0].history], [v for _, v in trained.history], rtol=2e-3)
        np.testing.assert_allclose(alone[0].member.predict_encoded(valid.x), trained.member.predict_encoded(valid.x), rtol=0, atol=0.02 * (20 if framing == "regression" else 1))


@pytest.mark.parametrize("framing", ["multilabel", "absolute_error", "quantiles", "regression"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_loss_and_bins_alone_are_as_in_company(kind, framing):
    trials = several(3, **KINDS[kind])
    if framing != "multilabel": trials += several(2, bins=10, **KINDS[kind])
    together, valid = learn(trials, framing, weighted=True, epochs=3, rungs=())
    aim = AIMS.get(framing, {"framing": framing})
    for params, trained in zip(trials, together):
        alone, _ = learn([params], framing, weighted=True, epochs=3, rungs=())
        np.testing.assert_allclose([v for _, v in alone[0].history], [v for _, v in trained.history], rtol=3e-3)
        p = trained.member.predict_encoded(valid.x)
        assert mean_loss(p, valid.y, valid.w, **aim) == pytest.approx(trained.loss, rel=1e-4)
        if framing == "quantiles": assert (np.diff(p, axis=1) >= 0).all()


@pytest.mark.parametrize("framing", ["regression", "absolute_error", "quantiles"])
def test_by_bins_a_quantity_is_learned(framing):
    (trained,), _ = learn([NetworkParams(1e-2, bins=16, width=32)], framing, epochs=20)
    assert trained.loss < {"regression": 0.4, "absolute_error": 0.65, "quantiles": 0.65}[framing]


def test_bins_are_kept_and_deployed(tmp_path):
    from mlops_workbench.model.graph import network_onnx
    for framing in ("regression", "absolute_error", "quantiles"):
        trained, valid = learn([NetworkParams(bins=12, width=16), NetworkParams(bins=12, width=16, backbone="members", members=2)], framing, epochs=3)
        for t in trained:
            expected = t.member.predict_encoded(valid.x)
            t.member.save(tmp_path, "m")
            np.testing.assert_array_equal(NetworkMember.load(tmp_path, "m").predict_encoded(valid.x), expected)
            session = onnxruntime.InferenceSession(network_onnx([t.member.module()], [1.0], 3, 2).SerializeToString(), providers=["CPUExecutionProvider"])
            for n in (1, 300): np.testing.assert_allclose(session.run(None, {"num": valid.x.num[:n], "cat": valid.x.cat[:n]})[0], expected[:n], rtol=1e-4)
    with pytest.raises(ParameterError, match="bins for the framing 'binary'"): learn([NetworkParams(bins=12)], epochs=1)


def test_groups_of_every_kind_in_one_population_are_as_alone():
    kinds = [{}, {"backbone": "residual"}, {"backbone": "members", "members": 2}, {"backbone": "members", "members": 4}, {"batch": 50}]
    trials = [several(1, **kind)[0] for kind in kinds] + [NetworkParams(width=8, inputs="periodic", seed=4), NetworkParams(width=8, inputs="periodic", frequency=2.0, layers=1, seed=5)]
    together, _ = learn(trials, epochs=4, rungs=())
    for params, trained in zip(trials, together):
        np.testing.assert_allclose([v for _, v in learn([params], epochs=4, rungs=())[0][0].history], [v for _, v in trained.history], rtol=2e-3)
    assert {t.state for t in together} == {"completed"}


def test_no_trial_is_lost_when_memory_runs_out(monkeypatch):
    before, _ = learn(several(8), epochs=4)
    forward, failed = Stack.forward, []
    def short(self, x, *, train=False):
        if train and len(self.ids) > 2 and self.step_count > 3:
            failed.append(len(self.ids))
            raise torch.OutOfMemoryError("no memory")
        return forward(self, x, train=train)
    monkeypatch.setattr(Stack, "forward", short)
    after, _ = learn(several(8), epochs=4)
    assert failed and max(failed) > 2
    assert [(t.state, t.reason) for t in after] == [(t.state, t.reason) for t in before]
    for a, b in zip(after, before): np.testing.assert_allclose([v for _, v in a.history], [v for _, v in b.history], rtol=2e-3)


def test_a_checkpoint_of_other_trials_is_refused(tmp_path):
    def stop(epoch, epochs, text):
        if epoch == 3: raise KeyboardInterrupt
    path = tmp_path / "p.safetensors"
    with pytest.raises(KeyboardInterrupt): learn(several(4), epochs=8, checkpoint=path, progress=stop)
    with pytest.raises(InputError, match="other trials"): learn(several(3), epochs=8, checkpoint=path)


def test_a_checkpoint_keeps_halves_and_what_was_pruned(tmp_path, monkeypatch):
    whole, _ = learn(several(8), epochs=8)
    forward = Stack.forward
    def short(self, x, *, train=False):
        if train and len(self.ids) > 3: raise torch.OutOfMemoryError("no memory")
        return forward(self, x, train=train)
    monkeypatch.setattr(Stack, "forward", short)
    def stop(epoch, epochs, text):
        if epoch == 3: raise KeyboardInterrupt
    path = tmp_path / "p.safetensors"
    with pytest.raises(KeyboardInterrupt): learn(several(8), epochs=8, checkpoint=path, progress=stop)
    resumed, _ = learn(several(8), epochs=8, checkpoint=path)
    assert [(t.state, t.reason, len(t.history)) for t in resumed] == [(t.state, t.reason, len(t.history)) for t in whole]


def test_survivors_are_not_changed_by_the_rungs():
    dropped, _ = learn(several(8), epochs=8, rungs=(0.25, 0.5))
    kept, _ = learn(several(8), epochs=8, rungs=())
    assert [t.state for t in dropped].count("completed") == 2
    for a, b in zip(dropped, kept):
        np.testing.assert_allclose([v for _, v in a.history], [v for _, v in b.history][:len(a.history)], rtol=5e-3)
    lost = [t for t in dropped if t.state == "pruned"]
    assert all(t.reason.startswith("among the worse") for t in lost) and {len(t.history) for t in lost} == {2, 4}


def plain_encoding(columns: int):
    "Of numbers that enter by one bin each."
    return fit_encoding(Encoded(np.random.default_rng(0).normal(size=(50, columns)).astype(np.float32), np.zeros((50, 0), np.int64)), n_categories=[], bins=1)


def test_the_stack_shrinks_to_what_is_left():
    encoding = plain_encoding(5)
    stack = Stack([NetworkParams(width=64, layers=3), NetworkParams(width=8, layers=1)], encoding=encoding, outputs=2)
    stack.keep([1])
    assert {k: tuple(v.shape) for k, v in stack.weights.items()} == {"w0": (encoding.width, 1, 8), "b0": (1, 8), "wo": (1, 8, 2), "bo": (1, 2)}
    assert set(stack.first) == set(stack.weights) == set(stack.second)


def test_padding_stays_zero_and_weights_decay_by_their_own_rate():
    params = [NetworkParams(1e-2, 0.0, 0.0, 4, 2, seed=1), NetworkParams(1e-2, 50.0, 0.0, 16, 2, seed=1)]
    stack = Stack(params, encoding=plain_encoding(6), outputs=1)
    x = torch.randn(64, 6, generator=torch.Generator().manual_seed(0))
    norms = [w.norm().item() for w in (stack.weights["w0"][:, 0], stack.weights["w0"][:, 1])]
    for _ in range(20): stack.step((stack.forward(x, train=True)[..., 0] - x[:, 0]).square().mean(dim=1))
    assert stack.weights["w0"][:, 0, 4:].abs().max() == 0 and stack.weights["w1"][0, 4:].abs().max() == 0
    assert stack.weights["w0"][:, 1].norm() < 0.2 * norms[1] and stack.weights["w0"][:, 0].norm() > 0.8 * norms[0]


def test_adamw_is_torchs():
    p = NetworkParams(3e-3, 0.1, 0.0, 8, 2, seed=5, schedule="linear")
    stack = Stack([p], encoding=plain_encoding(4), outputs=1, steps=15)
    w = {k: v.detach().clone().requires_grad_() for k, v in stack.take(0).items()}
    decayed, plain = [v for k, v in w.items() if k[0] == "w"], [v for k, v in w.items() if k[0] == "b"]
    other = torch.optim.AdamW([{"params": decayed, "weight_decay": 0.1}, {"params": plain, "weight_decay": 0.0}], lr=3e-3)
    relu, scales = torch.relu, schedule(["linear"], 15)
    for i in range(15):
        for group in other.param_groups: group["lr"] = 3e-3 * float(scales[i])
        x = torch.randn(32, 4, generator=torch.Generator().manual_seed(i))
        target = x[:, :1] * x[:, 1:2]
        stack.step((stack.forward(x, train=True)[0] - target).square().mean()[None])
        loss = (relu(relu(x @ w["w0"] + w["b0"]) @ w["w1"] + w["b1"]) @ w["wo"] + w["bo"] - target).square().mean()
        other.zero_grad()
        loss.backward()
        other.step()
    for k, v in stack.take(0).items(): torch.testing.assert_close(v, w[k], rtol=1e-4, atol=1e-5)


def test_a_weight_counts_as_repetition():
    train, valid = rows(400, 0), rows(200, 1)
    encoding = fit_encoding(train.x, train.y, n_categories=[6, 4])
    ignored = Labelled(train.x, train.y.copy(), np.where(np.arange(400) < 200, 1.0, 0.0))
    ignored.y[200:] = 1 - ignored.y[200:]   # wrong labels that must not matter
    options = {"encoding": encoding, "framing": "binary", "epochs": 10, "batch": 50}
    params = [NetworkParams(5e-3, dropout=0.0, seed=1)]
    weighted = train_population(ignored, valid, params, **options)[0]
    misled = train_population(Labelled(ignored.x, ignored.y, np.ones(400)), valid, params, **options)[0]
    assert weighted.loss < misled.loss - 0.05


def test_diverging_trials_harm_no_other():
    wild = NetworkParams(1.0, 1e3, 0.0, 16, 2, seed=9)
    together, _ = learn([several()[0], wild], epochs=3, rungs=())
    alone, _ = learn([several()[0]], epochs=3, rungs=())
    assert together[1].state == "pruned" and "diverged" in together[1].reason
    np.testing.assert_allclose([v for _, v in together[0].history], [v for _, v in alone[0].history], rtol=2e-3)


def test_all_diverging_ends_with_reasons():
    trained, _ = learn([NetworkParams(1.0, 1e3, 0.0, 8, 1, seed=i) for i in range(3)], epochs=4)
    assert all(t.state == "pruned" and not math.isfinite(t.loss) or t.member is not None for t in trained)


def test_best_weights_are_kept_not_the_last(tmp_path):
    trained, valid = learn([NetworkParams(1.5e-2, 1e-4, 0.0, 128, 3, seed=1)], n=150, epochs=30)
    best = trained[0]
    assert best.epoch < best.history[-1][0] and best.loss == min(v for _, v in best.history)
    assert mean_loss(best.member.predict_encoded(valid.x), valid.y, valid.w, framing="binary") == pytest.approx(best.loss, abs=1e-5)
    best.member.save(tmp_path, "m")
    np.testing.assert_array_equal(NetworkMember.load(tmp_path, "m").predict_encoded(valid.x), best.member.predict_encoded(valid.x))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU on this machine")
def test_a_gpu_gives_what_the_cpu_gives():
    cpu, valid = learn(several(), epochs=4, rungs=())
    gpu, _ = learn(several(), epochs=4, rungs=(), device="cuda")
    for a, b in zip(cpu, gpu): np.testing.assert_allclose([v for _, v in a.history], [v for _, v in b.history], rtol=2e-2)


def test_only_numbers_only_categories_and_one_batch():
    y = np.arange(40) % 2
    for x, codes in ((Encoded(np.random.default_rng(0).normal(size=(40, 2)).astype(np.float32), np.zeros((40, 0), np.int64)), []),
                     (Encoded(np.zeros((40, 0), np.float32), (y + 2)[:, None]), [4])):
        data = Labelled(x, y, np.ones(40))
        trained = train_population(data, data, [NetworkParams()], encoding=fit_encoding(x, y, n_categories=codes), framing="binary", epochs=2, batch=1000)
        assert np.isfinite(trained[0].member.predict_encoded(x)).all()


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc's allocator is set")
def test_what_a_step_frees_is_kept_while_training_lasts_and_given_back_afterwards():
    done = subprocess.run([sys.executable, "-c", """
import resource
import numpy as np
from mlops_workbench.core.memory import memory_kept

def pages():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10): [np.ones(1 << 20) for _ in range(3)]
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def resident(): return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()

pages()
before = pages()
with memory_kept():
    pages()
    kept, held = pages(), resident()
print(before, kept, held - resident())
"""], capture_output=True, text=True, check=True)
    before, kept, given_back = map(int, done.stdout.split())
    assert before > 5000 and kept < 100 and given_back > 15 << 20


@pytest.mark.parametrize("backbone", ["layers", "residual", "members"])
@pytest.mark.parametrize("count", [1, 3])
def test_dropout_and_its_gradients_are_those_of_the_textbook(backbone, count, monkeypatch):
    "What stays is 1 / (1 - p) as large, wherever the code puts that factor; networks of two depths, each with its own p."
    data = rows(80, 0)
    encoding = fit_encoding(data.x, data.y, n_categories=[6, 4])
    stack = Stack([NetworkParams(dropout=p, width=6, layers=l, backbone=backbone, members=2, seed=l) for p, l in ((0.5, 1), (0.2, 3))], encoding=encoding, outputs=count)
    x = torch.randn(40, encoding.width, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for k, w in stack.weights.items():
            if k[0] == "v": w.add_(0.3)   # they begin as zeros
    def told():
        out = stack.forward(x, train=True)
        return [out.detach(), *torch.autograd.grad((out * torch.arange(1.0, 41.0)[:, None]).sum(), list(stack.weights.values()))]
    found = told()
    def textbook(z, layer):
        n, *several, units = z.shape
        kept = noise(stack.seed, stack.t, layer, math.prod(several), units).view(*several, units) >= stack.dropout[:n].view(n, *[1] * (z.dim() - 1))
        return torch.relu(z) * kept / (1 - stack.dropout[:n].view(n, *[1] * (z.dim() - 1)))
    monkeypatch.setattr(stack, "_act", textbook)
    monkeypatch.setattr(stack, "_rescaled", lambda w: w)
    monkeypatch.setattr(backbone_module, "_last", lambda h, w, b: h @ w + b[..., None, :])
    for a, b in zip(found, told(), strict=True): torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
