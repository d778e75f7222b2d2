"""The variables of this process as they are, for what must not wait until the settings' models are loaded."""

import os
from collections.abc import Mapping


def environment() -> Mapping[str, str]:
    """Every variable: for the journal, which must know each secret among them, and for what is said before settings."""
    return os.environ
