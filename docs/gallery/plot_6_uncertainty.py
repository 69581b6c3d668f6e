"""
How sure is a counterfactual?
=============================

The guide is a distribution, ``q(eps | x)``. Samples of it are versions of the noise behind an image, and each of them has its own counterfactual. Their spread is what
the *guide* leaves open; what another training would have answered is not in it. This page looks at both.
"""

import torch

from causalvae_pyro import counterfactual, fit
from causalvae_pyro.datasets import Pendulum
from causalvae_pyro.plots import plot_comparison
from causalvae_pyro.plots.style import BLUE, GREY, MIN_FONT, ORANGE, axis_label, do_label, figure_style, subplots, units_of
from causalvae_pyro.recipes import Recipe

IMAGES, EPOCHS, TRAININGS = 640, 8, 3

train, test = (Pendulum(split, size=32) for split in ("train", "test"))
chosen = torch.randperm(len(train), generator=torch.Generator().manual_seed(0))[:IMAGES]
images, labels = train.images[chosen], train.labels[chosen]
recipe, runs = Recipe(), []
for seed in range(TRAININGS):
    torch.manual_seed(seed)
    run = recipe.build(train.graph, images, labels)
    objective = recipe.objective(run)
    fit(
        run.model,
        run.guide,
        (images, labels),
        objective=objective,
        epochs=EPOCHS,
        lr=4e-3,
        seed=seed,
        progress=False,
        device="cpu",
    )
    runs.append(run)

# %%
# Forty posterior samples of ``do(light = 12)`` from the first training: their mean, and their standard deviation at each pixel, black where it is largest. The guide is unsure where the edges of
# things lie. That the pictures are blurred and the light is of the wrong shape, as after so short a training they are, does not show in the spread.

rows = torch.arange(8) * len(test) // 8
x, u = test.images[rows], test.labels[rows]
do = {"light": 12.0}
samples, _ = counterfactual(runs[0].model, runs[0].guide, x, do, num_samples=40, return_latents=True)
spread = samples.std(0).mean(1, keepdim=True).expand_as(x)
true = test.counterfactual(u, do)[1]
print(f"largest spread: {spread.max():.3f} of the range from black to white")
what = do_label(do, units_of(test))
pictures = plot_comparison(
    [
        ("factual", x),
        (f"{what}\nmean of 40", samples.mean(0)),
        ("spread of 40", 1 - spread / spread.max()),
        (f"{what}\ntrue", true),
    ]
)

# %%
# Is the spread as large as the error? The shadow's position after the intervention, in 100 test images: the error of the posterior mean against twice the posterior's standard
# deviation. Points above the line are further off than they claim. The spread between trainings, in the right panel, is the better guide to the error.

many = torch.arange(0, len(test), len(test) // 100)[:100]
x, u = test.images[many], test.labels[many]
position = test.graph.index("shadow_position")
truth = test.counterfactual(u, do)[0][:, position]
read = []
for run in runs:
    _, z = counterfactual(run.model, run.guide, x, do, num_samples=40, return_latents=True)
    read.append(run.model.prior.to_labels(z)[..., position])
answers = torch.stack(read)  # [trainings, samples, images]
means = answers.mean(1)
widths = {
    "2 sd of the guide's samples": (2 * answers[0].std(0), (means[0] - truth).abs(), BLUE, "o"),
    "2 sd between trainings": (2 * means.std(0), (means.mean(0) - truth).abs(), ORANGE, "s"),
}
unit = test.units[position]
with figure_style():
    figure, grid = subplots(1, 2, height=3.0, sharex=True, sharey=True)
    for axes, (title, (width, error, colour, marker)) in zip(grid[0], widths.items(), strict=True):
        axes.loglog(width.tolist(), error.tolist(), linestyle="", color=colour, marker=marker, markersize=3.5, alpha=0.7)
        ends = [1e-3, 3]
        axes.plot(ends, ends, color=GREY, linestyle="-", marker="", linewidth=0.8)
        inside = (error <= width).float().mean().item()
        axes.set_title(f"{inside:.0%} of the errors are smaller")
        axes.set_xlabel(axis_label(f"{title}, shadow position", unit), fontsize=MIN_FONT)
        axes.set_ylabel(axis_label("error of the shadow position", unit))
        axes.grid(alpha=0.3)
        print(f"{title}: {inside:.0%} of the true values lie within")

# %%
# A width of about 0.005 label standard deviations is what the prior asks of the guide, and says how exact the *labels* are, not how well the network reads. For an interval that covers, train
# several times, as the tables of :doc:`/results` do.
