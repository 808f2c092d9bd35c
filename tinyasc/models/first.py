"""First convolutions that look at many short frames and answer a few times a second. [ours]

A hop of 64 ms cannot show what tells a rotor from rain: changes of ten or more a second. A hop of 16 ms does, in four
times as many frames. A first convolution of time stride 4, twice as long as its stride, hears them, and what follows
stays as small as it was.
"""

from __future__ import annotations

from collections.abc import Sequence

from tinyasc.errors import InputError

# Far beyond what a clip's frames bear; without a bound a slip of the keyboard asks torch for gigabytes of kernel.
LONGEST = 64


def first_convolution(
    family: str, kernel: tuple[int, int], stride: Sequence[int]
) -> tuple[tuple[int, int], tuple[int, int]]:
    """Kernel and stride, (frequency, time) each, of a first convolution.

    Args:
        family: for the error line.
        kernel: the family's own, odd.
        stride: as the recipe gives it.

    Returns:
        The kernel, along an axis of stride above 2 at least twice the stride and one long; and the stride.

    Raises:
        InputError: not two whole numbers from 1 to `LONGEST`.
    """
    if (
        not isinstance(stride, Sequence)
        or len(stride) != 2
        or not all(type(s) is int and 1 <= s <= LONGEST for s in stride)
    ):
        raise InputError(
            f"{family}: first_stride must be two whole numbers from 1 to {LONGEST}, frequency and time, got {stride!r}"
        )
    longer = [max(size, 2 * step + 1) if step > 2 else size for size, step in zip(kernel, stride, strict=True)]
    return (longer[0], longer[1]), (stride[0], stride[1])


def halved(kernel: tuple[int, int]) -> tuple[int, int]:
    """The padding that centres an odd kernel."""
    return kernel[0] // 2, kernel[1] // 2
