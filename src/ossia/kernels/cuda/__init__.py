"""Kernels in CUDA C++: compiled by NVRTC, loaded and launched through the CUDA driver."""
