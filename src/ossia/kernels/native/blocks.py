"""Halves of a transformer block in the native library, on torch tensors.

    pages = make_pages(batch.full, cos, sin)            # once a step
    x = attention_block(context, layer, pages, cache, x)
    x = mixture_block(context, mixture, x)

Structs of layers are made once; a call costs a few microseconds besides its work. What holds for
bits is said in operations.py; the operations of this file never depend on the batch.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ossia.kernels.native.library import Context, Matrix
from ossia.kernels.native.matrices import NativeMatrix
from ossia.model.batch import LayerCache, PagedBatch

_CACHE_TYPES = {torch.float32: 0, torch.bfloat16: 1}
MOST_GROUP = 64  # query heads of one key head
DIM_STEP = 16  # head_dim is a multiple


class CacheStruct(ctypes.Structure):
    """`ossia_cache` of ossia_cpu_blocks.h."""

    _fields_ = (
        ("keys", ctypes.c_void_p),
        ("values", ctypes.c_void_p),
        ("page_size", ctypes.c_int64),
        ("is_bf16", ctypes.c_int64),
    )


class PagesStruct(ctypes.Structure):
    """`ossia_pages`."""

    _fields_ = (
        ("tokens", ctypes.c_int64),
        ("sequences", ctypes.c_int64),
        ("table_width", ctypes.c_int64),
        ("slots", ctypes.c_void_p),
        ("page_table", ctypes.c_void_p),
        ("first_positions", ctypes.c_void_p),
        ("kv_lens", ctypes.c_void_p),
        ("query_starts", ctypes.c_void_p),
        ("cos", ctypes.c_void_p),
        ("sin", ctypes.c_void_p),
    )


class HeadsStruct(ctypes.Structure):
    """`ossia_heads`."""

    _fields_ = (
        ("heads", ctypes.c_int64),
        ("kv_heads", ctypes.c_int64),
        ("head_dim", ctypes.c_int64),
        ("window", ctypes.c_int64),
        ("scale", ctypes.c_float),
    )


class AttentionStruct(ctypes.Structure):
    """`ossia_attention_layer`."""

    _fields_ = (
        ("norm", ctypes.c_void_p),
        ("eps", ctypes.c_float),
        ("qkv", Matrix),
        ("sinks", ctypes.c_void_p),
        ("out", Matrix),
        ("heads", HeadsStruct),
    )


class MixtureStruct(ctypes.Structure):
    """`ossia_mixture_layer`."""

    _fields_ = (
        ("norm", ctypes.c_void_p),
        ("eps", ctypes.c_float),
        ("router", ctypes.c_void_p),
        ("router_bias", ctypes.c_void_p),
        ("chosen_per_token", ctypes.c_int64),
        ("gate_up", Matrix),
        ("down", Matrix),
        ("alpha", ctypes.c_float),
        ("limit", ctypes.c_float),
    )


def declare_blocks(library: ctypes.CDLL) -> None:
    """Types of the functions in ossia_cpu_blocks.h."""
    pointer, number, real = ctypes.c_void_p, ctypes.c_int64, ctypes.c_float
    signatures: dict[str, tuple[object, ...]] = {
        "ossia_attention_block": (pointer, pointer, pointer, pointer, pointer, pointer),
        "ossia_mixture_block": (pointer, pointer, number, pointer, pointer),
        "ossia_layers": (pointer, number, *(pointer,) * 6),
        "ossia_head": (pointer, pointer, real, pointer, number, pointer, pointer),
        "ossia_rms_norm": (pointer, pointer, number, number, pointer, real, pointer),
        "ossia_rotate_and_write": (pointer, pointer, pointer, pointer, pointer),
        "ossia_attend": (pointer, pointer, number, *(pointer,) * 5),
        "ossia_route": (
            *(pointer, pointer, number, number, pointer, pointer, number, number),
            *(pointer, pointer),
        ),
    }
    for name, arguments in signatures.items():
        function = getattr(library, name)
        function.restype = ctypes.c_int
        function.argtypes = arguments


@dataclass(frozen=True, slots=True)
class Heads:
    """Geometry of attention in one layer."""

    heads: int
    kv_heads: int
    head_dim: int
    window: int | None  # keys that a token sees, itself included; None: all

    def struct(self) -> HeadsStruct:
        """For the library; scores are divided by the root of head_dim."""
        return HeadsStruct(
            self.heads, self.kv_heads, self.head_dim, self.window or 0, self.head_dim**-0.5
        )


class AttentionLayer:
    """Weights of the first half of a block, and the struct that points to them."""

    def __init__(
        self,
        norm: Tensor,
        eps: float,
        qkv: NativeMatrix,
        sinks: Tensor,
        out: NativeMatrix,
        heads: Heads,
    ) -> None:
        """norm [hidden], sinks [heads]; qkv and out with biases."""
        self.norm, self.sinks = _float32(norm), _float32(sinks)
        self.qkv, self.out, self.heads = qkv, out, heads
        self._struct = AttentionStruct(
            self.norm.data_ptr(),
            eps,
            qkv.pointers(),
            self.sinks.data_ptr(),
            out.pointers(),
            heads.struct(),
        )
        self.address = ctypes.addressof(self._struct)
        self.hidden = qkv.inputs


class MixtureLayer:
    """Weights of the second half of a block, and the struct that points to them."""

    def __init__(
        self,
        norm: Tensor,
        eps: float,
        router: Tensor,
        router_bias: Tensor,
        gate_up: NativeMatrix,
        down: NativeMatrix,
        *,
        chosen_per_token: int,
        alpha: float,
        limit: float,
    ) -> None:
        """norm [hidden], router [experts, hidden], router_bias [experts]."""
        self.norm = _float32(norm)
        self.router, self.router_bias = _float32(router), _float32(router_bias)
        self.gate_up, self.down = gate_up, down
        self._struct = MixtureStruct(
            self.norm.data_ptr(),
            eps,
            self.router.data_ptr(),
            self.router_bias.data_ptr(),
            chosen_per_token,
            gate_up.pointers(),
            down.pointers(),
            alpha,
            limit,
        )
        self.address = ctypes.addressof(self._struct)
        self.hidden = gate_up.inputs


class Pages:
    """Where the sequences of a step keep their keys, as the library wants it."""

    def __init__(self, paged: PagedBatch, cos: Tensor, sin: Tensor) -> None:
        """cos, sin: float32 [tokens, head_dim / 2]."""
        self.tokens = len(paged.slots)
        self._alive = tensors = (
            _exactly(paged.slots, torch.int64),
            _exactly(paged.page_table, torch.int32),
            _exactly(paged.first_positions, torch.int32),
            _exactly(paged.kv_lens, torch.int32),
            _exactly(paged.query_starts, torch.int32),
            _exactly(cos, torch.float32),
            _exactly(sin, torch.float32),
        )
        sequences, width = paged.page_table.shape
        self._struct = PagesStruct(
            self.tokens, sequences, width, *(tensor.data_ptr() for tensor in tensors)
        )
        self.address = ctypes.addressof(self._struct)


def attention_block(
    context: Context, layer: AttentionLayer, pages: Pages, cache: LayerCache, x: Tensor
) -> Tensor:
    """x + out(attention(rotate(qkv(norm(x))))); new keys and values are written into the cache.

    Args:
        context: threads and level.
        layer: the weights.
        pages: of the step, for the layer's kind.
        cache: float32 or bfloat16.
        x: float32 [tokens, hidden].
    """
    _check_x(x, pages.tokens, layer.hidden)
    out = torch.empty_like(x)
    struct = cache_struct(cache)
    code = context.library.ossia_attention_block(
        context.handle,
        layer.address,
        pages.address,
        ctypes.byref(struct),
        x.data_ptr(),
        out.data_ptr(),
    )
    check(code)
    return out


def mixture_block(context: Context, layer: MixtureLayer, x: Tensor) -> Tensor:
    """x + experts(norm(x)), x float32 [tokens, hidden]."""
    _check_x(x, len(x), layer.hidden)
    out = torch.empty_like(x)
    code = context.library.ossia_mixture_block(
        context.handle, layer.address, len(x), x.data_ptr(), out.data_ptr()
    )
    check(code)
    return out


class Layers:
    """All layers of a network, for one call."""

    def __init__(self, layers: Sequence[tuple[AttentionLayer, MixtureLayer]]) -> None:
        self._layers = layers
        self._attention = _addresses([attention.address for attention, _ in layers])
        self._mixture = _addresses([mixture.address for _, mixture in layers])
        self._caches: Sequence[LayerCache] = ()
        self._cache_structs: ctypes.Array[CacheStruct] | None = None

    def run(
        self, context: Context, pages: Sequence[Pages], caches: Sequence[LayerCache], x: Tensor
    ) -> Tensor:
        """`attention_block` and `mixture_block` of every layer, one after the other.

        Args:
            context: threads and level.
            pages: those of each layer's kind.
            caches: of each layer.
            x: float32 [tokens, hidden].
        """
        count = len(self._layers)
        _check_x(x, pages[0].tokens, self._layers[0][0].hidden)
        if self._cache_structs is None or caches is not self._caches:
            self._caches = caches
            self._cache_structs = (CacheStruct * count)(*map(cache_struct, caches))
        out = torch.empty_like(x)
        code = context.library.ossia_layers(
            context.handle,
            count,
            self._attention,
            self._mixture,
            _addresses([one.address for one in pages]),
            self._cache_structs,
            x.data_ptr(),
            out.data_ptr(),
        )
        check(code)
        return out


def _addresses(values: list[int]) -> ctypes.Array[ctypes.c_void_p]:
    return (ctypes.c_void_p * len(values))(*values)


def head(
    context: Context, norm: Tensor, eps: float, matrix: NativeMatrix, x: Tensor, out: Tensor
) -> Tensor:
    """matrix norm(x), in `out`: x float32 [rows, hidden], norm float32 [hidden].

    `out` is float32 [rows, matrix.rows], contiguous.
    """
    _check_x(x, len(x), matrix.inputs)
    _check_x(out, len(x), matrix.rows)
    struct = matrix.pointers()
    code = context.library.ossia_head(
        context.handle,
        norm.data_ptr(),
        eps,
        ctypes.byref(struct),
        len(x),
        x.data_ptr(),
        out.data_ptr(),
    )
    check(code)
    return out


def cache_struct(cache: LayerCache) -> CacheStruct:
    """The library's view of a layer's cache.

    Raises:
        ValueError: it is neither float32 nor bfloat16.
    """
    is_bf16 = _CACHE_TYPES.get(cache.keys.dtype)
    if is_bf16 is None or not (cache.keys.is_contiguous() and cache.values.is_contiguous()):
        raise ValueError(
            f"The cache must be contiguous float32 or bfloat16, not {cache.keys.dtype}."
        )
    return CacheStruct(cache.keys.data_ptr(), cache.values.data_ptr(), cache.keys.shape[1], is_bf16)


def check(code: int) -> None:
    """Raise what a code of the library stands for."""
    if code == -2:
        raise MemoryError("The CPU library has no memory for its intermediate results.")
    if code:
        raise ValueError("The CPU library refused the geometry of a block.")


def _check_x(x: Tensor, tokens: int, hidden: int) -> None:
    if x.dtype != torch.float32 or x.shape != (tokens, hidden) or not x.is_contiguous():
        raise ValueError(
            f"x must be contiguous float32 [{tokens}, {hidden}], not {x.dtype} {list(x.shape)}."
        )


def _float32(values: Tensor) -> Tensor:
    return values.to(torch.float32).contiguous()


def _exactly(values: Tensor, dtype: torch.dtype) -> Tensor:
    return values.to(dtype).contiguous()
