"""A random llama model of half a megabyte: nonsense, but through the real path of llama.cpp."""

from pathlib import Path

import gguf
import numpy as np

WIDTH, LAYERS, HEADS, FEED = 64, 2, 4, 128
LETTERS = "▁ etaoinshrdlucmfwypvbgkqjxz.,ETAOINSHRDLUCMFWYPVBGKQJXZ0123456789"


def write_tiny_model(path: Path) -> Path:
    """Write the model and return its path; the same bytes each time."""
    writer = gguf.GGUFWriter(str(path), "llama")
    tokens = _describe(writer)
    _tensors(writer, tokens)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _describe(writer: gguf.GGUFWriter) -> int:
    kind = gguf.TokenType
    tokens = [b"<unk>", b"<s>", b"</s>", *(b"<0x%02X>" % byte for byte in range(256)), *(c.encode() for c in LETTERS)]
    types = [kind.UNKNOWN, kind.CONTROL, kind.CONTROL, *[kind.BYTE] * 256, *[kind.NORMAL] * len(LETTERS)]
    writer.add_name("tiny")
    writer.add_context_length(2048)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(FEED)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_vocab_size(len(tokens))
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    writer.add_token_scores([-float(i) for i in range(len(tokens))])
    writer.add_token_types(types)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_chat_template("{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}assistant:")
    return len(tokens)


def _tensors(writer: gguf.GGUFWriter, tokens: int) -> None:
    random = np.random.default_rng(0)

    def matrix(*shape: int) -> np.ndarray:
        return (random.standard_normal(shape) * 0.08).astype(np.float32)

    writer.add_tensor("token_embd.weight", matrix(tokens, WIDTH))
    for layer in range(LAYERS):
        block = f"blk.{layer}"
        for norm in ("attn_norm", "ffn_norm"):
            writer.add_tensor(f"{block}.{norm}.weight", np.ones(WIDTH, np.float32))
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            writer.add_tensor(f"{block}.{name}.weight", matrix(WIDTH, WIDTH))
        writer.add_tensor(f"{block}.ffn_gate.weight", matrix(FEED, WIDTH))
        writer.add_tensor(f"{block}.ffn_up.weight", matrix(FEED, WIDTH))
        writer.add_tensor(f"{block}.ffn_down.weight", matrix(WIDTH, FEED))
    writer.add_tensor("output_norm.weight", np.ones(WIDTH, np.float32))
    head = matrix(tokens, WIDTH) * 4
    head[: 3 + 256] = 0  # control and byte tokens are never the likeliest, so the text stays valid UTF-8
    writer.add_tensor("output.weight", head)
