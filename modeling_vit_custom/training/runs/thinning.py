"""What a run that has ended keeps of its checkpoints (`--keep_checkpoints`)."""

from pathlib import Path

from ..checkpointing.checkpoints import checkpoint_defect, discard, drop_state, numbered, size_of


def thin_checkpoints(run: Path, keep: str, best: int | None) -> str | None:
    """Remove what is no longer needed of the checkpoints of a run that has ended; return a sentence on it.

    keep: "all": everything stays. "last": the newest stays whole, from which a longer run goes on; of the best, which
    that run compares with, the model. "none": no checkpoint stays.   best: the step of the best, if one was sought.
    Returns None if nothing was removed. A folder that cannot be changed stays as it is.
    """
    found = numbered(run)
    if keep == "all" or not found:
        return None
    last = found[max(found)]
    if keep == "last" and checkpoint_defect(last) is not None:  # another one may then be the one to go on from
        return None
    removed = 0
    try:
        for step, folder in found.items():
            if keep == "last" and step == best and folder != last:
                removed += drop_state(folder)
            elif keep == "none" or folder != last:
                removed += size_of(folder)
                discard(folder)
    except OSError as error:
        return f"checkpoints could not all be removed ({error.strerror}): {run} still holds them"
    if not removed:
        return None
    if keep == "none":
        why = "--keep_checkpoints last keeps the one from which a longer run continues"
    else:
        model = f", checkpoint-{best} has the best model" if best in found and found[best] != last else ""
        why = f"a longer run goes on from {last.name}{model} (--keep_checkpoints all keeps everything, none nothing)"
    return f"removed {_megabytes(removed)} of checkpoints; {why}"


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"
