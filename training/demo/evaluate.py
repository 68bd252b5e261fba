"""Evaluate the demo model through the product, on held-out prompts at temperature 0.

python -m training.demo.evaluate --prompts 300 --out evaluation.json
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from ossia import LLM, SamplingParams
from ossia.harmony.tokenizer import Tokenizer
from training.demo.evaluation import LONGEST_ANSWER, evaluate


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="demo")
    parser.add_argument("--prompts", type=int, default=300, help="prompts a skill")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--out", type=Path, help="file for the figures and the failures")
    options = parser.parse_args()
    llm = LLM(options.model, device=options.device, dtype=options.dtype, max_model_len=8192)
    greedy = SamplingParams(temperature=0, max_tokens=LONGEST_ANSWER)

    def generate(prompts: list[list[int]]) -> list[list[int]]:
        return [output.token_ids for output in llm.generate(prompts, greedy)]

    result = evaluate(generate, options.prompts, Tokenizer())
    if options.out:
        options.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
