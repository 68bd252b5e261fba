"""The memory plan fits into the memory, uses it, and refuses with figures that work."""

import re
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ossia.config import EngineConfig, ModelConfig
from ossia.engine.memory import CPU_KV_BYTES, GIB, GPU_RESERVE, MemoryPlan, plan_memory
from ossia.engine.scheduler import Scheduler, SchedulerConfig
from ossia.engine.step_memory import gpu_memory
from ossia.errors import ConfigError

MODEL_20B = ModelConfig()
WEIGHTS_20B = 13_760_000_000


def plan(config: EngineConfig | None = None, model=MODEL_20B, **values) -> MemoryPlan:
    defaults = {
        "device": "cpu",
        "itemsize": 2,
        "weight_bytes": WEIGHTS_20B,
        "available_bytes": 22 * GIB,
        "total_bytes": 24 * GIB,
    }
    return plan_memory(model, config or EngineConfig(model="m"), **{**defaults, **values})


def scheduler_of(made: MemoryPlan) -> Scheduler:
    limits = SchedulerConfig(
        made.max_num_seqs, made.max_num_batched_tokens, made.max_model_len, (200002,)
    )
    return Scheduler(limits, made.cache)


def test_page_bytes_follow_the_geometry():
    made = plan()
    assert made.full_page_bytes == made.window_page_bytes == 12 * 2 * 8 * 64 * 2 * 16


def test_the_whole_20b_model_fits_a_24_gib_machine():
    made = plan()
    assert made.kv_bytes <= 0.25 * (22 * GIB - WEIGHTS_20B)
    assert made.kv_bytes > 0.24 * (22 * GIB - WEIGHTS_20B)
    assert made.weight_bytes + made.kv_bytes + made.activation_bytes < 20 * GIB
    assert made.max_model_len > 32768


def test_a_small_model_is_not_given_more_pages_than_it_can_use():
    small = replace(MODEL_20B, num_layers=2, layer_types=(), num_kv_heads=1, max_context=4096)
    made = plan(EngineConfig(model="m", max_num_seqs=4), small)
    assert made.max_model_len == 4096
    assert made.cache.num_full_pages == 4 * 4096 // 16 + 1
    assert made.kv_bytes < CPU_KV_BYTES / 10


def test_a_gpu_is_filled_to_its_utilization():
    made = plan(device="cuda", available_bytes=79 * GIB, total_bytes=80 * GIB)
    left = 0.9 * 80 * GIB - GIB - WEIGHTS_20B - made.activation_bytes - made.fixed_bytes
    assert 0.95 * left < made.kv_bytes < left
    assert made.max_model_len == 131072
    assert made.max_num_seqs == 256


MODEL_120B = ModelConfig(num_layers=36, num_experts=128)
WEIGHTS_120B = 65_248_815_744
H100, H200, SMALL = 79.2, 139.8, 22.0  # GiB in all; the context of CUDA takes half of one


@pytest.mark.parametrize(
    ("model", "weights", "card", "step", "context", "tokens"),
    [
        (MODEL_20B, WEIGHTS_20B, H100, 8192, 131072, 1_900_000),
        (MODEL_120B, WEIGHTS_120B, H100, 8192, 131072, 140_000),
        (MODEL_120B, WEIGHTS_120B, H200, 8192, 131072, 1_400_000),
        (MODEL_20B, WEIGHTS_20B, SMALL, 2048, 131072, 131_072),
    ],
    ids=["20b on H100", "120b on H100", "120b on H200", "20b on 22 GiB"],
)
def test_known_models_fit_known_cards(model, weights, card, step, context, tokens):
    made = plan(
        model=model,
        device="cuda",
        weight_bytes=weights,
        available_bytes=int((card - 0.5) * GIB),
        total_bytes=int(card * GIB),
        fused=True,
    )
    assert made.max_num_batched_tokens == step
    assert made.max_model_len == context
    assert made.max_num_seqs == 256
    assert (made.cache.num_full_pages - 1) * 16 >= tokens
    used = made.weight_bytes + made.kv_bytes + made.activation_bytes + made.fixed_bytes
    assert used + GPU_RESERVE <= (0.9 * card - 0.5) * GIB
    text = "\n".join(made.lines())
    assert f"in steps of {step} tokens" in text
    assert "graphs and tables" in text


def test_a_step_that_was_asked_for_is_not_made_smaller():
    config = EngineConfig(model="m", max_num_batched_tokens=8192)
    made = plan(config, device="cuda", available_bytes=22 * GIB, total_bytes=22 * GIB)
    assert made.max_num_batched_tokens == 8192


def test_what_a_step_of_the_20b_model_holds():
    # By hand: x, its norm and the sum, and for 4 experts a token h and y, in bfloat16.
    sizes = {"max_model_len": 131072, "page_size": 16, "itemsize": 2}
    needs = gpu_memory(MODEL_20B, tokens=8192, rows=16, fused=True, **sizes)
    assert needs.step == 8192 * 2 * (3 * 2880 + 4 * (2880 + 2880))
    # A table of angles of 33.6 MB, masks of 12.9 MB, page tables of 0.5 MB, cuBLAS and attention.
    assert needs.tables == pytest.approx(33.6e6 + 12.9e6 + 0.5e6 + 67.1e6 + 2.2e6, rel=0.01)
    plain = gpu_memory(MODEL_20B, tokens=8192, rows=16, fused=False, **sizes)
    assert plain.step == 8192 * 2 * (3 * 2880 + 4 * (3 * 2880 + 2880))
    # 256 rows of logits with the sampler's copies are more than the layers of 2048 tokens.
    many = gpu_memory(MODEL_20B, tokens=2048, rows=256, fused=True, **sizes)
    assert many.step == 2 * 256 * 201088 * 4
    many = gpu_memory(MODEL_20B, tokens=2048, rows=256, fused=False, **sizes)
    assert many.step == 4 * 256 * 201088 * 4


def test_a_model_larger_than_the_gpu_is_refused():
    with pytest.raises(ConfigError, match="GPU memory"):
        plan(device="cuda", available_bytes=10 * GIB, total_bytes=12 * GIB)


def test_a_context_that_does_not_fit_is_refused_with_figures_that_work():
    config = EngineConfig(model="m", max_model_len=131072, kv_cache_memory=GIB)
    with pytest.raises(ConfigError) as caught:
        plan(config)
    found = re.search(r"lower --max-model-len to (\d+) or raise .* to (\d+)", str(caught.value))
    assert found is not None
    length, memory = map(int, found.groups())
    assert plan(replace(config, max_model_len=length)).max_model_len == length
    assert plan(replace(config, kv_cache_memory=memory)).max_model_len == 131072
    with pytest.raises(ConfigError):
        plan(replace(config, max_model_len=length + 17))


def test_a_context_longer_than_the_model_is_refused():
    with pytest.raises(ConfigError, match="131072"):
        plan(EngineConfig(model="m", max_model_len=200000))


def test_a_cache_without_room_for_the_windows_is_refused_with_a_figure_that_works():
    config = EngineConfig(model="m", max_num_seqs=64, kv_cache_memory=10 << 20)
    with pytest.raises(ConfigError) as caught:
        plan(config)
    found = re.search(r"--kv-cache-memory to (\d+)", str(caught.value))
    assert found is not None
    assert plan(replace(config, kv_cache_memory=int(found[1]))).max_num_seqs == 64


def test_the_lines_tell_the_figures():
    text = "\n".join(plan().lines())
    for part in ("12.81 GiB", "pages of 16 tokens", "32 sequences"):
        assert part in text


def test_too_little_memory_is_warned_of():
    assert "Warning" not in "\n".join(plan().lines())
    tight = plan(available_bytes=8 * GIB)
    assert tight.max_model_len >= 1024
    assert "Warning" in tight.lines()[-1]


@settings(max_examples=150, deadline=None)
@given(
    memory=st.integers(1 << 20, 2 * GIB),
    seqs=st.none() | st.integers(1, 512),
    length=st.none() | st.integers(1, 131072),
    batched=st.none() | st.integers(1, 20000),
    page=st.sampled_from([1, 8, 16, 64, 100]),
    caching=st.booleans(),
    model=st.sampled_from(
        [
            MODEL_20B,
            ModelConfig(num_layers=36),
            ModelConfig(num_layers=1),
            ModelConfig(num_layers=3, num_kv_heads=1, sliding_window=1, max_context=999),
        ]
    ),
)
def test_every_plan_fits_and_can_be_scheduled(memory, seqs, length, batched, page, caching, model):
    config = EngineConfig(
        model="m",
        kv_cache_memory=memory,
        max_num_seqs=seqs,
        max_model_len=length,
        max_num_batched_tokens=batched,
        page_size=page,
        enable_prefix_caching=caching,
    )
    try:
        made = plan(config, model)
    except ConfigError:
        return
    assert made.kv_bytes <= memory
    assert made.max_model_len == (length or made.max_model_len) <= model.max_context
    scheduler = scheduler_of(made)
    assert scheduler.max_running == min(made.max_num_seqs, made.max_num_batched_tokens)
