# make run     set up what is missing and serve the bundled demo model on 127.0.0.1:8000
# make test    set up what is missing and run the tests
# make check   lint, format and types
# PORT=8001 changes the port, PYTHON=python3.12 the interpreter, MODEL=... the model.

PORT ?= 8000
MODEL ?= demo
TOOLS ?= --tool-server demo --enable-mcp-tool-server
PYTHON ?= $(shell for p in python3 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12)))' \
	2>/dev/null && echo $$p && break; done)

.PHONY: run test check setup-% format clean

run: setup-run
	@exec .venv/bin/ossia serve $(MODEL) --port $(PORT) $(TOOLS)

test: setup-test
	.venv/bin/python -m pytest $(TESTS)

check: setup-dev
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy

format: setup-dev
	.venv/bin/ruff check --fix .
	.venv/bin/ruff format .

setup-%:
	@test -n "$(PYTHON)" || { echo "Ossia needs Python 3.11 or 3.12; install one of them."; exit 1; }
	@$(PYTHON) scripts/bootstrap.py $*

clean:
	rm -rf .venv build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
