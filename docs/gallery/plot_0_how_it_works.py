"""
How it works
============

The way from an image to its counterfactual, on the trained model that comes with the package: the guide reads the noise behind each concept off the image, an intervention
replaces one mechanism, the causal layer computes what follows, and the decoder draws it.
"""

import torch
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from causalvae_pyro import abduct, counterfactual, encode, load
from causalvae_pyro.datasets import Pendulum
from causalvae_pyro.plots.style import BLUE, GREY, MIN_FONT, ORANGE, WIDTH, figure_style, readable

INDEX = 700
LIGHT = 4.0  # where the light is put

run, test = load("pendulum"), Pendulum("test", size=64)
x, labels = test.images[[INDEX]], test.labels[[INDEX]]
names, do = run.graph.names, {"light": LIGHT}
moved = run.graph.descendants("light")

# %%
# The numbers of the picture, one line of Python for each of its arrows.

eps = abduct(run.guide, x)["eps"][0, :, 0]  # abduction: the noise of each concept
before = run.model.prior.to_labels(encode(run.model, run.guide, x))[0]  # z = f(eps), in label units
image, z = counterfactual(run.model, run.guide, x, do, return_latents=True)  # action and prediction
after = run.model.prior.to_labels(z)[0]
_, true = test.counterfactual(labels, do)


@figure_style()
def draw() -> Figure:
    """Boxes and arrows in inches, images among them."""
    figure = Figure(figsize=(WIDTH, 3.05))
    paper = figure.add_axes((0, 0, 1, 1))
    paper.set(xlim=(0, WIDTH), ylim=(0, 3.05))
    paper.set_axis_off()
    rows = [2.3, 1.72, 1.14, 0.56]

    def picture(image, left, bottom, title, colour=GREY):
        axes = figure.add_axes((left / WIDTH, bottom / 3.05, 1.05 / WIDTH, 1.05 / 3.05))
        axes.imshow(image.clamp(0, 1).movedim(0, -1).numpy())
        axes.set(xticks=[], yticks=[])
        axes.set_title(title, fontsize=MIN_FONT, pad=3)
        for side in axes.spines.values():
            side.set(color=colour, linewidth=1.2 if colour != GREY else 0.6)

    def box(text, left, middle, width, colour, height=0.42):
        shape = FancyBboxPatch(
            (left, middle - height / 2),
            width,
            height,
            boxstyle="round,pad=0,rounding_size=0.05",
            edgecolor=colour,
            facecolor="white",
        )
        shape.set_linewidth(1.6 if colour != GREY else 0.7)
        paper.add_patch(shape)
        paper.text(left + width / 2, middle, text, ha="center", va="center", fontsize=MIN_FONT)

    def arrow(start, end, colour=GREY, dashed=False):
        style = {"arrowstyle": "-|>", "mutation_scale": 8, "color": colour, "linewidth": 1.1, "shrinkA": 0, "shrinkB": 0}
        paper.add_patch(FancyArrowPatch(start, end, linestyle=":" if dashed else "-", **style))

    heads = ((0.6, "image x"), (2.05, "abduction"), (4.12, "action"), (6.2, "prediction"))
    for place, title in heads:
        paper.text(place, 2.86, title, ha="center", va="center", weight="bold")
    for place, title in ((1.36, "guide\nq(eps | x)"), (2.98, "causal layer\nz = f(eps)"), (5.33, "decoder\np(x | z)")):
        paper.text(place, 0.14, title, ha="center", va="center", fontsize=MIN_FONT, color=GREY)
    picture(x[0] / 255, 0.08, 0.9, f"test image {INDEX}")
    for i, (name, row) in enumerate(zip(names, rows, strict=True)):
        cut = name in do
        colour = ORANGE if cut else BLUE if name in moved else GREY
        arrow((1.18, 1.43), (1.58, row))
        box(f"{readable(name)}\nnoise {eps[i]:+.2f}", 1.6, row, 1.0, GREY)
        # The mechanism of what is set has no say any more.
        arrow((2.62, row), (3.33, row), GREY, dashed=cut)
        value = f"do({readable(name)} = {LIGHT:g})" if cut else f"{readable(name)}: {after[i]:.2f}"
        box(f"{value}\nwas {before[i]:.2f} {test.units[i]}", 3.35, row, 1.4, colour)
        arrow((4.77, row), (5.62, 1.55))
    # Effects follow their causes.
    for cause, effect in run.graph.edges:
        start, end = (rows[names.index(name)] for name in (cause, effect))
        carries = cause in do
        side = 3.35 if not carries else 4.75
        bend = 0.42 if not carries else -0.42
        paper.add_patch(
            FancyArrowPatch(
                (side, start),
                (side, end),
                connectionstyle=f"arc3,rad={bend}",
                arrowstyle="-|>",
                mutation_scale=7,
                color=BLUE if carries else GREY,
                linewidth=1.3 if carries else 0.8,
                shrinkA=0,
                shrinkB=0,
            )
        )
    picture(image[0], 5.68, 1.55, "the model's counterfactual", ORANGE)
    picture(true[0], 5.68, 0.12, "the true one")
    return figure


figure = draw()

# %%
# What is orange is set: its noise and its causes have no say any more. What is blue follows, by its own mechanism and with its own noise: the shadow. The pendulum is no effect
# of the light and stays as it is, to the bit. The lines above do the same in Pyro's own words: ``poutine.do`` is the action, ``poutine.condition`` keeps the noise
# (:doc:`/concepts`, :doc:`/model`).

print({name: (round(b.item(), 2), round(a.item(), 2)) for name, b, a in zip(names, before, after, strict=True)})
assert torch.equal(before[names.index("pendulum")], after[names.index("pendulum")])
