/* x * multiplier * 2^(shift - 31), rounded as in tinyasc_requantize_tflite, for any shift. */
#ifndef TINYASC_REQUANTIZE_TFLITE_ANY_H
#define TINYASC_REQUANTIZE_TFLITE_ANY_H

#include <stdint.h>

/* Right shifts of negative numbers have to keep the sign; C leaves that to the compiler, and all known ones do. */
typedef char tinyasc_arithmetic_shift[((int32_t)-1 >> 1) == -1 ? 1 : -1];

static inline int32_t tinyasc_requantize_tflite_any(int32_t x, int32_t multiplier, int32_t shift)
{
    int32_t high;
    if (shift >= 0) {
        return (int32_t)(((int64_t)(x * ((int32_t)1 << shift)) * multiplier + ((int64_t)1 << 30)) >> 31);
    }
    high = (int32_t)(((int64_t)x * multiplier + ((int64_t)1 << 30)) >> 31);
    return (((high + (high >> 31)) >> (-1 - shift)) + 1) >> 1;
}

#endif
