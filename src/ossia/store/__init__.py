"""Responses and conversations that outlast the process."""
