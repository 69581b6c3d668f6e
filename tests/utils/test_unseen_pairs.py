"""Pairs of classes that hardly any image shows."""

import torch

from causalvae_pyro.utils.unseen_pairs import asks_for, pair_text, unseen_pairs

NAMES = ["sex", "age", "beard"]


def labels(bearded_women):
    """1,000 men and women, half of the men with a beard."""
    u = torch.zeros(1000, 3)
    u[:500, 0] = 1
    u[:, 1] = torch.linspace(20, 80, 1000)
    u[:250, 2] = 1
    u[500 : 500 + bearded_women, 2] = 1
    return u


def test_pairs_without_overlap_are_found():
    assert unseen_pairs(labels(0), NAMES, [True, False, True]) == [("sex", 0, "beard", 1)]
    assert unseen_pairs(labels(19), NAMES, [True, False, True]) == [("sex", 0, "beard", 1)]
    assert unseen_pairs(labels(20), NAMES, [True, False, True]) == []
    # Missing labels are in no pair.
    u = labels(0)
    u[:600, 0] = torch.nan
    assert unseen_pairs(u, NAMES, [True, False, True]) == []


def test_what_is_rare_by_chance_is_no_such_pair():
    generator = torch.Generator().manual_seed(0)
    u = (torch.rand(300, 3, generator=generator) < torch.tensor([0.5, 0.5, 0.03])).float()
    assert 0 < (u[:, 0] * u[:, 2]).sum() < 20
    assert unseen_pairs(u, NAMES, [True] * 3) == []


def test_categories_have_pairs_too():
    kind = torch.arange(600) % 3
    u = torch.stack([kind.float(), (kind == 2).float()], 1)
    assert unseen_pairs(u, ["kind", "lit"], [True, True]) == [("kind", 0, "lit", 1), ("kind", 1, "lit", 1), ("kind", 2, "lit", 0)]


def test_rows_that_ask_for_them():
    pairs = [["sex", 0, "beard", 1], ("sex", 1, "age", 3)]
    u = torch.tensor([[0.0, 3.0, 1.0], [0.2, 0.0, 0.9], [1.0, 3.0, 1.0], [torch.nan, 3.0, 1.0]])
    assert asks_for(u, NAMES, pairs).tolist() == [[True, False], [True, False], [False, True], [False, False]]
    assert asks_for(u, NAMES, []).shape == (4, 0)
    assert pair_text(pairs[0]) == "sex 0 with beard 1"
