"""The bodies of requests, as pydantic models; also what /openapi.json shows."""
