"""Frozen configuration of the model, the engine and the server. Checked once, at start-up."""

from __future__ import annotations

import datetime
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from ossia.errors import CheckpointError, ConfigError

ARCHITECTURE = "GptOssForCausalLM"
LayerType = Literal["sliding_attention", "full_attention"]
MXFP4_BLOCK = 32  # values that share one scale


@dataclass(frozen=True, slots=True)
class RopeConfig:
    """Rotary embedding with YaRN (https://arxiv.org/abs/2309.00071); factor 1 is plain rotary."""

    theta: float = 150000.0
    factor: float = 32.0
    original_context: int = 4096  # tokens
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    truncate: bool = False

    @property
    def attention_factor(self) -> float:
        """Multiplies cos and sin (YaRN section 3.4)."""
        return 1.0 if self.factor <= 1.0 else 0.1 * math.log(self.factor) + 1.0


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """Geometry of a gpt-oss network, independent of the file layout it came from."""

    vocab_size: int = 201088
    hidden_size: int = 2880
    num_layers: int = 24
    num_heads: int = 64
    num_kv_heads: int = 8
    head_dim: int = 64
    num_experts: int = 32
    experts_per_token: int = 4
    intermediate_size: int = 2880
    sliding_window: int = 128  # keys a token of a window layer sees, itself included
    layer_types: tuple[LayerType, ...] = ()  # () means: even layers sliding, odd layers full
    max_context: int = 131072  # tokens
    rms_norm_eps: float = 1e-5
    swiglu_alpha: float = 1.702
    swiglu_limit: float = 7.0
    rope: RopeConfig = RopeConfig()
    eos_token_ids: tuple[int, ...] = (199999, 200002, 200012)  # endoftext, return, call
    pad_token_id: int = 199999
    expert_format: Literal["mxfp4", "bf16"] = "mxfp4"  # how the checkpoint stores the experts

    def __post_init__(self) -> None:
        if not self.layer_types:
            types: tuple[LayerType, ...] = tuple(
                "sliding_attention" if i % 2 == 0 else "full_attention"
                for i in range(self.num_layers)
            )
            object.__setattr__(self, "layer_types", types)
        if len(self.layer_types) != self.num_layers:
            raise CheckpointError(
                f"config.json lists {len(self.layer_types)} layer_types "
                f"for {self.num_layers} layers."
            )
        if self.num_heads % self.num_kv_heads:
            raise CheckpointError(
                f"config.json has {self.num_heads} attention heads, "
                f"not a multiple of its {self.num_kv_heads} key-value heads."
            )
        if not 0 < self.experts_per_token <= self.num_experts:
            raise CheckpointError(
                f"config.json asks for {self.experts_per_token} experts per token "
                f"of {self.num_experts}."
            )
        if self.expert_format == "mxfp4" and (
            self.hidden_size % MXFP4_BLOCK or self.intermediate_size % MXFP4_BLOCK
        ):
            raise CheckpointError(
                f"MXFP4 needs hidden_size and intermediate_size to be multiples of {MXFP4_BLOCK}; "
                f"config.json has {self.hidden_size} and {self.intermediate_size}."
            )

    @property
    def window_layers(self) -> tuple[int, ...]:
        return tuple(i for i, t in enumerate(self.layer_types) if t == "sliding_attention")

    @property
    def full_layers(self) -> tuple[int, ...]:
        return tuple(i for i, t in enumerate(self.layer_types) if t == "full_attention")

    @property
    def qkv_size(self) -> int:
        """Rows of the fused query, key and value projection."""
        return (self.num_heads + 2 * self.num_kv_heads) * self.head_dim


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """How the model is run. Values of None are chosen by the memory plan at start-up."""

    model: str  # "demo", a directory, or a hub name such as openai/gpt-oss-20b
    device: Literal["auto", "cpu", "cuda"] = "auto"
    dtype: Literal["auto", "bfloat16", "float32"] = "auto"
    quantization: Literal["mxfp4"] | None = None  # None: as the checkpoint says
    load_format: Literal["auto", "dummy"] = "auto"
    attention_backend: Literal["auto", "TRITON", "FLASH_ATTN_3", "TORCH"] = "auto"
    cpu_dense: Literal["int8", "bf16"] = "int8"  # weights outside the experts, on a CPU
    max_model_len: int | None = None  # tokens
    max_num_seqs: int | None = None  # sequences in one step
    max_num_batched_tokens: int | None = None  # tokens in one step
    kv_cache_memory: int | None = None  # bytes
    gpu_memory_utilization: float = 0.9
    page_size: int = 16  # tokens
    enable_prefix_caching: bool = True
    seed: int = 0  # of requests without one, and of dummy weights
    num_threads: int | None = None  # CPU threads of the model

    def __post_init__(self) -> None:
        for name in ("max_model_len", "max_num_seqs", "max_num_batched_tokens", "num_threads"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"--{name.replace('_', '-')} must be 1 or more, not {value}.")
        if self.page_size < 1:
            raise ConfigError(f"--page-size must be 1 or more, not {self.page_size}.")
        if not 0.0 < self.gpu_memory_utilization <= 1.0:
            raise ConfigError("--gpu-memory-utilization must be above 0 and at most 1.")


@dataclass(frozen=True, slots=True)
class ServerConfig:
    """How the HTTP server listens and what it calls the model."""

    host: str = "127.0.0.1"
    port: int = 8000
    api_keys: tuple[str, ...] = ()  # () means: no key is asked for
    served_model_names: tuple[str, ...] = ()  # () means: the model's own name
    max_waiting: int = 1024  # requests queued before 429
    shutdown_grace: float = 10.0  # seconds given to running requests
    prompt_date: str = "today"  # told to the model: "today" (UTC), "none", or YYYY-MM-DD
    turn_grammar: bool = True  # the sampler is held to what the request's turn may be
    tools: tuple[str, ...] = ()  # that the server runs: names, or module:object
    tool_servers: tuple[str, ...] = ()  # of MCP: URLs and files; "demo" is calculator, echo, time
    mcp_tool_server: bool = False  # the tools are offered to MCP clients at /mcp
    allowed_hosts: tuple[str, ...] = ()  # that tools may reach although they are not public
    python_memory: int = 1 << 30  # bytes for the code of one conversation
    python_timeout: float = 60.0  # seconds for one piece of code
    browser_folder: str | None = None  # documents that the browser tool searches
    browser_search_url: str | None = None  # search service that it asks
    response_store: str | None = None  # None: the user's data folder; "memory", or a URL
    response_max_age: float | None = 30 * 86400.0  # seconds after the last use; None: for ever
    response_events: Literal["openai", "open-responses"] = "openai"  # whose names events have
    response_key: str | None = None  # seals reasoning that clients carry; None: a key file

    def __post_init__(self) -> None:
        if self.response_max_age is not None and self.response_max_age <= 0:
            raise ConfigError("--response-expiry must be more than 0 days, or never.")
        if self.prompt_date not in ("today", "none"):
            try:
                datetime.date.fromisoformat(self.prompt_date)
            except ValueError:
                raise ConfigError(
                    f"--prompt-date must be today, none or YYYY-MM-DD, not {self.prompt_date!r}."
                ) from None
        if not 0 <= self.port <= 65535:
            raise ConfigError(f"--port must be between 0 and 65535, not {self.port}.")


def model_config_from_hf(raw: Mapping[str, Any]) -> ModelConfig:
    """Read the `config.json` of a Hugging Face gpt-oss checkpoint.

    Raises:
        CheckpointError: another architecture, or a quantisation that gpt-oss does not have.
    """
    architectures = raw.get("architectures") or [ARCHITECTURE]
    if ARCHITECTURE not in architectures:
        raise CheckpointError(
            f"config.json describes {architectures[0]}; Ossia serves {ARCHITECTURE} only."
        )
    quantization = raw.get("quantization_config") or {}
    method = quantization.get("quant_method")
    if method not in (None, "mxfp4"):
        raise CheckpointError(
            f"config.json asks for quantization {method!r}; "
            "use a checkpoint with MXFP4 or bfloat16 experts."
        )
    try:
        return _from_hf(raw, "mxfp4" if method == "mxfp4" else "bf16")
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"config.json lacks or misstates a field: {error}.") from error


def _from_hf(raw: Mapping[str, Any], expert_format: Literal["mxfp4", "bf16"]) -> ModelConfig:
    # transformers 5 writes rope_parameters; earlier versions rope_theta and rope_scaling.
    # Where neither is there, transformers takes the YaRN parameters of gpt-oss.
    rope = dict(raw.get("rope_parameters") or raw.get("rope_scaling") or {"rope_type": "yarn"})
    theta = rope.get("rope_theta", raw.get("rope_theta", 150000.0))
    eos = raw.get("eos_token_id") or 200002  # transformers writes null where none was set
    eos_ids = tuple(eos) if isinstance(eos, list) else (eos,)
    plain = rope.get("rope_type", "default") == "default"
    return ModelConfig(
        vocab_size=int(raw["vocab_size"]),
        hidden_size=int(raw["hidden_size"]),
        num_layers=int(raw["num_hidden_layers"]),
        num_heads=int(raw["num_attention_heads"]),
        num_kv_heads=int(raw["num_key_value_heads"]),
        head_dim=int(raw.get("head_dim", 64)),
        num_experts=int(raw["num_local_experts"]),
        experts_per_token=int(raw.get("num_experts_per_tok", raw.get("experts_per_token", 4))),
        intermediate_size=int(raw["intermediate_size"]),
        sliding_window=int(raw.get("sliding_window", 128)),
        layer_types=tuple(raw.get("layer_types") or ()),
        max_context=int(raw.get("max_position_embeddings", 131072)),
        rms_norm_eps=float(raw.get("rms_norm_eps", 1e-5)),
        swiglu_limit=float(raw.get("swiglu_limit", 7.0)),
        swiglu_alpha=float(raw.get("swiglu_alpha", 1.702)),
        rope=RopeConfig(
            theta=float(theta),
            factor=1.0 if plain else float(rope.get("factor", 32.0)),
            original_context=int(rope.get("original_max_position_embeddings", 4096)),
            beta_fast=float(rope.get("beta_fast", 32.0)),
            beta_slow=float(rope.get("beta_slow", 1.0)),
            truncate=bool(rope.get("truncate", False)),
        ),
        eos_token_ids=tuple(sorted({*eos_ids, 199999, 200002, 200012})),
        pad_token_id=int(raw.get("pad_token_id") or 199999),
        expert_format=expert_format,
    )


def model_config_to_hf(config: ModelConfig) -> dict[str, Any]:
    """The `config.json` of a Hugging Face checkpoint with this geometry."""
    raw: dict[str, Any] = {
        "architectures": [ARCHITECTURE],
        "model_type": "gpt_oss",
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.head_dim,
        "num_local_experts": config.num_experts,
        "num_experts_per_tok": config.experts_per_token,
        "experts_per_token": config.experts_per_token,
        "intermediate_size": config.intermediate_size,
        "sliding_window": config.sliding_window,
        "layer_types": list(config.layer_types),
        "max_position_embeddings": config.max_context,
        "initial_context_length": config.rope.original_context,
        "rms_norm_eps": config.rms_norm_eps,
        "swiglu_limit": config.swiglu_limit,
        "swiglu_alpha": config.swiglu_alpha,
        "hidden_act": "silu",
        "attention_bias": True,
        "attention_dropout": 0.0,
        "tie_word_embeddings": False,
        "router_aux_loss_coef": 0.9,
        "rope_theta": config.rope.theta,
        "rope_scaling": {
            "rope_type": "yarn",
            "factor": config.rope.factor,
            "original_max_position_embeddings": config.rope.original_context,
            "beta_fast": config.rope.beta_fast,
            "beta_slow": config.rope.beta_slow,
            "truncate": config.rope.truncate,
        },
        "eos_token_id": 200002,
        "pad_token_id": config.pad_token_id,
        "torch_dtype": "bfloat16",
        "use_cache": True,
    }
    if config.rope.factor <= 1.0:
        raw["rope_scaling"] = {"rope_type": "default"}
    if config.expert_format == "mxfp4":
        raw["quantization_config"] = {
            "quant_method": "mxfp4",
            "modules_to_not_convert": [
                "model.layers.*.self_attn",
                "model.layers.*.mlp.router",
                "model.embed_tokens",
                "lm_head",
            ],
        }
    return raw


def model_config_from_original(raw: Mapping[str, Any]) -> ModelConfig:
    """Read the `config.json` of the original OpenAI layout (`original/config.json`).

    Raises:
        CheckpointError: a field is missing.
    """
    try:
        return ModelConfig(
            vocab_size=int(raw["vocab_size"]),
            hidden_size=int(raw["hidden_size"]),
            num_layers=int(raw["num_hidden_layers"]),
            num_heads=int(raw["num_attention_heads"]),
            num_kv_heads=int(raw["num_key_value_heads"]),
            head_dim=int(raw["head_dim"]),
            num_experts=int(raw["num_experts"]),
            experts_per_token=int(raw.get("experts_per_token", 4)),
            intermediate_size=int(raw["intermediate_size"]),
            sliding_window=int(raw["sliding_window"]),
            max_context=int(raw["initial_context_length"] * raw.get("rope_scaling_factor", 32.0)),
            swiglu_limit=float(raw.get("swiglu_limit", 7.0)),
            rope=RopeConfig(
                theta=float(raw["rope_theta"]),
                factor=float(raw.get("rope_scaling_factor", 32.0)),
                original_context=int(raw["initial_context_length"]),
                beta_fast=float(raw.get("rope_ntk_beta", 32.0)),
                beta_slow=float(raw.get("rope_ntk_alpha", 1.0)),
            ),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"config.json lacks or misstates a field: {error}.") from error


def model_config_to_original(config: ModelConfig) -> dict[str, Any]:
    """The `config.json` of the original OpenAI layout with this geometry."""
    return {
        "num_hidden_layers": config.num_layers,
        "num_experts": config.num_experts,
        "experts_per_token": config.experts_per_token,
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "swiglu_limit": config.swiglu_limit,
        "head_dim": config.head_dim,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "sliding_window": config.sliding_window,
        "initial_context_length": config.rope.original_context,
        "rope_theta": config.rope.theta,
        "rope_scaling_factor": config.rope.factor,
        "rope_ntk_alpha": config.rope.beta_slow,
        "rope_ntk_beta": config.rope.beta_fast,
    }
