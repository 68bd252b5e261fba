"""gpt-oss's own `python` tool: code that the model writes runs in a sandboxed process.

Code of a model is code of whoever wrote what the model read: a web page, a document, a user. It is
taken to be hostile.

What the sandbox keeps it from:

- files: it sees the interpreter, numpy and the system's libraries, all read-only, and a folder in
  memory for its own files; not the server's folders, configuration, environment, home folders;
- the network: it has a network namespace without any device, and sockets for nothing but itself;
- other processes: it sees and can signal only its own, whatever the server runs as;
- privileges: it is nobody, in a user namespace without anybody else and without capabilities; a
  seccomp filter refuses the system calls that sandboxes were left by;
- resources: memory, processes, processor time, files, output and the time of each call are
  limited, and nothing of it runs between two calls;
- other conversations: each has a process and files of its own.

What it does not keep it from: holes of the Linux kernel, which both share, and of the processor;
learning from time and load what else the machine does; the name and version of the kernel and the
path of the interpreter; using up to the limits what all conversations share, which includes kernel
memory of open sockets and pipes. For users whom you would not give an account on the machine, run
the server in a virtual machine of its own.

There is one sandbox, made of namespaces by `sandbox/launcher.py`, and no way to go without.
"""

from ossia.tools.python.tool import python_tool, sandbox_report

__all__ = ["python_tool", "sandbox_report"]
