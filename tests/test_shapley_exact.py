"Shapley values against the truth: categories behind embeddings, trees with categories, missing values, grouped columns, standard errors."
import lightgbm
import numpy as np
import pytest
import shap
import torch

from mlops_workbench.assess.explain import exact_shapley, importance, shapley
from mlops_workbench.model.features import Encoded

NAMES = ["age", "income", "debt", "region", "purpose"]


def encoded(n, seed):
    "Rows with missing numbers and missing (0) and unseen (1) categories."
    rng = np.random.default_rng(seed)
    num = rng.normal(size=(n, 3)).astype("f4")
    num[rng.random(num.shape) < 0.15] = np.nan
    return Encoded(num, rng.integers(0, [4, 7], size=(n, 2)))


ROWS, BACKGROUND = encoded(6, 1), encoded(25, 2)


class Network(torch.nn.Module):
    "Embeddings, missing flags, LayerNorm and SiLU: what gradient explainers get wrong or refuse."
    def __init__(self, outputs=1):
        super().__init__()
        torch.manual_seed(0)
        self.tables = torch.nn.ModuleList([torch.nn.Embedding(4, 3), torch.nn.Embedding(7, 3)])
        self.body = torch.nn.Sequential(torch.nn.Linear(12, 16), torch.nn.LayerNorm(16), torch.nn.SiLU(), torch.nn.Linear(16, outputs))

    def forward(self, num, cat):
        x = [torch.nan_to_num(num), torch.isnan(num).float(), *(t(cat[:, i]) for i, t in enumerate(self.tables))]
        return self.body(torch.cat(x, 1)) * 2


def network(outputs=1):
    module = Network(outputs).eval()

    @torch.no_grad()
    def predict(num, cat):
        out = module(torch.from_numpy(num), torch.from_numpy(cat)).double()
        return (out.softmax(1) if outputs > 1 else out[:, 0].sigmoid()).numpy()
    return predict


def trees():
    data = encoded(800, 3)
    x = np.concatenate([data.num, data.cat], 1)
    y = (np.nan_to_num(x[:, 0]) + (x[:, 3] == 2) - (x[:, 4] > 3) * np.isnan(x[:, 1]) > 0.2).astype(int)
    model = lightgbm.LGBMClassifier(n_estimators=40, verbose=-1, n_jobs=2).fit(x, y, categorical_feature=[3, 4]).booster_
    return lambda num, cat: np.asarray(model.predict(np.concatenate([num, cat], 1)))


MODELS = {"network": network, "trees": trees}


@pytest.fixture(scope="module", params=MODELS)
def predict(request): return MODELS[request.param]()


def matrix(x): return np.concatenate([x.num.astype(float), x.cat], 1)


def log_odds(predict):
    "The model as one function of a plain matrix, on the scale that is explained."
    def f(x):
        p = predict(x[:, :3].astype("f4"), x[:, 3:].astype(np.int64))
        return np.log(p) - np.log1p(-p)
    return f


def test_exact_agrees_with_shap(predict):
    ours = exact_shapley(predict, ROWS, BACKGROUND, names=NAMES)
    theirs = shap.explainers.ExactExplainer(log_odds(predict), shap.maskers.Independent(matrix(BACKGROUND), max_samples=100))(matrix(ROWS))
    np.testing.assert_allclose(ours.values, theirs.values, atol=1e-4)
    np.testing.assert_allclose(ours.base, theirs.base_values, atol=1e-4)


def test_permutations_agree_with_exact_and_with_shap(predict):
    exact = exact_shapley(predict, ROWS, BACKGROUND, names=NAMES)
    ours = shapley(predict, ROWS, BACKGROUND, names=NAMES, permutations=40)
    theirs = shap.explainers.PermutationExplainer(log_odds(predict), shap.maskers.Independent(matrix(BACKGROUND), max_samples=100), seed=0)(
        matrix(ROWS), max_evals=2000)
    scale = np.abs(exact.values).max()
    np.testing.assert_allclose(ours.values, exact.values, atol=0.03 * scale)
    np.testing.assert_allclose(ours.values, theirs.values, atol=0.05 * scale)
    assert ours.additivity_error < 1e-5


def test_categories_and_missing_values_count(predict):
    exact = exact_shapley(predict, ROWS, BACKGROUND, names=NAMES)
    assert np.abs(exact.values[:, 3:]).max(axis=0).min() > 0.01          # gradient explainers answer 0 here
    known = ~np.isnan(ROWS.num)
    assert np.abs(exact.values[:, :3][~known]).max() > 0.001             # a missing value is a value of its own


def test_one_hot_columns_of_a_category_are_one_player():
    effect, names = np.array([0.5, -1.0, 2.0, 0.0]), ["age", *["region"] * 4]
    rng = np.random.default_rng(0)
    wide = lambda age, code: Encoded(np.concatenate([age[:, None], np.eye(4)[code]], 1).astype("f4"), np.zeros((len(age), 0), np.int64))
    age, code = rng.normal(size=8), rng.integers(0, 4, 8)
    past, past_code = rng.normal(size=20), rng.integers(0, 4, 20)
    f = lambda num, cat: num[:, 0] * (1 + num[:, 3]) + num[:, 1:] @ effect
    g = lambda num, cat: num[:, 0] * (1 + (cat[:, 0] == 2)) + effect[cat[:, 0]]
    one_hot = exact_shapley(f, wide(age, code), wide(past, past_code), names=names, link="identity")
    short = lambda a, c: Encoded(a[:, None].astype("f4"), c[:, None])
    coded = exact_shapley(g, short(age, code), short(past, past_code), names=["age", "region"], link="identity")
    assert one_hot.names == coded.names
    np.testing.assert_allclose(one_hot.values, coded.values, atol=1e-5)
    sampled = shapley(f, wide(age, code), wide(past, past_code), names=names, link="identity")
    np.testing.assert_allclose(sampled.values, coded.values, atol=1e-5)    # two players: a pair of walks is already exact


def test_several_classes():
    predict = network(3)
    exact = exact_shapley(predict, ROWS, BACKGROUND, names=NAMES)
    ours = shapley(predict, ROWS, BACKGROUND, names=NAMES, permutations=40)
    assert ours.values.shape == (6, 5, 3) and ours.explanation.values.shape == (6, 5, 3)
    np.testing.assert_allclose(ours.values, exact.values, atol=0.03 * np.abs(exact.values).max())
    np.testing.assert_allclose(exact.of(1).base + exact.of(1).values.sum(1), exact.of(1).outputs, atol=1e-6)
    assert set(importance(ours)["column"]) == set(NAMES)


def test_standard_errors_tell_the_distance_from_the_population(predict):
    "Against the exact values over the whole population, samples of the background are as far off as the standard errors say."
    population, rows = encoded(300, 4), Encoded(ROWS.num[:3], ROWS.cat[:3])
    truth = exact_shapley(predict, rows, population, names=NAMES)
    off, said = [], []
    for seed in range(30):
        pick = np.random.default_rng(seed).choice(300, 30, replace=True)
        some = shapley(predict, rows, Encoded(population.num[pick], population.cat[pick]), names=NAMES, seed=seed)
        off.append((some.values - truth.values) ** 2)
        said.append(some.error ** 2)
    assert 0.8 < np.sqrt(np.mean(off) / np.mean(said)) < 1.25


def test_batches_are_bounded_and_do_not_change_the_answer(predict):
    seen = []
    def watched(num, cat):
        seen.append(len(num))
        return predict(num, cat)
    small = shapley(watched, ROWS, BACKGROUND, names=NAMES, batch=300)
    assert 250 < max(seen) <= 300
    np.testing.assert_allclose(small.values, shapley(predict, ROWS, BACKGROUND, names=NAMES).values, atol=1e-6)


def test_a_seed_repeats_exactly(predict):
    a, b, c = (shapley(predict, ROWS, BACKGROUND, names=NAMES, seed=s).values for s in (0, 0, 1))
    assert (a == b).all() and (a != c).any()
