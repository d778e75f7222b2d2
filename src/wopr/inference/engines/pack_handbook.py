"""Make the vectors that are packaged with the handbook's pages: `python -m wopr.inference.engines.pack_handbook`.

To be run after each change of the pages; a test compares. Without it every first start would spend seconds on it.
"""

import tempfile
from pathlib import Path

from wopr.inference.engines.handbook import CONTEXT_TOKENS
from wopr.inference.engines.llama import Embedder
from wopr.inference.engines.minilm import ensure_minilm
from wopr.inference.engines.pages import PAGES_FOLDER, VECTORS_FILE, fingerprint, read_handbook, wordings_of
from wopr.inference.engines.vectors import pack


def main() -> None:
    """Write the file into this source tree."""
    texts = wordings_of(read_handbook())
    with tempfile.TemporaryDirectory() as folder:
        embedder = Embedder(ensure_minilm(Path(folder)), context_tokens=CONTEXT_TOKENS)
        vectors = [vector for text in texts for vector in embedder.embed([text]).vectors]
        data = pack(fingerprint(texts, embedder.name), vectors)
    (Path(__file__).parent / PAGES_FOLDER / VECTORS_FILE).write_bytes(data)


if __name__ == "__main__":
    main()
