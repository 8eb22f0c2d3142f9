"""What was proven of a folder, and how it is shown."""

from collections.abc import Iterable
from dataclasses import dataclass

from ..common.text import printable


@dataclass(frozen=True)
class Check:
    """One thing that was proven of a folder, or not; `detail` says what was looked at, or what is wrong.

    What could not be looked at has not passed: its detail begins with "not run".
    """

    name: str
    passed: bool
    detail: str

    def __str__(self) -> str:
        """One line; nothing in it can steer a terminal, though file names and labels are other people's."""
        return f"{'PASS' if self.passed else 'FAIL'}  {self.name:<34}  {printable(self.detail)}"


def show(checks: Iterable[Check]) -> bool:
    """Prints each check as it comes, then their count; returns whether all have passed (and there were some)."""
    results = []
    for check in checks:
        print(check, flush=True)
        results.append(check.passed)
    print(f"{sum(results)} of {len(results)} checks passed")
    return bool(results) and all(results)
