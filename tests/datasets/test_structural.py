"""Structural causal models on tables."""

import pytest
import torch

from causalvae_pyro.datasets import SyntheticSCM
from causalvae_pyro.graph import CausalGraph

GRAPH = CausalGraph(["c", "a", "b"], [("a", "b"), ("b", "c"), ("a", "c")])


@pytest.fixture
def scm():
    mechanisms = {"b": lambda parents: parents["a"] ** 2, "c": lambda parents: parents["b"] - 3 * parents["a"]}
    return SyntheticSCM(GRAPH, mechanisms, {"a": 1.0, "b": 0.5, "c": 0.1})


def test_samples_follow_the_mechanisms(scm):
    c, a, b = scm.sample(20000, seed=1).unbind(-1)
    assert a.std().item() == pytest.approx(1.0, rel=0.03)
    assert (b - a**2).std().item() == pytest.approx(0.5, rel=0.03)
    assert (c - b + 3 * a).std().item() == pytest.approx(0.1, rel=0.03)
    assert abs(torch.corrcoef(torch.stack([b - a**2, a]))[0, 1]) < 0.03
    assert torch.equal(scm.sample(5, seed=1), scm.sample(5, seed=1))
    assert not torch.equal(scm.sample(5, seed=1), scm.sample(5, seed=2))


def test_counterfactuals_keep_the_noise(scm):
    values = scm.sample(50)
    c, a, b = values.unbind(-1)
    after = scm.counterfactual(values, {"a": 2.0})
    torch.testing.assert_close(after[:, 2], 4 + (b - a**2))
    torch.testing.assert_close(after[:, 0], after[:, 2] - 6 + (c - b + 3 * a))
    after = scm.counterfactual(values, {"b": torch.arange(50.0)})
    assert torch.equal(after[:, 1], a)
    torch.testing.assert_close(after[:, 0], torch.arange(50.0).double() - 3 * a + (c - b + 3 * a))
    assert torch.equal(scm.counterfactual(values, {}), values)
    assert torch.equal(scm.intervene(50, {"b": 1.0}), scm.counterfactual(scm.sample(50), {"b": 1.0}))


def test_many_nodes():
    names = [f"v{i}" for i in range(60)]
    graph = CausalGraph(names, [(names[i], names[i + 1]) for i in range(59)])
    scm = SyntheticSCM(graph, {name: (lambda parents: 0.9 * next(iter(parents.values()))) for name in names[1:]}, 0.1)
    values = scm.sample(10)
    after = scm.counterfactual(values, {"v30": 1.0})
    assert torch.equal(after[:, :30], values[:, :30])
    assert (after[:, 31:] != values[:, 31:]).all()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SyntheticSCM(GRAPH, {"b": abs}), "mechanisms: expected one for each of \\['c', 'b'\\]; missing: \\['c'\\]"),
        (lambda: SyntheticSCM(GRAPH, {"a": abs, "b": abs, "c": abs}), "mechanisms: .*too many: \\['a'\\]"),
        (lambda: SyntheticSCM(GRAPH, {"b": abs, "c": abs}, -1.0), "noise_std: got -1.0"),
        (lambda: SyntheticSCM(GRAPH, {"b": abs, "c": abs}, {"a": 1.0}), "noise_std: "),
    ],
)
def test_errors_of_the_constructor(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("do", "message"),
    [
        ({"d": 1.0}, "do: unknown concept 'd'"),
        ({"a": torch.zeros(3)}, "do\\['a'\\]: expected a number or shape \\(50,\\)"),
        ({"a": float("nan")}, "do\\['a'\\]: got a value that is not finite"),
    ],
)
def test_errors_of_interventions(scm, do, message):
    with pytest.raises(ValueError, match=message):
        scm.counterfactual(scm.sample(50), do)
    with pytest.raises(ValueError, match="values: expected shape"):
        scm.counterfactual(torch.zeros(5, 2), {})
