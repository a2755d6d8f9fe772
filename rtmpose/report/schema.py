"""The JSON Schema of ``summary.json``."""

import functools
import json
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import best_match

from rtmpose.errors import KitError

SCHEMA_FILE = Path(__file__).with_name("summary.schema.json")


@functools.cache
def _validator() -> Draft202012Validator:
    return Draft202012Validator(json.loads(SCHEMA_FILE.read_text(encoding="utf-8")))


def check_summary(summary: Any, name: str) -> None:
    """Raise KitError unless a summary follows the schema; ``name`` says where it is from."""
    error = best_match(_validator().iter_errors(summary))
    if error is not None:
        where = ".".join(map(str, error.absolute_path)) or "the summary"
        raise KitError(f"{name}: {where}: {error.message:.200}; expected a summary.json as this version of the "
                       "kit writes it; measure it again")
