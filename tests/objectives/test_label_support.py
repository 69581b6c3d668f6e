"""Which labels images show."""

import torch
from torch.testing import assert_close

from causalvae_pyro.objectives.label_support import LabelSupport


def along_a_line(count, seed=0):
    """An effect that follows its cause, with little noise."""
    generator = torch.Generator().manual_seed(seed)
    cause = torch.rand(count, generator=generator)
    return torch.stack([cause, cause + 0.02 * torch.randn(count, generator=generator)], 1)


def test_labels_far_from_all_that_were_seen_are_brought_near():
    support = LabelSupport(2)
    support.remember(along_a_line(600))
    own = torch.tensor([[0.1, 0.1], [0.5, 0.5], [0.5, 0.5]])
    far = torch.tensor([[0.1, 0.9], [0.5, 0.53], [0.52, 0.64]])
    near = support.bring_near(far, own)
    # Not even a quarter of the way; seen like that; half of the way or all of it.
    assert_close(near[:2], torch.stack([own[0], far[1]]))
    assert 0.5 < near[2, 1] < 0.64
    on_the_line = along_a_line(50, seed=1)
    kept = support.bring_near(on_the_line, on_the_line.flip(0))
    assert (kept == on_the_line).all(1).double().mean() > 0.9


def test_nothing_is_refused_before_enough_has_been_seen():
    support, far = LabelSupport(2), torch.tensor([[0.1, 0.9]])
    support.remember(along_a_line(200))
    assert torch.equal(support.bring_near(far, far), far)
    support.remember(along_a_line(100, seed=1))
    own = torch.tensor([[0.1, 0.1]])
    assert torch.equal(support.bring_near(far, own), own)


def test_the_latest_labels_count():
    support = LabelSupport(2)
    for seed in range(9):
        support.remember(along_a_line(300, seed))
    assert_close(support.seen[int(support.place) % 1024 - 1], along_a_line(300, 8)[-1])
    support.remember(along_a_line(5000))
    assert not support.seen.isnan().any()


def test_it_is_saved():
    support, other = LabelSupport(2), LabelSupport(2)
    support.remember(along_a_line(300))
    other.load_state_dict(support.state_dict())
    far, own = torch.tensor([[0.1, 0.9]]), torch.tensor([[0.1, 0.1]])
    assert torch.equal(other.bring_near(far, own), own)
