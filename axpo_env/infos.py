"""Values of `info` that Gymnasium's vector environments keep whole."""

from collections import UserDict
from typing import Any


class Record(UserDict[str, Any]):
    """Reads and compares like a dict, but is none.

    Vector environments take dicts in `info` apart, and raise where one environment has a dict and another has
    None. A `Record` or None in every environment becomes an array of them. `dict(record)` is a plain one.
    """
