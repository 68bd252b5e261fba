"""A GGUF file with the geometry of gpt-oss-20b and random weights, for `cpu.py --gguf`.

    pip install gguf
    python benchmarks/cpu_gguf.py FILE

12 GB, of the types that the published files have: experts in MXFP4, attention, embedding and head
in Q8_0, the rest in float32. Products of the router are as spread as those of a trained one, so
that many experts are in use. There is no tokenizer in it; whoever loads it works with token ids.
"""

from __future__ import annotations

import argparse
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np

LAYERS, EXPERTS, CHOSEN = 24, 32, 4
HIDDEN, HEADS, KV_HEADS, HEAD_DIM = 2880, 64, 8, 64
VOCABULARY, CONTEXT = 201_088, 131_072
MXFP4, Q8_0 = gguf.GGMLQuantizationType.MXFP4, gguf.GGMLQuantizationType.Q8_0
F32 = gguf.GGMLQuantizationType.F32
BLOCK = 32  # values that share a scale, in both types
E8M0_CODES = (119, 121)  # 2^-8 and 2^-7, the second exclusive
SIGMA_OF_BYTE = 127 / np.sqrt(3)  # of a uniform signed byte


@dataclass(frozen=True)
class Entry:
    """One tensor of the file."""

    name: str
    shape: tuple[int, ...]
    kind: gguf.GGMLQuantizationType
    mean: float = 0.0

    @property
    def stored_shape(self) -> tuple[int, ...]:
        """In elements of the stored type: bytes, or floats."""
        if self.kind is F32:
            return self.shape
        return (*self.shape[:-1], self.shape[-1] // BLOCK * gguf.GGML_QUANT_SIZES[self.kind][1])

    def values(self) -> np.ndarray:
        """Random, with a seed from the name."""
        make = np.random.default_rng(zlib.crc32(self.name.encode()))
        if self.kind is F32:
            spread = self.shape[-1] ** -0.5 if len(self.shape) > 1 else 0.0
            noise = make.standard_normal(self.shape, dtype=np.float32)
            return noise * np.float32(spread) + np.float32(self.mean)
        rows, blocks = int(np.prod(self.shape[:-1])), self.shape[-1] // BLOCK
        size = gguf.GGML_QUANT_SIZES[self.kind][1]
        stored = np.frombuffer(make.bytes(rows * blocks * size), np.uint8)
        stored = stored.reshape(rows, blocks, size).copy()
        if self.kind is MXFP4:
            stored[..., 0] = make.integers(*E8M0_CODES, (rows, blocks), np.uint8)
        else:
            scale = np.float16(self.shape[-1] ** -0.5 / SIGMA_OF_BYTE)
            stored[..., :2] = np.frombuffer(scale.tobytes(), np.uint8)
        return stored.reshape(self.stored_shape)


def entries() -> Iterator[Entry]:
    """Every tensor, in the order in which they are stored."""
    attention, keys = HEADS * HEAD_DIM, KV_HEADS * HEAD_DIM
    yield Entry("token_embd.weight", (VOCABULARY, HIDDEN), Q8_0)
    for layer in range(LAYERS):
        at = f"blk.{layer}."
        yield Entry(f"{at}attn_norm.weight", (HIDDEN,), F32, 1.0)
        for name, rows in (("q", attention), ("k", keys), ("v", keys)):
            yield Entry(f"{at}attn_{name}.weight", (rows, HIDDEN), Q8_0)
            yield Entry(f"{at}attn_{name}.bias", (rows,), F32)
        yield Entry(f"{at}attn_output.weight", (HIDDEN, attention), Q8_0)
        yield Entry(f"{at}attn_output.bias", (HIDDEN,), F32)
        yield Entry(f"{at}attn_sinks.weight", (HEADS,), F32)
        yield Entry(f"{at}post_attention_norm.weight", (HIDDEN,), F32, 1.0)
        yield Entry(f"{at}ffn_gate_inp.weight", (EXPERTS, HIDDEN), F32)
        yield Entry(f"{at}ffn_gate_inp.bias", (EXPERTS,), F32)
        for name in ("gate", "up", "down"):
            yield Entry(f"{at}ffn_{name}_exps.weight", (EXPERTS, HIDDEN, HIDDEN), MXFP4)
            yield Entry(f"{at}ffn_{name}_exps.bias", (EXPERTS, HIDDEN), F32)
    yield Entry("output_norm.weight", (HIDDEN,), F32, 1.0)
    yield Entry("output.weight", (VOCABULARY, HIDDEN), Q8_0)


def write(path: Path) -> None:
    """Make the file, tensor by tensor."""
    writer = gguf.GGUFWriter(path, "gpt-oss")
    writer.add_block_count(LAYERS)
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(HIDDEN)
    writer.add_feed_forward_length(HIDDEN)
    writer.add_expert_feed_forward_length(HIDDEN)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_key_length(HEAD_DIM)
    writer.add_value_length(HEAD_DIM)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_sliding_window(128)
    writer.add_expert_count(EXPERTS)
    writer.add_expert_used_count(CHOSEN)
    writer.add_rope_freq_base(150_000.0)
    writer.add_rope_dimension_count(HEAD_DIM)
    writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
    writer.add_rope_scaling_factor(32.0)
    writer.add_rope_scaling_orig_ctx_len(4096)
    writer.add_vocab_size(VOCABULARY)
    writer.add_tokenizer_model("none")
    every = list(entries())
    for entry in every:
        item = np.dtype(np.float32 if entry.kind is F32 else np.uint8)
        size = int(np.prod(entry.stored_shape)) * item.itemsize
        writer.add_tensor_info(entry.name, entry.stored_shape, item, size, entry.kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for entry in every:
        writer.write_tensor_data(entry.values())
    writer.close()


def main() -> None:
    """Parse the command line and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("file", type=Path)
    write(parser.parse_args().file)


if __name__ == "__main__":
    main()
