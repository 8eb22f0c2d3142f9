"""Imports what takes longest while Python does not look for garbage: there is none yet, and looking takes 0.4 s."""

import gc

_collecting = gc.isenabled()
gc.disable()
try:
    import transformers.image_processing_utils
    import transformers.modeling_utils  # noqa: F401
finally:
    if _collecting:
        gc.enable()
