"""Train the demo model on one GPU, export it and evaluate it.

    python -m training.demo.train --minutes 14 --out runs/demo

Conversations are written on the fly by worker processes, so no two batches are the same. The
learning rate follows the clock, so that training ends in time on any GPU.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path

import torch

from training.demo import vocabulary
from training.demo.batches import Workers
from training.demo.evaluation import evaluate_network
from training.demo.export import export, load, with_rows
from training.demo.network import DemoNetwork, demo_config
from training.demo.optimizer import DemoOptimizer, rate_share

TOKENS = 49152  # in one step


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--minutes", type=float, default=14.0, help="training time in all")
    parser.add_argument("--stop-after", type=float, help="minutes of this run; resume later")
    parser.add_argument("--out", type=Path, default=Path("runs/demo"), help="folder for the files")
    parser.add_argument("--state", type=Path, help="file to resume from, and to save to")
    parser.add_argument("--start", type=Path, help="folder of an exported model to go on from")
    parser.add_argument("--tokens", type=int, default=TOKENS, help="tokens in one step")
    parser.add_argument("--workers", type=int, default=max(1, (os.cpu_count() or 2) - 2))
    parser.add_argument("--seed", default="demo")
    parser.add_argument("--muon-rate", type=float, default=0.02)
    parser.add_argument("--adam-rate", type=float, default=0.003)
    parser.add_argument("--prompts", type=int, default=300, help="evaluation prompts a skill")
    return parser.parse_args()


def main() -> None:
    options = arguments()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    workers = Workers(f"{options.seed}/{time.time()}", options.tokens, options.workers)
    torch.manual_seed(0)
    ids = vocabulary.stored_ids()
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    network = DemoNetwork(demo_config(), len(ids) + 1, dtype)
    if options.start:
        network = with_rows(*load(options.start, dtype), ids)
    network = network.to(device)
    optimizer = DemoOptimizer(network, muon_rate=options.muon_rate, adam_rate=options.adam_rate)
    step, earlier = 0, 0.0  # steps and seconds done
    if options.state and options.state.exists():
        saved = torch.load(options.state, map_location=device)
        network.load_state_dict(saved["network"])
        optimizer.load(saved["optimizer"])
        step, earlier = saved["step"], saved["seconds"]
        print(f"resumed at step {step}, {earlier:.0f} s", flush=True)
    compute = torch.compile(network.loss, dynamic=False) if device.type == "cuda" else network.loss

    options.out.mkdir(parents=True, exist_ok=True)
    log = (options.out / "log.jsonl").open("a")
    total = options.minutes * 60
    last = min(total, earlier + options.stop_after * 60) if options.stop_after else total
    begun = exported = time.time()
    first_step, tokens_before, report_at = step, 0, begun
    seconds = earlier
    while seconds < last:
        loss, own_loss, accuracy = compute(*workers.next().to(device))
        loss.backward()
        optimizer.step(rate_share(seconds / total, step))
        step += 1
        if step == first_step + 3:  # compiled by now: the clock starts
            if device.type == "cuda":
                torch.cuda.synchronize()
            print(f"first steps took {time.time() - begun:.0f} s", flush=True)
            begun = report_at = exported = time.time()
            tokens_before = step
        seconds = earlier + (time.time() - begun if step > first_step + 3 else 0.0)
        if step % 50 == 0:
            line = {
                "step": step,
                "seconds": round(seconds, 1),
                "tokens": step * options.tokens,
                "loss": round(own_loss.item(), 5),
                "accuracy": round(accuracy.item(), 5),
                "all_loss": round(loss.item(), 4),
            }
            log.write(json.dumps(line) + "\n")
            log.flush()
            if step % 200 == 0:
                now = time.time()
                speed = (step - tokens_before) * options.tokens / max(now - report_at, 1e-3)
                tokens_before, report_at = step, now
                print(line, f"{speed / 1e6:.2f} Mtok/s, {workers.waiting} waiting", flush=True)
        if time.time() - exported > 120:
            exported = time.time()
            export(network, ids, options.out)
    workers.stop()
    if options.state:
        state = {"network": network.state_dict(), "optimizer": optimizer.state()}
        torch.save(state | {"step": step, "seconds": seconds}, options.state)
    export(network, ids, options.out)
    print(f"{step} steps, {step * options.tokens / 1e6:.0f} million tokens, exported", flush=True)
    if options.prompts:
        exported_network, ids = load(options.out, dtype)
        result = evaluate_network(exported_network.to(device), ids, options.prompts, options.tokens)
        (options.out / "evaluation.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
