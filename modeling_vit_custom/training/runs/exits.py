"""How the commands of training end: what stopped one is said in a sentence, and tells its exit code."""

import sys
from collections.abc import Callable

from ...common.errors import DataError, UsageError
from ...common.text import printable
from ...image_decoding_vit_custom import ImageDecodingError
from ...publishing.upload import PublishError
from ..checkpointing.checkpoints import CheckpointError


def exit_code(command: str, work: Callable[[], None]) -> int:
    """Of `work`: 0 done, 1 trained but not published, 2 unusable input, 3 could not go on."""
    try:
        work()
    except (DataError, UsageError, ImageDecodingError) as error:
        print(printable(f"{command}: {error}"), file=sys.stderr)
        return 2
    except (CheckpointError, FloatingPointError) as error:
        print(printable(f"{command}: {error}"), file=sys.stderr)
        return 3
    except PublishError as error:
        print(f"{command}: {error}", file=sys.stderr)
        return 1
    return 0
