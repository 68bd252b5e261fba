#!/bin/sh
# 1, 8 and 32 clients of a server on this machine: serve.sh [MODEL] [OPTIONS of ossia serve]
set -eu

results="$(dirname "$0")/results"
mkdir -p "$results"
port="$(python -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')"
url="http://127.0.0.1:$port"

ossia serve "$@" --port "$port" --log-level warning > "$results/server.log" 2>&1 &
server=$!
trap 'kill "$server" 2> /dev/null; wait "$server" || true' EXIT

for _ in $(seq 600); do
    python -c "import urllib.request as u; u.urlopen('$url/health')" 2> /dev/null && break
    kill -0 "$server" 2> /dev/null || { cat "$results/server.log" >&2; exit 1; }
    sleep 1
done

ossia bench serve --url "$url" --concurrency 1,8,32 --json "$results/serve-random.json"
ossia bench serve --url "$url" --concurrency 1,8,32 --prompts demo --output-len 256 \
    --json "$results/serve-demo.json"
