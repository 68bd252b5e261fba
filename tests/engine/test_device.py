"""Choices of device, precision and threads that the user left open."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ossia.config import EngineConfig, ModelConfig
from ossia.engine import device as device_module
from ossia.engine.device import (
    available_memory,
    choose_device,
    choose_dtype,
    choose_threads,
    dense_values,
    values_per_token,
)
from ossia.errors import ConfigError

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
AUTO = EngineConfig(model="m")
SMALL = ModelConfig(hidden_size=128, num_layers=2)


def test_a_small_model_runs_in_float32_on_a_cpu_and_a_large_one_in_bfloat16():
    assert choose_dtype(AUTO, SMALL, CPU) == torch.float32
    assert choose_dtype(AUTO, ModelConfig(), CPU) == torch.bfloat16
    assert choose_dtype(AUTO, SMALL, CUDA) == torch.bfloat16
    assert choose_dtype(replace(AUTO, dtype="float32"), ModelConfig(), CUDA) == torch.float32
    assert choose_dtype(replace(AUTO, dtype="bfloat16"), SMALL, CPU) == torch.bfloat16


def test_dense_weights_of_the_20b_model():
    # Embedding and head, then per layer qkv, out, router and biases: 1.80 billion numbers.
    assert dense_values(ModelConfig()) == pytest.approx(1.80e9, rel=0.01)


def test_cuda_is_refused_where_there_is_none():
    if torch.cuda.is_available():
        assert choose_device(replace(AUTO, device="cuda")).type == "cuda"
        return
    assert choose_device(AUTO).type == "cpu"
    with pytest.raises(ConfigError, match="--device cpu"):
        choose_device(replace(AUTO, device="cuda"))


def test_available_memory_is_within_the_machine():
    assert 1 << 20 < available_memory(CPU) < 1 << 50


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text(text)
    return root


STAT = "anon 5\ninactive_file 200\nfile 900\n"


@pytest.mark.parametrize(
    ("files", "room"),
    [
        ({}, []),
        ({"memory.max": "max", "memory.current": "5", "memory.stat": STAT}, []),
        ({"memory.max": "1000", "memory.current": "700", "memory.stat": STAT}, [500]),
        (
            {
                "memory/memory.limit_in_bytes": "1000",
                "memory/memory.usage_in_bytes": "950",
                "memory/memory.stat": STAT,
            },
            [250],
        ),
    ],
)
def test_the_memory_limit_of_a_container_counts(tmp_path, files, room):
    assert list(device_module._cgroup_room(write(tmp_path, files))) == room


@pytest.mark.parametrize(
    ("files", "cpus"),
    [
        ({}, []),
        ({"cpu.max": "max 100000"}, []),
        ({"cpu.max": "250000 100000"}, [2]),
        ({"cpu.max": "10000 100000"}, [1]),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, []),
        ({"cpu/cpu.cfs_quota_us": "400000", "cpu/cpu.cfs_period_us": "100000"}, [4]),
    ],
)
def test_the_cpu_quota_of_a_container_counts(tmp_path, files, cpus):
    assert list(device_module._cgroup_cpus(write(tmp_path, files))) == cpus


def test_threads_are_those_asked_for_and_one_for_a_small_model():
    assert choose_threads(replace(AUTO, num_threads=3), SMALL) == 3
    assert choose_threads(AUTO, replace(SMALL, intermediate_size=128)) == 1
    assert 1 <= choose_threads(AUTO, ModelConfig()) <= torch.get_num_threads()


def test_a_token_of_the_20b_model_meets_3_billion_numbers():
    # 3.6 billion active parameters, of which 0.58 billion are the output head.
    assert values_per_token(ModelConfig()) == pytest.approx(3.03e9, rel=0.01)
