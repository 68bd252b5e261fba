"""Tools that the server runs: built in, plugged in, and of MCP servers."""
