"""The `browser` tool that gpt-oss was trained on: search, open and find."""

from ossia.tools.browser.tools import browser_tools

__all__ = ["browser_tools"]
