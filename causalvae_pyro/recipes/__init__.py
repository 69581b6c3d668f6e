"""Default ways to put a model together for labelled images; what the command line and the main job use."""

from causalvae_pyro.recipes.choice import CANDIDATES, choose_recipe
from causalvae_pyro.recipes.growth import grow_scene, grow_sprites
from causalvae_pyro.recipes.mechanisms import fit_mechanisms
from causalvae_pyro.recipes.recipe import Recipe
from causalvae_pyro.recipes.schedule import usual_schedule

__all__ = ["CANDIDATES", "Recipe", "choose_recipe", "fit_mechanisms", "grow_scene", "grow_sprites", "usual_schedule"]
