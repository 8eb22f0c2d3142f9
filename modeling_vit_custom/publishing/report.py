"""Results of checks on a folder, and how they are printed."""

from collections.abc import Iterable
from dataclasses import dataclass

from ..common.text import printable


@dataclass(frozen=True)
class Check:
    """Result of one check of a folder; `detail` says what was checked or what is wrong.

    A check that could not run has not passed; its detail begins with "not run".
    """

    name: str
    passed: bool
    detail: str

    def __str__(self) -> str:
        """Return one line without terminal control characters: file names and labels are written by others."""
        return f"{'PASS' if self.passed else 'FAIL'}  {self.name:<34}  {printable(self.detail)}"


def show(checks: Iterable[Check]) -> list[Check]:
    """Print each check as it comes, then their count; return them."""
    results = []
    for check in checks:
        print(check, flush=True)
        results.append(check)
    print(f"{sum(check.passed for check in results)} of {len(results)} checks passed")
    return results
