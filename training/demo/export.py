"""The trained network as the files that ship with the package: config.json, model.safetensors.

Tensors have the names and the packing of a Hugging Face gpt-oss checkpoint with MXFP4 experts.
Embedding and head hold the stored rows and one row for all other ids; `token_ids` names the rows.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from ossia.config import model_config_to_hf
from ossia.mxfp4 import Mxfp4Tensor, quantise, unpack
from training.demo.network import DemoNetwork, demo_config, round_to_mxfp4

PLAIN = {
    "input_norm": "input_layernorm.weight",
    "post_norm": "post_attention_layernorm.weight",
    "q": "self_attn.q_proj.weight",
    "q_bias": "self_attn.q_proj.bias",
    "k": "self_attn.k_proj.weight",
    "k_bias": "self_attn.k_proj.bias",
    "v": "self_attn.v_proj.weight",
    "v_bias": "self_attn.v_proj.bias",
    "out": "self_attn.o_proj.weight",
    "out_bias": "self_attn.o_proj.bias",
    "sinks": "self_attn.sinks",
    "router": "mlp.router.weight",
    "router_bias": "mlp.router.bias",
    "gate_up_bias": "mlp.experts.gate_up_proj_bias",
    "down_bias": "mlp.experts.down_proj_bias",
}
PACKED = {"gate_up": "mlp.experts.gate_up_proj", "down": "mlp.experts.down_proj"}
WHOLE = {
    "embedding": "model.embed_tokens.weight",
    "head": "lm_head.weight",
    "norm": "model.norm.weight",
}


def export(network: DemoNetwork, token_ids: list[int], folder: Path) -> None:
    """Write both files; `token_ids` are those of the rows, ascending."""
    values = {name: p.detach().float().cpu() for name, p in network.named_parameters()}
    tensors: dict[str, Tensor] = {"token_ids": torch.tensor(token_ids, dtype=torch.int32)}
    for name, target in WHOLE.items():
        tensors[target] = values[name].bfloat16()
    for layer in range(network.config.num_layers):
        prefix = f"model.layers.{layer}."
        for name, target in PLAIN.items():
            tensors[prefix + target] = values[name][layer].bfloat16().contiguous()
        for name, target in PACKED.items():
            packed = quantise(round_to_mxfp4(values[name][layer]))
            tensors[f"{prefix}{target}_blocks"] = packed.blocks
            tensors[f"{prefix}{target}_scales"] = packed.scales
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    text = json.dumps(model_config_to_hf(network.config), indent=2)
    (folder / "config.json").write_text(text + "\n")


def with_rows(network: DemoNetwork, old: list[int], new: list[int]) -> DemoNetwork:
    """The same network with the rows of another vocabulary; new rows start as the shared one."""
    place = {token: row for row, token in enumerate(old)}
    rows = torch.tensor([place.get(token, len(old)) for token in new] + [len(old)])
    other = DemoNetwork(network.config, len(new) + 1, network.dtype)
    values = network.state_dict()
    for name in ("embedding", "head"):
        values[name] = values[name][rows]
    other.load_state_dict(values)
    return other


def load(folder: Path, dtype: torch.dtype) -> tuple[DemoNetwork, list[int]]:
    """The exported network, and the token ids of its rows."""
    with safe_open(folder / "model.safetensors", "pt") as file:
        ids: list[int] = file.get_tensor("token_ids").tolist()
        network = DemoNetwork(demo_config(), len(ids) + 1, dtype)
        values = {name: file.get_tensor(target).float() for name, target in WHOLE.items()}
        layers = range(network.config.num_layers)
        for name, target in PLAIN.items():
            per_layer = [file.get_tensor(f"model.layers.{i}.{target}").float() for i in layers]
            values[name] = torch.stack(per_layer)
        for name, target in PACKED.items():
            experts = []
            for i in layers:
                blocks, scales = (
                    file.get_tensor(f"model.layers.{i}.{target}_{part}")
                    for part in ("blocks", "scales")
                )
                experts.append(unpack(Mxfp4Tensor(blocks, scales), torch.float32))
            values[name] = torch.stack(experts)
    network.load_state_dict(values)
    return network, ids
