"""Kernels for processors: a library in C++ with one C interface, called through ctypes."""
