"""Counterfactual images of a trained run, first with ``poutine.do`` spelled out, then in one line.

make pendulum
python examples/counterfactual_pendulum.py --run runs/pendulum --light 12
"""

import argparse

import pyro.poutine as poutine
import torch

from causalvae_pyro import counterfactual, load
from causalvae_pyro.datasets import Pendulum
from causalvae_pyro.plots import plot_comparison
from causalvae_pyro.plots.style import do_label, save_figure, units_of


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", default="runs/pendulum")
    parser.add_argument("--light", type=float, default=12.0, help="where the light would have been, from 0.9 to 17.3")
    parser.add_argument("--count", type=int, default=8)
    parser.add_argument("--out", default="counterfactual.png")
    args = parser.parse_args()

    run = load(args.run)
    data = Pendulum("test", size=run.config["data"]["size"])
    chosen = torch.arange(args.count) * len(data) // args.count  # spread over the grid of scenes
    x, labels = data.images[chosen], data.labels[chosen]

    with torch.no_grad():
        # Abduction: the exogenous noise behind each image.
        guide_trace = poutine.trace(run.guide).get_trace(x)
        eps = guide_trace.nodes["eps"]["value"]
        # Action: set the light. Pyro works in units of z; model.latent turns label units into them.
        intervened = poutine.do(run.model, data=run.model.latent({"light": args.light}))
        # Prediction: run the program with the noise held fixed. The shadow follows the light.
        trace = poutine.trace(poutine.condition(intervened, data={"eps": eps})).get_trace(num_samples=len(x))
        by_hand = trace.nodes["x_mean"]["value"]

    # The same with the posterior mean instead of one sample of eps, and with every value checked.
    images, z = counterfactual(run.model, run.guide, x, do={"light": args.light}, return_latents=True)

    true_labels, true = data.counterfactual(labels, do={"light": args.light})
    what = do_label({"light": args.light}, units_of(data))
    rows = [("factual", x), (f"{what}\npoutine.do", by_hand), (f"{what}\ncounterfactual()", images), (f"{what}\ntrue", true)]
    save_figure(plot_comparison(rows), args.out)
    # The light was set; its effects follow by what the model has learned.
    found = run.model.prior.to_labels(z)
    for name in ("light", *data.graph.descendants("light")):
        column = data.graph.index(name)
        factual, model, truth = (values[:3, column].tolist() for values in (labels, found, true_labels))
        for what, numbers in (("factual", factual), ("counterfactual", model), ("true counterfactual", truth)):
            print(f"{name}, {what}: {', '.join(f'{number:.2f}' for number in numbers)}")
    error, alone = ((answer - true).square().mean().item() for answer in (images, x / 255))
    print(f"mean squared error to the true counterfactual: {error:.5f}; of leaving the images alone: {alone:.5f}")
    print(f"wrote {args.out}")


if __name__ == "__main__":
    main()
