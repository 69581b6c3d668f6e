"""
A first counterfactual
======================

A pendulum, a light, and the shadow that they cast. Train the default model on some of the scenes, and ask what one of them would have looked like, had the light
been elsewhere, or the shadow.
"""

import torch

from causalvae_pyro import counterfactual, fit
from causalvae_pyro.datasets import Pendulum
from causalvae_pyro.metrics import cf_score
from causalvae_pyro.plots import plot_comparison, plot_counterfactuals, plot_graph, plot_scores
from causalvae_pyro.recipes import Recipe

IMAGES, EPOCHS = 900, 8

train, test = (Pendulum(split, size=48) for split in ("train", "test"))
chosen = torch.randperm(len(train), generator=torch.Generator().manual_seed(0))[:IMAGES]
images, labels = train.images[chosen], train.labels[chosen]
graph_figure = plot_graph(train.graph)

# %%
# The model: mechanisms with noise, a prior that ties each concept to its label, and layers ("sprites") that the concepts move. About
# 120 steps here; ``make pendulum`` takes 1,100 of them, at 64 pixels and on all scenes.

torch.manual_seed(0)
recipe = Recipe(decoder="sprites")
run = recipe.build(train.graph, images, labels)
history = fit(
    run.model, run.guide, (images, labels), objective=recipe.objective(run), epochs=EPOCHS, lr=4e-3, progress=False, device="cpu"
)
print(f"loss per image: {history['loss'][0]:.0f} in the first epoch, {history['loss'][-1]:.0f} in the last")

# %%
# Eight test images, each with the light of another one. The model sees the factual image and the new position of the light, and nothing else.

rows = torch.arange(8) * len(test) // 8
x, u = test.images[rows], test.labels[rows]
light = test.graph.index("light")
do = {"light": u[:, light].roll(3)}
answer = counterfactual(run.model, run.guide, x, do)
_, true = test.counterfactual(u, do)
pictures = plot_comparison([("factual", x), ("counterfactual", answer), ("true", true)])

# %%
# Every concept over its range, on one image. Values are in label units: radians for the pendulum, the drawing's coordinates for the rest. Interventions on the shadow's concepts, which are effects,
# ask for scenes that the training has never shown: the shadow where no light puts it.

sweeps = plot_counterfactuals(run, test, index=700)

# %%
# How good is it? The CF-score is 1 for the true image, 0 for leaving the image alone, negative for worse than that. The ceiling is what the reconstruction's own error would
# allow: where the score is as high, what is missing is sharper drawing, not better causes. :doc:`/counterfactuals` has the scores of full trainings, 0.98 and more.

generator = torch.Generator().manual_seed(0)
many = torch.randperm(len(test), generator=generator)[:200]
x, u = test.images[many].float() / 255, test.labels[many]
again = counterfactual(run.model, run.guide, x, {})
scores, ceiling = {}, {}
for column, name in enumerate(test.concepts):
    do = {name: u[:, column].roll(1)}
    true = test.counterfactual(u, do)[1]
    scores[name] = cf_score(counterfactual(run.model, run.guide, x, do), true, x)
    ceiling[name] = cf_score(true + again - x, true, x)
    print(f"do({name}): CF-score {scores[name]:.3f}, ceiling {ceiling[name]:.3f}")
bars = plot_scores(scores, ceiling=ceiling)

# sphinx_gallery_thumbnail_number = 3
