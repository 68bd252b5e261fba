#!/bin/sh
# The engine without HTTP: engine.sh [MODEL] [engine OPTIONS of ossia serve]
set -eu

results="$(dirname "$0")/results"
mkdir -p "$results"

ossia bench latency "$@" --batch-size 1 --json "$results/latency-1.json"
ossia bench latency "$@" --batch-size 8 --json "$results/latency-8.json"
ossia bench throughput "$@" --num-requests 64 --json "$results/throughput.json"
