"""`ossia convert`: write a checkpoint in either layout, and quantise its experts."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from ossia.cli.progress import startup_progress
from ossia.cli.values import byte_count, choice, not_empty, whole_number

if TYPE_CHECKING:
    from ossia.checkpoint.convert import ConvertReport

HELP = "write a checkpoint in another layout, or quantise it"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `ossia convert`."""
    parser.add_argument(
        "source",
        type=not_empty,
        metavar="SOURCE",
        help="a directory, a hub name such as openai/gpt-oss-20b, or demo",
    )
    parser.add_argument(
        "target", type=Path, metavar="TARGET", help="directory to write; must not exist"
    )
    parser.add_argument(
        "--layout",
        type=choice("hf", "original"),
        default="hf",
        metavar="hf|original",
        help="Hugging Face's layout or OpenAI's original one (default: hf)",
    )
    experts = parser.add_mutually_exclusive_group()
    experts.add_argument(
        "--quantize",
        type=choice("mxfp4"),
        metavar="mxfp4",
        help="pack bfloat16 experts (default: as they are)",
    )
    experts.add_argument(
        "--expert-dtype",
        type=choice("bfloat16"),
        metavar="bfloat16",
        help="unpack MXFP4 experts (default: as they are)",
    )
    parser.add_argument(
        "--load-format",
        type=choice("auto", "dummy"),
        default="auto",
        metavar="auto|dummy",
        help="dummy: random weights in the geometry of SOURCE (default: auto)",
    )
    parser.add_argument(
        "--shard-size",
        type=byte_count,
        default=5_000_000_000,
        metavar="SIZE",
        help="largest file, such as 5GB (default: 5GB)",
    )
    parser.add_argument(
        "--seed",
        type=whole_number(0, 2**63 - 1),
        default=0,
        metavar="N",
        help="of random weights (default: 0)",
    )


def run(args: argparse.Namespace) -> int:
    """Write TARGET and report what became of it.

    Raises:
        CheckpointError: the source is at fault, or the target cannot be written.
    """
    with startup_progress() as progress:
        from ossia.checkpoint.convert import convert
        from ossia.checkpoint.resolve import resolve_model

        report = convert(
            resolve_model(args.source, load_format=args.load_format, progress=progress),
            args.target,
            layout=args.layout,
            quantise=args.quantize,
            expert_dtype=args.expert_dtype,
            shard_bytes=args.shard_size,
            seed=args.seed,
            progress=progress,
        )
    print("\n".join(describe(report)))
    return 0


def describe(report: ConvertReport) -> list[str]:
    """The lines about a finished conversion."""
    lines = [
        f"Wrote {report.path}: {report.layout} layout, {report.expert_format} experts, "
        f"{report.tensors} tensors in {report.files} files, {report.total_bytes / 1e9:.2f} GB, "
        f"{report.seconds:.1f} s."
    ]
    lines += [
        f"MXFP4 error of {kind}: {error.relative_rms:.2%} relative RMS, largest "
        f"{error.max_absolute:.3g} ({error.max_relative:.2%} of the tensor's largest value)."
        for kind, error in report.errors.items()
    ]
    return lines
