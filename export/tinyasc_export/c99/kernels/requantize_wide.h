/* x * multiplier * 2^-shift, rounded once, halves up: the rescaling of int16x8 sums, whose multiplier has 16 bits. */
#ifndef TINYASC_REQUANTIZE_WIDE_H
#define TINYASC_REQUANTIZE_WIDE_H

#include <stdint.h>

/* Right shifts of negative numbers have to keep the sign; C leaves that to the compiler, and all known ones do. */
typedef char tinyasc_arithmetic_shift[((int32_t)-1 >> 1) == -1 ? 1 : -1];

static inline int32_t tinyasc_requantize_wide(int64_t x, int32_t multiplier, int32_t shift)
{
    return (int32_t)((x * multiplier + ((int64_t)1 << (shift - 1))) >> shift);
}

#endif
