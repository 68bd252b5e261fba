"""`ossia generate`: answer prompts in this process, one or a file of them."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ossia.cli.options import add_engine_options, add_model, engine_options
from ossia.cli.progress import startup_progress
from ossia.cli.values import choice, not_empty, real_number, token_count, whole_number
from ossia.errors import ConfigError, StartupError
from ossia.sampling import SamplingParams
from ossia.turn import ReasoningEffort

if TYPE_CHECKING:
    from ossia.answer.output import RequestOutput

HELP = "answer prompts in this process"
_STDIN = Path("-")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `ossia generate`."""
    add_model(parser)
    group = parser.add_argument_group("generation options")
    group.add_argument(
        "--prompt",
        dest="prompts",
        action="append",
        metavar="TEXT",
        help="what to answer, repeatable",
    )
    group.add_argument(
        "--prompts-file",
        type=Path,
        metavar="FILE",
        help='one prompt a line, or in a .jsonl file {"prompt": ...} a line; - is stdin',
    )
    group.add_argument(
        "--raw",
        action="store_true",
        help="continue the text of the prompt (default: answer it as a user's message)",
    )
    group.add_argument(
        "--system", type=not_empty, metavar="TEXT", help="instructions (default: none)"
    )
    efforts = tuple(effort.value for effort in ReasoningEffort)
    group.add_argument(
        "--effort",
        type=choice(*efforts),
        default="medium",
        metavar="|".join(efforts),
        help="how much the model reasons (default: medium)",
    )
    group.add_argument(
        "--max-tokens",
        type=token_count,
        metavar="TOKENS",
        help="longest answer (default: up to the context's end)",
    )
    group.add_argument(
        "--temperature",
        type=real_number(0, 100),
        default=1.0,
        metavar="T",
        help="0 takes the likeliest token (default: 1.0)",
    )
    group.add_argument(
        "--top-p",
        type=real_number(0, 1, low_open=True),
        default=1.0,
        metavar="P",
        help="sample among the likeliest tokens of this mass (default: 1.0)",
    )
    group.add_argument(
        "--top-k",
        type=whole_number(0),
        default=0,
        metavar="K",
        help="sample among this many tokens (default: 0, no limit)",
    )
    group.add_argument(
        "--stop",
        action="append",
        default=[],
        type=not_empty,
        metavar="TEXT",
        help="end an answer where this text begins, repeatable (default: none)",
    )
    group.add_argument(
        "--json", action="store_true", help="print one JSON object a line for each prompt"
    )
    add_engine_options(parser)


def run(args: argparse.Namespace) -> int:
    """Answer every prompt and print the answers in order.

    Raises:
        StartupError: the prompts cannot be read, or the model cannot be loaded.
    """
    options = engine_options(args)
    prompts = read_prompts(args.prompts or (), args.prompts_file)
    if args.raw and args.system:
        raise ConfigError("--system is for chats; leave it out, or leave out --raw.")
    sampling = SamplingParams(
        temperature=args.temperature,
        top_p=args.top_p,
        top_k=args.top_k,
        max_tokens=args.max_tokens,
    )
    outputs = _answer(options, prompts, sampling, args)
    for prompt, output in zip(prompts, outputs, strict=True):
        if args.json:
            print(json.dumps(_record(prompt, output), ensure_ascii=False))
        else:
            print(f"> {prompt}\n{output.text}\n" if len(prompts) > 1 else output.text)
        if output.error is not None:
            print(f"{prompt[:60]!r} failed: {output.error}", file=sys.stderr)
    return 1 if any(output.error is not None for output in outputs) else 0


def _answer(
    options: dict[str, Any], prompts: list[str], sampling: SamplingParams, args: argparse.Namespace
) -> list[RequestOutput]:
    with startup_progress() as progress:
        from ossia.llm import LLM

        llm = LLM(progress=progress, **options)
    bar = sys.stderr.isatty()
    if args.raw:
        return llm.generate(prompts, sampling, stop=args.stop, use_tqdm=bar)
    system = [{"role": "system", "content": args.system}] if args.system else []
    conversations = [[*system, {"role": "user", "content": prompt}] for prompt in prompts]
    return llm.chat(
        conversations, sampling, reasoning_effort=args.effort, stop=args.stop, use_tqdm=bar
    )


def read_prompts(given: Sequence[str], file: Path | None) -> list[str]:
    """The prompts of the command line, then those of `file`.

    Raises:
        ConfigError: there is no prompt at all.
        StartupError: the file cannot be read, or a line of it is not a prompt.
    """
    prompts = [*given, *(_from_file(file) if file else ())]
    if not prompts:
        raise ConfigError("There is nothing to answer: give --prompt or --prompts-file.")
    return prompts


def _from_file(file: Path) -> list[str]:
    try:
        text = sys.stdin.read() if file == _STDIN else file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise StartupError(f"--prompts-file {file} cannot be read: {reason}.") from error
    numbered = [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    if file.suffix != ".jsonl":
        return [line.rstrip("\r") for _, line in numbered]
    return [_from_json(line, f"{file}, line {number}") for number, line in numbered]


def _from_json(line: str, place: str) -> str:
    try:
        record = json.loads(line)
    except ValueError as error:
        raise StartupError(f"{place}: this is not JSON.") from error
    if not isinstance(record, dict) or not isinstance(record.get("prompt"), str):
        raise StartupError(f'{place}: an object such as {{"prompt": "Hello"}} is wanted here.')
    return str(record["prompt"])


def _record(prompt: str, output: RequestOutput) -> dict[str, Any]:
    return {
        "prompt": prompt,
        "text": output.text,
        "reasoning": output.reasoning,
        "finish_reason": output.finish_reason,
        "error": output.error,
        "usage": {
            "prompt_tokens": output.prompt_tokens,
            "cached_tokens": output.cached_tokens,
            "completion_tokens": output.completion_tokens,
            "reasoning_tokens": output.reasoning_tokens,
        },
    }
