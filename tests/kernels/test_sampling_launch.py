"""The launcher of the sampling kernels remembers what was compiled; this needs no Triton."""

from __future__ import annotations

import torch

from ossia.kernels.sampling.triton_launch import Launcher


class Kernel:
    """Stands for a function of `triton.jit`; both ways of launching are recorded."""

    arg_names = ("x_ptr", "slot_ptr", "COUNT", "WIDTH")

    def __init__(self) -> None:
        self.compiled = 0
        self.remembered: list[tuple] = []

    def fn(self) -> None: ...

    def __getitem__(self, grid):
        def run(*tensors, **arguments):
            self.compiled += 1
            return Compiled(self, arguments)

        return run


class Compiled:
    def __init__(self, kernel: Kernel, arguments: dict) -> None:
        self.kernel, self.arguments = kernel, arguments

    def __getitem__(self, grid):
        return lambda *values: self.kernel.remembered.append((grid, *values))


def test_the_second_launch_of_a_variant_passes_addresses_and_constants_in_order():
    launch, kernel = Launcher(), Kernel()
    x, slots = torch.zeros(16), torch.zeros(9, dtype=torch.int32)[1:]
    constants = {"WIDTH": 5, "COUNT": 3}
    launch(kernel, (2, 1, 1), (x, slots), constants, loose=1, num_warps=4)
    launch(kernel, (7, 1, 1), (x, slots), constants, loose=1, num_warps=4)
    assert kernel.compiled == 1
    assert kernel.remembered == [((7, 1, 1), x.data_ptr(), slots.data_ptr(), 3, 5)]


def test_other_types_constants_and_options_are_other_variants():
    launch, kernel = Launcher(), Kernel()
    x, slots = torch.zeros(16), torch.zeros(8, dtype=torch.int32)
    constants = {"COUNT": 3, "WIDTH": 5}
    launch(kernel, (1, 1, 1), (x, slots), constants, num_warps=4)
    launch(kernel, (1, 1, 1), (x, slots.long()), constants, num_warps=4)
    launch(kernel, (1, 1, 1), (x, slots), {**constants, "WIDTH": 6}, num_warps=4)
    launch(kernel, (1, 1, 1), (x, slots), constants, num_warps=8)
    assert (kernel.compiled, kernel.remembered) == (4, [])


def test_pointers_that_are_not_aligned_are_left_to_triton():
    launch, kernel = Launcher(), Kernel()
    x, slots = torch.zeros(16), torch.zeros(8, dtype=torch.int32)
    for tensor in (x, x[1:], x[1:], x):
        launch(kernel, (1, 1, 1), (tensor, slots), {"COUNT": 3, "WIDTH": 5})
    assert (kernel.compiled, len(kernel.remembered)) == (3, 1)


def test_scratch_is_the_same_memory_until_more_is_needed():
    launch, like = Launcher(), torch.zeros(1, dtype=torch.int32)
    small = launch.buffer("a", 10, like)
    assert launch.buffer("a", 4, like) is small
    assert launch.buffer("b", 4, like) is not small
    assert launch.buffer("a", 11, like).numel() == 11
    assert small.dtype == torch.int32
