"""What runs in the sandboxed process: the standard library only, started without the server's
packages. Imports among these files are relative, as the folder is found under its own name there.
"""
