"""ChiRho's counterfactual worlds on the unchanged model: every combination of interventions in one pass.

pip install -e ".[chirho]"
make pendulum
python examples/chirho_worlds.py --run runs/pendulum
"""

import argparse

import pyro.poutine as poutine
import torch
from chirho.counterfactual.handlers import MultiWorldCounterfactual, TwinWorldCounterfactual
from chirho.indexed.ops import IndexSet, gather
from chirho.interventional.handlers import do

from causalvae_pyro import abduct, counterfactual, load
from causalvae_pyro.datasets import Pendulum
from causalvae_pyro.plots import plot_comparison
from causalvae_pyro.plots.style import do_label, save_figure, units_of


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", default="runs/pendulum")
    parser.add_argument("--light", type=float, default=12.0, help="where the light would have been, from 0.9 to 17.3")
    parser.add_argument("--pendulum", type=float, default=0.3, help="the angle of the pendulum, from -0.63 to 0.67")
    parser.add_argument("--count", type=int, default=8)
    parser.add_argument("--out", default="chirho_worlds.png")
    args = parser.parse_args()

    run = load(args.run)
    data = Pendulum("test", size=run.config["data"]["size"])
    chosen = torch.arange(args.count) * len(data) // args.count  # spread over the grid of scenes
    x, labels = data.images[chosen], data.labels[chosen]

    # ChiRho's handlers work in units of z, as Pyro's do.
    wanted = {"pendulum": args.pendulum, "light": args.light}
    actions = run.model.latent(wanted)
    model = poutine.condition(run.model, data=abduct(run.guide, x))  # keep the noise: counterfactuals of these images

    # One world: the same as poutine.do.
    with torch.no_grad(), poutine.trace() as one:
        do(model, actions)(num_samples=len(x))
    ours = counterfactual(run.model, run.guide, x, do=wanted)
    print(f"do: differs from counterfactual() by at most {(one.trace.nodes['x_mean']['value'] - ours).abs().max().item():.1e}")

    # Every combination: each intervention adds a dimension to the left of the batch, 0 factual and 1 intervened.
    with torch.no_grad(), MultiWorldCounterfactual(first_available_dim=-2), poutine.trace() as many:
        do(model, actions)(num_samples=len(x))
        images = many.trace.nodes["x_mean"]["value"]
        print(f"MultiWorldCounterfactual: x_mean is {list(images.shape)}")
        rows = [("factual", x)]
        for pendulum, light in ((0, 0), (1, 0), (0, 1), (1, 1)):
            world = gather(images, IndexSet(pendulum={pendulum}, light={light}), event_dim=3)
            done = {name: wanted[name] for name, set_ in (("pendulum", pendulum), ("light", light)) if set_}
            rows.append((do_label(done, units_of(data)) if done else "reconstruction", world.reshape(x.shape)))
    save_figure(plot_comparison(rows), args.out)

    # Two worlds: nothing done, all of it done.
    with torch.no_grad(), TwinWorldCounterfactual(first_available_dim=-2), poutine.trace() as twins:
        do(model, actions)(num_samples=len(x))
    factual, both = run.model.prior.to_labels(twins.trace.nodes["z"]["value"])
    # Both worlds are the model's own: the simulator knows whether they are right.
    truth, true_images = data.counterfactual(labels, do=wanted)
    print(f"TwinWorldCounterfactual: shadow positions {factual[:3, 3].tolist()} become {both[:3, 3].tolist()}")
    error, moved = ((values[:, 3] - truth[:, 3]).abs().mean().item() for values in (both, labels))
    print(f"shadow position: mean error {error:.3f}; it moves by {moved:.3f}")
    error, alone = ((answer - true_images).square().mean().item() for answer in (ours, x / 255))
    print(f"mean squared error to the true images: {error:.5f}; of leaving the images alone: {alone:.5f}; wrote {args.out}")


if __name__ == "__main__":
    main()
