"""`explain` and its result, as the package has them."""

from ..explanation.explain import Explanation, explain

__all__ = ["Explanation", "explain"]
