"""Progress bars of other libraries."""

from collections.abc import Iterator
from contextlib import contextmanager

from transformers.utils.logging import disable_progress_bar, enable_progress_bar, is_progress_bar_enabled


@contextmanager
def bars_of_others(shown: bool) -> Iterator[None]:
    """Suppress transformers' own progress bars, of each save and load, inside the `with` block unless `shown`."""
    bars = is_progress_bar_enabled()
    if not shown:
        disable_progress_bar()
    try:
        yield
    finally:
        if bars and not shown:
            enable_progress_bar()
