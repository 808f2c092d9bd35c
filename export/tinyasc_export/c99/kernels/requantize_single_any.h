/* x * multiplier * 2^(shift - 31), rounded once, halves up, for any shift. */
#ifndef TINYASC_REQUANTIZE_SINGLE_ANY_H
#define TINYASC_REQUANTIZE_SINGLE_ANY_H

#include <stdint.h>

/* Right shifts of negative numbers have to keep the sign; C leaves that to the compiler, and all known ones do. */
typedef char tinyasc_arithmetic_shift[((int32_t)-1 >> 1) == -1 ? 1 : -1];

static inline int32_t tinyasc_requantize_single_any(int32_t x, int32_t multiplier, int32_t shift)
{
    return (int32_t)(((int64_t)x * multiplier + ((int64_t)1 << (30 - shift))) >> (31 - shift));
}

#endif
