"""Stage one: `discover_graph` and `refine_graph` on labels of models whose graph is known."""

import math
import re

import pytest
import torch

from causalvae_pyro.discovery import (
    LinearCandidates,
    LocalFits,
    NetworkCandidates,
    allowed_edges,
    discover_graph,
    entropy_score,
    gaussian_score,
    labels,
    refine_graph,
)
from causalvae_pyro.discovery.acyclicity import exponential_acyclicity, logdet_acyclicity, polynomial_acyclicity
from causalvae_pyro.discovery.local import penalised_score
from causalvae_pyro.graph import CausalGraph
from tests.discovery.test_graphs import FAST, adjacency, everything, nonlinear, uniform

NAMES = ["p", "q", "r"]
SHORT = {"rounds": 3, "steps": 25, "max_samples": 300}
# A descent that does nothing: for what happens around it.
TINY = {"rounds": 1, "steps": 1, "max_samples": 20}


@pytest.fixture
def fast(monkeypatch):
    """Smaller regressions in the refinement."""
    monkeypatch.setattr(labels, "LocalFits", lambda data, **options: LocalFits(data, **options | FAST))


def search(data, names=NAMES, **options):
    return discover_graph(data, names, **SHORT | options)


def linear(seed):
    """q -> r -> p and q -> p, linear with uniform noise."""
    a, b, c = uniform(torch.Generator().manual_seed(seed), 3)
    middle = a + 0.6 * b
    return torch.stack([0.8 * middle + 0.5 * a + 0.6 * c, a, middle], 1)


# What it finds -------------------------------------------------------------------------------------------------------


@pytest.mark.thorough
@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize(("name", "edges"), [("chain", {("q", "r"), ("r", "p")}), ("collider", {("p", "q"), ("r", "q")})])
def test_finds_the_graph(name, edges, seed, fast):
    data, _ = nonlinear(name, seed)
    found = search(data, seed=seed)
    assert set(found.graph.edges) == edges
    assert found.graph.names == found.continuous.names == tuple(NAMES)


@pytest.mark.thorough
@pytest.mark.usefixtures("fast")
def test_units_and_the_order_of_columns_do_not_matter():
    data, _ = nonlinear("chain", 0)
    order = [2, 0, 1]
    units = torch.tensor([1e-3, 50.0, 1.0])
    moved = search((data * units + torch.tensor([5.0, -200.0, 0.0]))[:, order], [NAMES[i] for i in order])
    found = search(data)
    assert set(moved.graph.edges) == set(found.graph.edges) == {("q", "r"), ("r", "p")}
    assert moved.graph.names == ("r", "p", "q")
    # The columns keep their order in what is not a graph of names.
    units_only = search(data * units)
    torch.testing.assert_close(units_only.strengths, found.strengths, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("seed", range(2))
def test_linear_candidates_on_a_linear_model_without_gaussian_noise(seed):
    candidates = LinearCandidates(everything(3))
    found = search(linear(seed), candidates=candidates, score=entropy_score, refine=False, rounds=6, steps=60, seed=seed)
    assert set(found.graph.edges) == {("q", "r"), ("r", "p"), ("q", "p")}
    assert found.graph == found.continuous
    assert found.candidates is candidates
    assert torch.equal(candidates.strengths(), found.strengths)
    assert found.history[-1]["acyclicity"] < 0.1 * found.history[0]["acyclicity"]


@pytest.mark.parametrize("acyclicity", [polynomial_acyclicity, exponential_acyclicity, logdet_acyclicity])
def test_any_acyclicity_function_will_do(acyclicity):
    a, b = uniform(torch.Generator().manual_seed(0), 2)
    data = torch.stack([torch.sin(2 * a) + 0.4 * b, a], 1)
    found = search(data, ["p", "q"], acyclicity=acyclicity, unit=1.0, refine=False, rounds=4, steps=60)
    assert found.graph.edges == (("q", "p"),)


@pytest.mark.usefixtures("fast")
def test_one_concept():
    assert search(torch.randn(30, 1), ["p"]).graph == CausalGraph(["p"])


@pytest.mark.usefixtures("fast")
@pytest.mark.parametrize(
    "options",
    [{"order": ["r", "q", "p"]}, {"supergraph": CausalGraph(["q", "p", "r"], [("r", "q"), ("p", "q")])}],
    ids=["order", "supergraph"],
)
def test_what_is_known_is_kept(options):
    """The true graph is none of those allowed."""
    allowed = allowed_edges(NAMES, **options)
    found = search(nonlinear("chain", 0)[0], allowed=allowed)
    for matrix in (found.strengths, found.graph.adjacency, found.continuous.adjacency):
        assert matrix.sum() > 0
        assert ((matrix != 0) <= (allowed != 0)).all()
    assert found.snapshots[-1].sum() > 0


@pytest.mark.usefixtures("fast")
def test_candidates_bring_what_is_allowed():
    allowed = allowed_edges(NAMES, order=["r", "q", "p"])
    found = search(nonlinear("chain", 0)[0], candidates=NetworkCandidates(allowed))
    assert found.graph.adjacency.sum() > 0
    assert (found.graph.adjacency <= allowed).all()
    # A graph within a narrower choice is refused rather than left.
    with pytest.raises(ValueError, match="candidates: their own edges go beyond allowed"):
        search(torch.randn(30, 3), candidates=NetworkCandidates(everything(3)), allowed=allowed)
    search(torch.randn(30, 3), candidates=NetworkCandidates(allowed), allowed=everything(3), refine=False, **TINY)


# How it goes there ---------------------------------------------------------------------------------------------------


def test_history_and_snapshots():
    found = search(nonlinear("chain", 0)[0], refine=False, unit=0.5)
    assert found.snapshots.shape == (3, 3, 3)
    assert torch.equal(found.snapshots[-1], found.strengths)
    assert torch.equal(found.candidates.strengths(), found.strengths)
    assert not found.snapshots.requires_grad
    assert [row["round"] for row in found.history] == [1, 2, 3]
    multiplier, penalty = 0.0, 1.0
    for row, strengths in zip(found.history, found.snapshots, strict=True):
        assert set(row) == {"round", "score", "acyclicity", "multiplier", "penalty"}
        assert row["acyclicity"] == pytest.approx(exponential_acyclicity(strengths / 0.5).item())
        assert row["multiplier"] == pytest.approx(multiplier + penalty * row["acyclicity"], rel=1e-5)
        multiplier, penalty = row["multiplier"], row["penalty"]
    assert found.history[-1]["score"] < 3 * 0.5 * math.log(2 * math.pi * math.e)
    assert found.history[1]["score"] < found.history[0]["score"]


def test_ends_early_where_the_graph_is_acyclic():
    data = torch.randn(30, 3)
    allowed = allowed_edges(NAMES, order=NAMES)
    found = search(data, allowed=allowed, refine=False, rounds=6, steps=1)
    assert len(found.history) == len(found.snapshots) == 4
    assert len(search(data, refine=False, rounds=6, steps=2).history) == 6


def test_score_sees_the_residuals_of_so_many_samples():
    seen = []

    def score(residuals):
        seen.append(residuals)
        return gaussian_score(residuals)

    data = 100 + 5 * torch.randn(50, 3)
    search(data, score=score, refine=False, rounds=2, steps=2, max_samples=40)
    assert [residuals.shape for residuals in seen] == [(40, 3)] * 4
    # Standardised, and without any parent in the first step: only the candidates' constants are missing.
    rows = (data - data.mean(0)) / data.std(0)
    difference = seen[0].detach().std(0) / rows.std(0)
    assert ((difference > 0.8) & (difference < 1.2)).all()
    assert seen[0].mean().abs() < 1.5


def test_penalties_and_threshold_count():
    data, _ = nonlinear("chain", 0)
    free = search(data, refine=False)
    assert free.strengths.max() > 0.2
    assert search(data, refine=False, sparsity=10.0).strengths.max() < 0.05
    assert search(data, refine=False, shrinkage=1.0).strengths.max() < 0.5 * free.strengths.max()
    assert search(data, refine=False, threshold=10.0).graph.edges == ()
    # The larger the unit, the less do cycles count at first.
    cyclic = search(data, refine=False, unit=10.0, rounds=1, steps=60).strengths
    strict = search(data, refine=False, unit=0.1, rounds=1, steps=60).strengths
    assert (cyclic * cyclic.T).sum() > 2 * (strict * strict.T).sum()


@pytest.mark.usefixtures("fast")
def test_seed_decides_everything_and_torchs_state_is_left(monkeypatch):
    monkeypatch.setattr(torch.cuda, "manual_seed_all", lambda seed: pytest.fail("seeds the GPUs"))
    data = torch.randn(50, 3)
    state = torch.get_rng_state()
    first, same, other = (search(data, refine=False, steps=3, max_samples=30, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(state, torch.get_rng_state())
    assert torch.equal(first.snapshots, same.snapshots)
    assert first.history == same.history
    assert not torch.equal(first.snapshots, other.snapshots)
    assert refine_graph(data, first.graph, seed=3) == refine_graph(data, first.graph, seed=3)
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"labels": torch.randn(19, 3)}, "labels: expected shape [N, n] with N >= 20, got [19, 3]"),
        ({"labels": torch.full((30, 3), math.nan)}, "labels: got nan in row 0, column 0; all labels must be finite"),
        ({"labels": torch.ones(30, 3)}, "labels: column 0 is constant; a graph needs every concept to vary"),
        ({"names": ["p", "q"]}, "names: got 2 for 3 columns of labels"),
        ({"names": ["p", "q", "q"]}, "names: 'q' occurs 2 times"),
        ({"allowed": torch.ones(2, 2)}, "allowed: expected shape [3, 3], got [2, 2]"),
        ({"candidates": LinearCandidates(torch.ones(2, 2))}, "candidates: got 2 concepts of dim 1; must be 3 of dim 1"),
        ({"candidates": LinearCandidates(torch.ones(3, 3), 2)}, "candidates: got 3 concepts of dim 2; must be 3 of dim 1"),
        *(({name: -0.1}, f"{name}: got -0.1; must be >= 0") for name in ("sparsity", "shrinkage", "threshold")),
        *(({name: 0.0}, f"{name}: got 0.0; must be > 0") for name in ("unit", "lr")),
        *(({name: 0}, f"{name}: got 0; must be at least 1") for name in ("rounds", "steps", "max_samples")),
    ],
)
def test_errors(options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        discover_graph(**{"labels": torch.randn(30, 3), "names": NAMES} | options)


# The refinement ------------------------------------------------------------------------------------------------------


@pytest.fixture
def calls(monkeypatch):
    """Records the calls of both refinements, which find an edge from the first concept to the last."""
    calls = []
    for name in ("independent_graph", "climb"):

        def record(fits, *args, name=name, **options):
            calls.append((name, fits, args, options))
            n = len(args[-1])
            return adjacency(n, [(0, n - 1)])

        monkeypatch.setattr(labels, name, record)
    return calls


@pytest.mark.parametrize("n", [2, 5, 6, 7])
def test_refinement_compares_all_graphs_of_up_to_5_concepts(n, calls):
    start = CausalGraph([f"v{i}" for i in range(n)], [("v1", "v0")])
    data = torch.randn(30, n)
    graph = refine_graph(data, start, score=entropy_score, seed=3)
    assert graph.names == start.names
    assert graph.edges == (("v0", f"v{n - 1}"),)
    for _, fits, args, _ in calls:
        assert torch.equal(args[-1], everything(n))
        assert torch.equal(fits.train, LocalFits(data, seed=3).train)
    if n <= 5:
        assert [(name, options) for name, *_, options in calls] == [("independent_graph", {})]
    else:
        assert [(name, options) for name, *_, options in calls] == [("climb", {"score": entropy_score})] * 2
        # From the graph given, and from none; with the same regressions.
        assert torch.equal(calls[0][2][0], start.adjacency)
        assert not calls[1][2][0].any()
        assert calls[0][1] is calls[1][1]


@pytest.mark.parametrize("better", [0, 1])
def test_the_better_end_of_two_climbs_is_taken(better, monkeypatch):
    n = 6
    truth, other = adjacency(n, [(0, 1)]), adjacency(n, [(2, 3)])
    ends = iter([truth, other] if better == 0 else [other, truth])
    monkeypatch.setattr(labels, "climb", lambda *args, **options: next(ends))
    a, b = uniform(torch.Generator().manual_seed(0), 2, rows=200)
    data = torch.stack([a, a + 0.3 * b, *torch.randn(4, 200)], 1)
    graph = refine_graph(data, CausalGraph([f"v{i}" for i in range(n)]))
    assert graph.edges == (("v0", "v1"),)


def test_the_score_of_a_graph_has_a_price_for_each_edge():
    data = torch.randn(60, 3)
    fits = LocalFits(data, steps=5)
    graph = adjacency(3, [(0, 1), (0, 2), (1, 2)])
    families = [(0, frozenset()), (1, frozenset({0})), (2, frozenset({0, 1}))]
    expected = gaussian_score(fits.residuals(families)).sum().item() + 3 * 0.7
    assert penalised_score(fits, graph, edge_penalty=0.7) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("n", [3, 6])
def test_refinement_passes_on_its_options(n, calls):
    start = CausalGraph([f"v{i}" for i in range(n)])
    allowed = adjacency(n, [(0, 1), (1, 2)])
    refine_graph(torch.randn(30, n), start, allowed=allowed > 0, edge_penalty=0.5)
    assert len(calls) == (1 if n <= 5 else 2)
    for _, _, args, options in calls:
        assert torch.equal(args[-1], allowed)
        assert options["edge_penalty"] == 0.5


@pytest.mark.parametrize("n", [3, 6])
def test_discovery_refines_with_its_own_options(n, calls):
    names = [f"v{i}" for i in range(n)]
    allowed = adjacency(n, [(0, n - 1), (1, 2)])
    found = discover_graph(torch.randn(30, n), names, allowed=allowed, score=entropy_score, seed=4, **TINY)
    assert found.graph.edges == (("v0", f"v{n - 1}"),)
    assert found.continuous != found.graph
    assert len(calls) == (1 if n <= 5 else 2)
    for _, fits, args, options in calls:
        assert torch.equal(args[-1], allowed)
        assert options.get("score", entropy_score) is entropy_score
        assert fits.generator.initial_seed() == 4


def test_a_climb_from_the_graph_found():
    a, b = uniform(torch.Generator().manual_seed(0), 2, rows=200)
    data = torch.stack([a, a + 0.3 * b, *torch.randn(4, 200)], 1)
    names = [f"v{i}" for i in range(6)]
    start = CausalGraph(names, [("v0", "v1"), ("v2", "v3")])
    allowed = start.adjacency
    found = refine_graph(data, start, allowed=allowed)
    assert found.edges == (("v0", "v1"),)


@pytest.mark.parametrize(
    ("data", "options", "message"),
    [
        (torch.randn(30, 2), {}, "names: got 3 for 2 columns of labels"),
        (torch.randn(19, 3), {}, "labels: expected shape [N, n] with N >= 20"),
        (torch.randn(30, 3), {"allowed": torch.ones(2, 2)}, "allowed: expected shape [3, 3], got [2, 2]"),
    ],
)
def test_errors_of_the_refinement(data, options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        refine_graph(data, CausalGraph(NAMES), **options)
