"""
Soft interventions and their effects
====================================

A hard intervention sets a concept. A soft one changes it, or its mechanism, and lets it go on following its causes: the light two units further along,
half the swing, another rule for where the light hangs. How far does the shadow go with it?
"""

import torch

from causalvae_pyro import Replace, Scale, Shift, ate, counterfactual, fit
from causalvae_pyro.datasets import Pendulum
from causalvae_pyro.plots import plot_comparison
from causalvae_pyro.plots.style import BLUE, VERMILION, axis_label, figure_style, subplots
from causalvae_pyro.recipes import Recipe

IMAGES, EPOCHS = 900, 8

train, test = (Pendulum(split, size=32) for split in ("train", "test"))
chosen = torch.randperm(len(train), generator=torch.Generator().manual_seed(0))[:IMAGES]
images, labels = train.images[chosen], train.labels[chosen]
torch.manual_seed(0)
recipe = Recipe()  # convolutions: quick, and good enough for interventions on causes
run = recipe.build(train.graph, images, labels)
fit(run.model, run.guide, (images, labels), objective=recipe.objective(run), epochs=EPOCHS, lr=4e-3, progress=False, device="cpu")

# %%
# Interventions on the causes, and the simulator's answer to each below the model's. ``Replace`` keeps the light's noise, which is standard normal in the
# model and unknown to the simulator, so its row has no true one.

rows = torch.arange(8) * len(test) // 8
x, u = test.images[rows], test.labels[rows]
pendulum, light = (test.graph.index(name) for name in ("pendulum", "light"))
changes = {
    "light + 2 units": ({"light": Shift(2.0)}, {"light": u[:, light] + 2}),
    "pendulum x 0.5": ({"pendulum": Scale(0.5)}, {"pendulum": u[:, pendulum] / 2}),
    "|pendulum|": ({"pendulum": lambda natural, parents: natural.abs()}, {"pendulum": u[:, pendulum].abs()}),
    "light = 9 units + noise": ({"light": Replace(lambda parents, noise: 9 + noise)}, None),
}
panels = [("factual", x)]
for title, (change, truth) in changes.items():
    panels.append((title, counterfactual(run.model, run.guide, x, change)))
    if truth is not None:
        panels.append(("true", test.counterfactual(u, truth)[1]))
pictures = plot_comparison(panels)

# %%
# The average effect of moving the light, over test images, on both of the shadow's concepts. Bars are 95 % intervals over images; they know nothing of other training
# runs, and where the line leaves the true one by more than the bar, that is this short training's error.

many = torch.arange(0, len(test), 7)
x, u = test.images[many], test.labels[many]
shifts = torch.linspace(-3, 3, 7)
with figure_style():
    figure, grid = subplots(1, 2, height=2.8)
    for axes, outcome in zip(grid[0], ("shadow_length", "shadow_position"), strict=True):
        column = test.graph.index(outcome)
        effects = [ate(run.model, run.guide, x, {"light": Shift(shift.item())}, outcome=outcome) for shift in shifts]
        true = [(test.counterfactual(u, {"light": u[:, light] + shift})[0] - u)[:, column].mean() for shift in shifts]
        values = torch.tensor([effect.value for effect in effects])
        ends = torch.tensor([effect.interval for effect in effects]).T
        axes.errorbar(
            shifts.numpy(),
            values.numpy(),
            (ends - values).abs().numpy(),
            color=BLUE,
            linestyle="-",
            marker="o",
            label="model",
        )
        axes.plot(shifts.numpy(), torch.stack(true).numpy(), color=VERMILION, linestyle="--", marker="s", label="true")
        axes.set_xlabel(axis_label("shift of the light", test.units[light]))
        axes.set_ylabel(axis_label(f"mean change of {outcome}", test.units[column]))
        axes.grid(alpha=0.3)
        print(f"{outcome}: largest error {(values - torch.stack(true)).abs().max():.3f} ({test.units[column]})")
    figure.axes[0].legend()
