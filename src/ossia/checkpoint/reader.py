"""A checkpoint directory, opened: every tensor known and checked before any data is read."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from ossia.checkpoint.device_files import DeviceTensorFiles
from ossia.checkpoint.layouts import Layout, StoredTensor, layer_prefix, stored_tensors
from ossia.checkpoint.parts import Part, model_parts
from ossia.checkpoint.tensor_files import DTYPES, TensorEntry, TensorFiles
from ossia.config import ModelConfig
from ossia.errors import CheckpointError

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
_CPU = torch.device("cpu")
_FLOATS = ("BF16", "F16", "F32")


def tensor_files(directory: Path, layout: Layout) -> tuple[Path, ...]:
    """The safetensors files of a checkpoint directory.

    Raises:
        CheckpointError: there is none, or the index names one that is not there.
    """
    if layout == "hf" and (directory / INDEX).is_file():
        return _indexed_files(directory / INDEX)
    if layout == "hf" and (directory / SINGLE).is_file():
        return (directory / SINGLE,)
    files = tuple(sorted(directory.glob("*.safetensors")))
    if not files:
        others = sorted(
            p.name for p in directory.iterdir() if p.suffix in (".bin", ".gguf", ".pt", ".pth")
        )
        found = f" ({others[0]} is of another format)" if others else ""
        raise CheckpointError(
            f"{directory} holds no safetensors file{found}: "
            "download the model-*.safetensors files of the checkpoint."
        )
    return files


def _indexed_files(index: Path) -> tuple[Path, ...]:
    try:
        names = sorted(set(json.loads(index.read_bytes())["weight_map"].values()))
    except OSError as error:
        raise CheckpointError(f"{index} cannot be read: {error.strerror or error}.") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{index} is damaged: download it again.") from error
    for name in names:
        if not isinstance(name, str) or Path(name).name != name:
            raise CheckpointError(f"{index} names {name!r}, which is not a file beside it.")
        if not (index.parent / name).is_file():
            raise CheckpointError(
                f"{index} names {name}, which is missing: download {name} to {index.parent}."
            )
    return tuple(index.parent / name for name in names)


class CheckpointReader:
    """Parts of a checkpoint in either layout: views of mapped files on the CPU, tensors read ahead
    on another device, where each part can be had once.

    Raises:
        CheckpointError: on construction, if a file or tensor is missing, damaged, or does not
            fit the configuration.
    """

    def __init__(
        self,
        directory: Path,
        layout: Layout,
        config: ModelConfig,
        device: torch.device = _CPU,
    ) -> None:
        self.config = config
        self._directory = directory
        self._layout = layout
        files = tensor_files(directory, layout)
        on_cpu = device.type == "cpu"
        self._files = TensorFiles(files) if on_cpu else DeviceTensorFiles(files, device)
        self._stored = {
            part.name: stored_tensors(layout, config, part) for part in model_parts(config)
        }
        for part in model_parts(config):
            for stored in self._stored[part.name]:
                self._check(part, stored)
        self._check_no_more_layers()
        self._files.expect(self._names_by_layer())

    def dtype(self, part: Part) -> torch.dtype:
        """The dtype of a part, without reading it."""
        return DTYPES[self._files.entries[self._stored[part.name][0].name].dtype]

    def describe(self, part: Part) -> str:
        """The file and tensor of a part, for messages to the user."""
        name = self._stored[part.name][0].name
        return f"{self._files.entries[name].file}: tensor {name}"

    def part(self, part: Part) -> Tensor:
        """One part in the orientation of `ModelWeights`.

        On the CPU a view of the mapped file where the layout stores the part in one piece
        (transposed, not contiguous, for the bfloat16 experts of a Hugging Face checkpoint), else
        a copy.
        """
        stored = self._stored[part.name]
        tensors = [self._files.tensor(s.name) for s in stored]
        if len(tensors) == 1:
            return tensors[0].transpose(-1, -2) if stored[0].transposed else tensors[0]
        joined = torch.cat([t.to(tensors[0].dtype) for t in tensors])
        self.release(part)
        return joined

    def release(self, part: Part) -> None:
        """Give back the memory of a part that was copied."""
        for stored in self._stored[part.name]:
            self._files.release(stored.name)

    def close(self) -> None:
        """End whatever is under way."""
        self._files.close()

    def _names_by_layer(self) -> Iterator[list[str]]:
        for _, parts in itertools.groupby(model_parts(self.config), lambda part: part.layer):
            yield [stored.name for part in parts for stored in self._stored[part.name]]

    def _check(self, part: Part, stored: StoredTensor) -> None:
        entry = self._files.entries.get(stored.name)
        if entry is None:
            raise CheckpointError(self._missing(stored.name))
        dtypes = ("U8",) if stored.packed else _FLOATS
        if entry.dtype not in dtypes:
            raise CheckpointError(
                f"{entry.file}: tensor {stored.name} has dtype {entry.dtype}, "
                f"but {' or '.join(dtypes)} is needed; use a checkpoint that stores it so."
            )
        if entry.shape != stored.shape:
            raise CheckpointError(self._wrong_shape(part, stored, entry))

    def _missing(self, name: str) -> str:
        where = self._files.files[0] if len(self._files.files) == 1 else self._directory
        packed = {f"{name}_blocks", f"{name}.blocks"} & self._files.entries.keys()
        plain = re.sub(r"[._](blocks|scales)$", "", name)
        if packed:
            return (
                f"{where} has no tensor {name} but a packed {packed.pop()}: config.json lacks "
                'quantization_config {"quant_method": "mxfp4"}.'
            )
        if plain != name and plain in self._files.entries:
            return (
                f"{where} has no tensor {name} but an unpacked {plain}: "
                "remove quantization_config from config.json."
            )
        return (
            f"{where} has no tensor {name}: a file is missing or the checkpoint is incomplete; "
            "download it again."
        )

    def _wrong_shape(self, part: Part, stored: StoredTensor, entry: TensorEntry) -> str:
        if part.field in ("embedding", "lm_head") and entry.shape[1:] == stored.shape[1:]:
            return (
                f"{entry.file}: tensor {stored.name} has {entry.shape[0]} rows, but config.json "
                f"has a vocab_size of {stored.shape[0]}; they must agree."
            )
        return (
            f"{entry.file}: tensor {stored.name} has shape {list(entry.shape)}, "
            f"but config.json makes it {list(stored.shape)}; they must agree."
        )

    def _check_no_more_layers(self) -> None:
        prefix = layer_prefix(self._layout, self.config.num_layers)
        for name, entry in self._files.entries.items():
            if name.startswith(prefix):
                raise CheckpointError(
                    f"{entry.file} holds tensor {name}, but config.json has only "
                    f"{self.config.num_layers} layers; they must agree."
                )
