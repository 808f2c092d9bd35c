/* x * multiplier * 2^(shift - 31), rounded once, halves up. */
#ifndef TINYASC_REQUANTIZE_SINGLE_H
#define TINYASC_REQUANTIZE_SINGLE_H

#include <stdint.h>

/* Right shifts of negative numbers have to keep the sign; C leaves that to the compiler, and all known ones do. */
typedef char tinyasc_arithmetic_shift[((int32_t)-1 >> 1) == -1 ? 1 : -1];

static inline int32_t tinyasc_requantize_single(int32_t x, int32_t multiplier, int32_t shift)
{
    const int64_t product = (int64_t)x * multiplier;
    if (shift <= -2) {
        /* The low half cannot change a floor that is taken after an integer was added. */
        return ((int32_t)(product >> 32) + ((int32_t)1 << (-2 - shift))) >> (-1 - shift);
    }
    return (int32_t)((product + ((int64_t)1 << (30 - shift))) >> (31 - shift));
}

#endif
