"""Errors that a user can fix: the message names the field, the value and the fix."""


class DataError(ValueError):
    """The data cannot be used as it is; the message names what is wrong and how to fix it."""


class UsageError(ValueError):
    """Flags that do not go together; the message names them and the fix."""
