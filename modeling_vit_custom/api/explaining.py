"""`explain` and its result, as the package has them."""

from ..explanation.explain import explain
from ..explanation.result import Explanation

__all__ = ["Explanation", "explain"]
