"""The Model Context Protocol: tools of other servers for our models, our tools for other clients.

The SDK takes most of a second to import; no module that a start-up needs imports it, see `sdk`.
"""
