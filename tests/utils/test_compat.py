"""The private parts of other libraries in ``utils/compat.py`` are there and mean what they meant."""

import re
from pathlib import Path

import pyro
import pyro.distributions as dist
import pyro.poutine as poutine
import pytest
import torch
from pyro.infer import Trace_ELBO
from pyro.nn import PyroModule, PyroParam, PyroSample
from torch import nn

import causalvae_pyro
from causalvae_pyro.utils import compat


def test_accelerates_state_is_left_as_it_was():
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState, GradientState, PartialState

    with compat.accelerate_state(several=False) as theirs:
        assert not theirs
        Accelerator(cpu=True, gradient_accumulation_steps=3)
        with compat.accelerate_state(several=False) as inner:
            assert inner
        assert AcceleratorState().initialized
        assert GradientState().num_steps == 3
    with compat.accelerate_state(several=False) as theirs:
        assert not theirs
    # Fresh ones know nothing of the one that was.
    assert GradientState().num_steps == 1
    with compat.accelerate_state(several=True):
        Accelerator(cpu=True)
    assert PartialState().initialized
    with pytest.raises(ValueError, match="Please make sure to properly initialize"):
        AcceleratorState().mixed_precision  # noqa: B018
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


def test_a_compiled_network_is_its_own_again(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda call, **_: lambda x: call(x) + 1)
    network = nn.Linear(2, 2)
    x = torch.ones(1, 2)
    plain = network(x)
    with compat.compiled_calls(network):
        assert torch.equal(network(x), plain + 1)
    assert torch.equal(network(x), plain)


def test_every_change_in_place_is_another_version():
    tensor = torch.zeros(2)
    versions = [compat.version_of(tensor)]
    for change in (lambda: tensor.add_(1), lambda: tensor.data.copy_(torch.ones(2)), lambda: tensor.view(2).mul_(2)):
        with torch.no_grad():
            change()
        versions.append(compat.version_of(tensor))
    assert versions == sorted(versions)
    # A change through .data is the one that torch does not count.
    assert len(set(versions)) == 3
    parameter = nn.Parameter(torch.zeros(2))
    parameter.grad = torch.ones(2)
    before = compat.version_of(parameter)
    torch.optim.Adam([parameter]).step()
    assert compat.version_of(parameter) > before


def test_the_mask_is_the_one_that_was_given():
    mask = torch.tensor([True, False])
    assert torch.equal(compat.mask_of(dist.Normal(torch.zeros(2), 1.0).mask(mask)), mask)
    assert compat.mask_of(dist.Normal(0.0, 1.0).mask(False)) is False


class Leaf(PyroModule):
    def __init__(self):
        super().__init__()
        self.weight = PyroParam(torch.tensor(2.0))
        self.noise = PyroSample(dist.Normal(0.0, 1.0))
        self.plain = nn.Parameter(torch.tensor(1.0))

    def forward(self):
        return self.weight * self.plain


def test_a_module_gets_a_place_for_its_parameters():
    module = PyroModule()
    module.leaf = Leaf()
    pyro.clear_param_store()
    with pyro.settings.context(module_local_params=True):
        with pytest.raises(AttributeError):
            module.leaf()
        compat.ensure_local_params(module)
        assert module.leaf().item() == 2
    assert not len(pyro.get_param_store())
    assert [compat.is_pyro_attribute(module.leaf, name) for name in ("weight", "noise", "plain", "other")] == [
        True,
        True,
        False,
        False,
    ]


def test_sites_of_do_and_deterministic_are_known():
    seen = []

    class Look(poutine.messenger.Messenger):
        def _pyro_sample(self, msg):
            seen.append((msg["name"], compat.is_replaced_by_do(msg), compat.is_deterministic(msg)))

    def model():
        pyro.sample("a", dist.Normal(0.0, 1.0))
        pyro.deterministic("b", torch.tensor(1.0))
        delta = dist.Delta(torch.tensor(1.0)).mask(False)
        pyro.sample("c", delta, obs=torch.tensor(1.0), infer=compat.deterministic_infer(more=1))

    with poutine.trace() as tracer, Look():
        poutine.do(model, {"a": torch.tensor(3.0)})()
    sites = dict(tracer.trace.nodes.items())
    assert [compat.is_deterministic(sites[name]) for name in "abc"] == [False, True, True]
    assert sites["c"]["infer"]["more"] == 1
    # The natural value's site is another, without the mark.
    assert ("a", True, False) in seen
    assert not [name for name, replaced, _ in seen if name != "a" and replaced]


def test_traces_of_an_elbo_come_from_get_trace():
    # CausalELBO overrides the one and calls the other.
    calls = []

    class Objective(Trace_ELBO):
        def _get_trace(self, model, guide, args, kwargs):
            calls.append((args, kwargs))
            return super()._get_trace(model, guide, args, kwargs)

    traces = list(Objective(num_particles=2)._get_traces(lambda x, y: None, lambda x, y: None, (1,), {"y": 2}))
    assert calls == [((1,), {"y": 2})] * 2
    assert all(len(pair) == 2 for pair in traces)


def test_what_condition_sets_is_known_inside_it():
    seen = {}

    def program():
        pyro.sample("a", dist.Normal(0.0, 1.0))
        seen.update({name: compat.is_conditioned(name) for name in "ab"})

    poutine.condition(program, {"a": torch.tensor(1.0)})()
    assert seen == {"a": True, "b": False}
    poutine.do(program, {"a": torch.tensor(1.0)})()
    assert seen == {"a": False, "b": False}


def test_a_compiled_network_knows_what_it_was():
    network = nn.Linear(2, 2)
    compiled = torch.compile(network, backend="eager")
    assert compiled is not network
    assert compat.uncompiled(compiled) is compat.uncompiled(network) is network
    assert [compat.uncompiled_name(name) for name in nn.Sequential(compiled).state_dict()] == ["0.weight", "0.bias"]


def test_all_kinds_of_batch_normalisation_are_one():
    assert all(isinstance(kind(2), compat.BatchNorm) for kind in (nn.BatchNorm1d, nn.BatchNorm2d, nn.SyncBatchNorm))
    assert not isinstance(nn.GroupNorm(1, 2), compat.BatchNorm)


# A private name after a module, class or instance of another library.
PRIVATE = re.compile(
    r"\._(shared_state|reset_state|compiled_call_impl|version|mask|pyro_context|foreach\w*|modules|parameters|buffers)\b"
    r"|[\"']_(intervener_id|deterministic|pyro_params|pyro_samples|modules)[\"']"
    r"|^\s*from (?!causalvae_pyro)\S+ import .*\b_\w+",
    re.MULTILINE,
)


@pytest.mark.skipif(not Path("/proc/cpuinfo").exists(), reason="the processor's flags are not in /proc/cpuinfo")
def test_a_processor_says_whether_it_has_half_precision():
    assert compat.has_bf16(torch.device("cpu")) == ("avx512_bf16" in Path("/proc/cpuinfo").read_text())
    assert not compat.has_bf16(torch.device("meta"))


def test_no_other_file_uses_them():
    package = Path(causalvae_pyro.__file__).parent
    found = {path.relative_to(package).as_posix() for path in package.rglob("*.py") if PRIVATE.search(path.read_text())}
    assert found == {"utils/compat.py"}
