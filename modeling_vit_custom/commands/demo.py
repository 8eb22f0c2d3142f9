"""`vit-custom demo`: a page in the browser to try a saved classifier on.

Its parser lies with the page: that file travels alone, as a Space's app.py.
"""

from ..serving.demo import build_parser, main

__all__ = ["build_parser", "main"]
