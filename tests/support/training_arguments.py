"""Writes docs/training_arguments.md from the table of fields: `python tests/support/training_arguments.py`."""

from pathlib import Path

from modeling_vit_custom.training.arguments.trainer_fields import FIELDS, NotRunHere, Refused

PAGE = Path(__file__).parents[2] / "docs" / "training_arguments.md"
HEAD = """# TrainingArguments
What each field of transformers' TrainingArguments does in `train` and `pretrain`. What works is observed in a training
by `tests/training/test_fields.py`; refused means an error that names the flag before any work is done; what the
machine of the tests lacks is handed on as it is. Written by `python tests/support/training_arguments.py`.

| field | here |
| - | - |
"""


def page() -> str:
    return HEAD + "".join(f"| `{name}` | {described(field)} |\n" for name, field in FIELDS.items())


def described(field) -> str:
    versions = f" ({field.versions})" if field.versions else ""
    if isinstance(field, Refused):
        return f"**refused**{versions}: {field.reason}; {field.fix}"
    if isinstance(field, NotRunHere):
        return f"not run here{versions}, needs {field.needs}: {field.effect}"
    return f"{field.effect}{versions}"


if __name__ == "__main__":
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(page(), encoding="utf-8")
