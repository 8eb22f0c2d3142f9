"""ViT Custom: a Hugging Face-compatible Vision Transformer."""

from ._version import __version__

__all__ = ["__version__"]
