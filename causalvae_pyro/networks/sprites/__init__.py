"""Sprites: a decoder that composes the image from parts that move, and how its parts are found."""

from causalvae_pyro.networks.sprites.backdrop import BackdropDecoder
from causalvae_pyro.networks.sprites.decoder import SpriteDecoder
from causalvae_pyro.networks.sprites.scene import SceneDecoder

__all__ = ["BackdropDecoder", "SceneDecoder", "SpriteDecoder"]
