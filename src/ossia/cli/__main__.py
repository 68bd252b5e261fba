"""`python -m ossia.cli`, the same as `ossia`."""

from __future__ import annotations

import sys

from ossia.cli import main

sys.exit(main())
