"""Imports the slowest modules with garbage collection off: there is no garbage yet, and the search takes 0.4 s."""

import gc
import time

BEGAN = time.monotonic()  # about when the process began: a command imports this file first
_collecting = gc.isenabled()
gc.disable()
try:
    import transformers.image_processing_utils
    import transformers.modeling_utils  # noqa: F401
finally:
    if _collecting:
        gc.enable()
