"""An argparse parser whose refusals are one sentence on stderr and exit code 2."""

from __future__ import annotations

import argparse
import difflib
import re
import sys
from typing import Any, NoReturn

USAGE_ERROR = 2  # exit code of a refused command line

_WORDING = (  # argparse's and ours, applied in this order
    (r"^argument ([^:]+): ", r"\1 "),
    (r"^the following arguments are required: (.*)", r"\1 is missing"),
    (r"^[A-Z]+ invalid choice: ('.*?') \(choose", r"\1 is unknown (choose"),
    (r" not allowed with argument ", " cannot be combined with "),
    (r" expected (at least )?one argument", " needs a value"),
)


class Parser(argparse.ArgumentParser):
    """Options are never abbreviated, so that a new option cannot change an old command."""

    def __init__(self, **kwargs: Any) -> None:
        kwargs.setdefault("allow_abbrev", False)
        kwargs.setdefault("formatter_class", _Formatter)
        super().__init__(**kwargs)

    def error(self, message: str) -> NoReturn:
        """Print the refusal and leave with exit code 2."""
        print(f"{self.prog}: {self._sentence(message)}", file=sys.stderr)
        sys.exit(USAGE_ERROR)

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As argparse does, but unknown options are reported by the subcommand they stand in."""
        parsed, unknown = self.parse_known_args(args, namespace)
        if unknown:
            owner: Parser = getattr(parsed, "parser", self)
            owner.error(owner._unknown(unknown))
        return parsed

    def _unknown(self, arguments: list[str]) -> str:
        first = arguments[0].split("=")[0]
        if not first.startswith("-"):
            return f"{first!r} is one argument too many."
        near = difflib.get_close_matches(first, self._option_string_actions, n=1)
        hint = f"did you mean {near[0]}?" if near else f"see {self.prog} --help."
        return f"there is no option {first}; {hint}"

    @staticmethod
    def _sentence(message: str) -> str:
        """A sentence that begins with the option at fault."""
        for theirs, ours in _WORDING:
            message = re.sub(theirs, ours, message)
        return message if message.endswith((".", "?")) else f"{message}."


class _Formatter(argparse.HelpFormatter):
    def __init__(self, prog: str, **kwargs: Any) -> None:
        kwargs.setdefault("max_help_position", 34)
        super().__init__(prog, **kwargs)
