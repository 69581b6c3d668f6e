"""``fit(groups=)``: batches of sets of images of one group."""

from __future__ import annotations

import pytest
import torch

from causalvae_pyro import AmortizedGuide, CausalELBO, CausalVAE, fit
from causalvae_pyro.likelihoods import GaussianLikelihood
from causalvae_pyro.networks import MLPDecoder, MLPEncoder
from causalvae_pyro.objectives import GroupSwap, LabelFit
from causalvae_pyro.priors import FixedPrior
from causalvae_pyro.scm import LinearSCM
from causalvae_pyro.training import Callback
from causalvae_pyro.training.batches import TensorBatches, make_batches, parts_of

GROUPS = torch.tensor([7, 3, 3, 7, 9, 3, 3, 7, 3, 12, 12])
IMAGES = torch.rand(11, 1, 4, 4, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(11.0).unsqueeze(1)


def batches(size: int = 2, batch_size: int = 4, part: tuple[int, int] = (0, 1)) -> TensorBatches:
    made = make_batches((IMAGES, LABELS), batch_size, 1, torch.device("cpu"), None, part, groups=GROUPS, group_size=size)
    assert isinstance(made, TensorBatches)
    return made


def epoch(made: TensorBatches, generator: torch.Generator) -> list[torch.Tensor]:
    return [labels[:, 0].long() for _, labels, _ in made(generator)]


@pytest.mark.parametrize("size", [2, 3])
def test_consecutive_rows_are_of_one_group(size):
    made, generator, seen, leads = batches(size, 2 * size), torch.Generator().manual_seed(0), set(), set()
    for _ in range(40):
        shown = epoch(made, generator)
        assert len(shown) == len(made)
        rows = torch.cat(shown)
        # Of 3, 5, 1 and 2 images; none twice.
        assert len(rows) == made.count == {2: 8, 3: 6}[size] == len(rows.unique())
        sets = GROUPS[rows].view(-1, size)
        assert (sets == sets[:, :1]).all()
        seen |= set(rows.tolist())
        leads.add(int(sets[0, 0]))
    # Who is left out changes, and so does the order of the sets.
    assert seen == set(range(11)) - ({4} if size == 2 else {4, 9, 10})
    assert len(leads) > 1


def test_processes_share_a_batch_by_whole_sets():
    whole = epoch(batches(), torch.Generator().manual_seed(1))
    parts = [epoch(batches(part=(rank, 2)), torch.Generator().manual_seed(1)) for rank in (0, 1)]
    for index, rows in enumerate(whole):
        assert torch.equal(torch.cat([part[index] for part in parts]), rows)
        assert all(len(part[index]) % 2 == 0 for part in parts)


def test_parts_of_a_batch_are_whole_sets():
    parts = parts_of(IMAGES[:6], LABELS[:6], 2, 2)
    assert [len(x) for x, _ in parts] == [4, 2]
    assert torch.equal(torch.cat([labels for _, labels in parts]), LABELS[:6])
    assert len(parts_of(IMAGES[:4], None, 8, 2)) == 2


def pair() -> tuple[CausalVAE, AmortizedGuide]:
    torch.manual_seed(0)
    scm, shape = LinearSCM({"light": [], "size": ["light"]}, 1), (1, 4, 4)
    model = CausalVAE(scm, FixedPrior(2, 1), MLPDecoder(shape, 2, 1, noise_dim=3), GaussianLikelihood(0.1), noise_dim=3)
    return model, AmortizedGuide(MLPEncoder(shape), scm, noise_dim=3)


def train(**options) -> list[torch.Tensor]:
    model, guide = pair()
    labels = torch.cat([LABELS, LABELS.flip(0)], 1) / 11
    options = {"groups": GROUPS, "objective": CausalELBO(terms=[LabelFit(), GroupSwap()]), "epochs": 2, "batch_size": 4} | options
    fit(model, guide, options.pop("data", (IMAGES, labels)), progress=False, device="cpu", **options)
    return [p.detach().clone() for p in (*model.parameters(), *guide.parameters())]


def test_a_training_with_groups_resumes_where_it_stopped(tmp_path):
    class Stop(Callback):
        def on_epoch_end(self, state):
            if state.history.rows[-1]["epoch"] == 1:
                raise KeyboardInterrupt

    whole = train()
    with pytest.raises(KeyboardInterrupt):
        train(callbacks=[Stop()], checkpoint=tmp_path)
    for got, expected in zip(train(checkpoint=tmp_path, resume=True), whole, strict=True):
        assert torch.equal(got, expected)


def test_groups_change_what_is_learned():
    other = GROUPS[torch.randperm(11, generator=torch.Generator().manual_seed(0))]
    assert any(not torch.equal(a, b) for a, b in zip(train(), train(groups=other), strict=True))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"groups": None}, r"groups: got None; the objective's GroupSwap takes the group of each image"),
        ({"groups": GROUPS[:5]}, r"groups: got torch.int64 of shape \[5\]; expected whole numbers of shape \[11\]"),
        ({"groups": GROUPS.float()}, r"groups: got torch.float32"),
        ({"groups": GROUPS.tolist()}, r"groups: got list"),
        ({"groups": torch.arange(11)}, r"groups: none has 2 images"),
        ({"batch_size": 5}, r"batch_size: got 5; with groups of 2 it must be a multiple of 2"),
        ({"labelled_repeats": 2}, r"labelled_repeats: got 2; with groups it must be 1"),
        ({"validation": (IMAGES, LABELS)}, r"validation: its images have no groups"),
        ({"data": list(zip(IMAGES, LABELS, strict=True))}, r"groups: they are for tensors and simulators only"),
        ({"objective": CausalELBO(terms=[GroupSwap(), type("Triples", (GroupSwap,), {})(3)])}, r"different group_size"),
    ],
)
def test_what_cannot_be_grouped_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        train(**options)
