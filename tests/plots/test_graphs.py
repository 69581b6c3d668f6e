"""The drawing of the model's program."""

import networkx as nx
import pyro
import pytest
import torch

from causalvae_pyro.plots import graphs, plot_model
from causalvae_pyro.plots.style import BLUE, SKY
from tests.builders import make_pair
from tests.test_model_relations import GRAPH, SHAPE, arguments, every_layer


@pytest.fixture
def drawn(monkeypatch):
    """What is handed to networkx."""
    calls = {}
    for name in ("draw_networkx_nodes", "draw_networkx_edges"):
        draw = getattr(nx, name)
        monkeypatch.setattr(
            graphs.nx, name, lambda *a, _draw=draw, _name=name, **k: calls.update({_name: (a, k)}) or _draw(*a, **k)
        )
    return calls


@pytest.mark.parametrize("labels", [True, False])
@every_layer
def test_the_drawing_is_the_causal_graph(scm, labels, drawn):
    model, _ = make_pair(GRAPH, SHAPE, scm=scm, noise_dim=2)
    plot_model(model, *arguments(labels))
    (network, places), options = drawn["draw_networkx_edges"]
    shown = dict(zip(network.edges, options["edge_color"], strict=True))
    assert {edge for edge, colour in shown.items() if colour == BLUE} == set(GRAPH.edges)
    around = {("z", "x"), ("eps_x", "x")} | {("eps", name) for name in GRAPH.names} | {(name, "z") for name in GRAPH.names}
    assert set(shown) == around | set(GRAPH.edges)
    (_, _, nodes), options = drawn["draw_networkx_nodes"]
    filled = {name for name, colour in zip(nodes, options["node_color"], strict=True) if colour == SKY}
    assert filled == ({"x", "z"} if labels else {"x"})
    assert len(set(places.values())) == len(places) == len(GRAPH) + 4


def test_no_arrow_passes_through_a_third_site(drawn):
    model, _ = make_pair(GRAPH, SHAPE)
    plot_model(model, *arguments(True))
    (network, places), _ = drawn["draw_networkx_edges"]
    at = {name: torch.tensor(place, dtype=torch.double) for name, place in places.items()}
    for a, b in network.edges:
        for other in set(network.nodes) - {a, b}:
            along = (at[b] - at[a]) / (at[b] - at[a]).norm()
            reach = ((at[other] - at[a]) @ along).clamp(0, (at[b] - at[a]).norm())
            assert (at[a] + reach * along - at[other]).norm() > 0.1, (a, b, other)


def test_other_sites_are_drawn_and_nothing_is_left_in_the_store(drawn):
    class Noisy(torch.nn.Module):
        def __init__(self, decoder):
            super().__init__()
            self.decoder = decoder

        def forward(self, z):
            return self.decoder(z) + pyro.sample("gain", pyro.distributions.Normal(0.0, 1.0))

    model, _ = make_pair(GRAPH, SHAPE)
    model.decoder = Noisy(model.decoder)
    figure = plot_model(model, *arguments(True))
    assert ("gain", "x") in drawn["draw_networkx_edges"][0][0].edges
    assert "gain" in {text.get_text() for text in figure.axes[0].texts}
    assert not list(pyro.get_param_store())
