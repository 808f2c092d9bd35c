/* x * multiplier * 2^(shift - 31) for a shift of -2 or less, rounded once, halves up. The product's low half is not
 * needed: it cannot change a floor that is taken after an integer was added. */
#ifndef TINYASC_REQUANTIZE_SINGLE_H
#define TINYASC_REQUANTIZE_SINGLE_H

#include <stdint.h>

/* Right shifts of negative numbers have to keep the sign; C leaves that to the compiler, and all known ones do. */
typedef char tinyasc_arithmetic_shift[((int32_t)-1 >> 1) == -1 ? 1 : -1];

static inline int32_t tinyasc_requantize_single(int32_t x, int32_t multiplier, int32_t shift)
{
    const int32_t high = (int32_t)(((int64_t)x * multiplier) >> 32);
    return ((high >> (-2 - shift)) + 1) >> 1;
}

#endif
