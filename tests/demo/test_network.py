"""The trainer's network computes what the Hugging Face implementation computes."""

from __future__ import annotations

import math

import torch
from transformers import GptOssConfig, GptOssForCausalLM

from ossia.config import ModelConfig, model_config_to_hf
from ossia.mxfp4 import quantise, unpack
from training.demo.export import PLAIN, WHOLE
from training.demo.network import DemoNetwork, Packed, round_to_mxfp4

ROWS = 200


def small_network() -> DemoNetwork:
    config = ModelConfig(
        vocab_size=ROWS + 50,
        hidden_size=64,
        num_layers=4,
        num_heads=4,
        num_kv_heads=2,
        num_experts=8,
        intermediate_size=32,
    )
    torch.manual_seed(1)
    network = DemoNetwork(config, ROWS, torch.float32)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if "bias" in name or name == "sinks":
                parameter.normal_(std=0.5)
            elif name in ("out", "down"):
                parameter.mul_(10)
    return network


def as_hugging_face(network: DemoNetwork) -> GptOssForCausalLM:
    raw = model_config_to_hf(network.config)
    raw |= {"vocab_size": ROWS, "pad_token_id": 0, "eos_token_id": 1}
    raw.pop("quantization_config")
    config = GptOssConfig(**raw)
    config._attn_implementation = "eager"
    model = GptOssForCausalLM(config).float().eval()
    state = {}
    values = {name: p.detach() for name, p in network.named_parameters()}
    for name, target in WHOLE.items():
        state[target] = values[name]
    for layer in range(network.config.num_layers):
        prefix = f"model.layers.{layer}."
        for name, target in PLAIN.items():
            state[prefix + target] = values[name][layer]
        for name in ("gate_up", "down"):
            rounded = unpack(quantise(values[name][layer]), torch.float32)
            state[f"{prefix}mlp.experts.{name}_proj"] = rounded.transpose(1, 2)
    model.load_state_dict(state)
    return model


def test_forward_equals_hugging_face_on_packed_documents_beyond_the_window() -> None:
    network = small_network()
    model = as_hugging_face(network)
    lengths = (300, 20, 180)
    rows = torch.randint(0, ROWS, (sum(lengths),))
    batch = Packed(
        rows,
        torch.repeat_interleave(torch.arange(3, dtype=torch.int32), torch.tensor(lengths)),
        torch.cat([torch.arange(n) for n in lengths]),
    )
    with torch.no_grad():
        ours = network.logits(network.hidden(batch)[0])
        theirs = torch.cat([model(part[None]).logits[0] for part in rows.split(lengths)])
    ours[:, -1] -= math.log(network.config.vocab_size - (ROWS - 1))
    assert (ours - theirs).abs().max() / theirs.abs().max() < 1e-5


def test_rounding_is_that_of_the_packed_format() -> None:
    torch.manual_seed(2)
    weights = torch.randn(500, 96) * torch.rand(500, 1).exp()
    weights[7] = 0
    assert torch.equal(round_to_mxfp4(weights), unpack(quantise(weights), torch.float32))
