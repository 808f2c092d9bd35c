/* x * multiplier * 2^(shift - 31) for a shift of -1 or less, rounded twice, as TensorFlow Lite Micro does by default:
 * halves up where the product's high half is taken, halves away from zero where that is shifted down. */
#ifndef TINYASC_REQUANTIZE_TFLITE_H
#define TINYASC_REQUANTIZE_TFLITE_H

#include <stdint.h>

/* Right shifts of negative numbers have to keep the sign; C leaves that to the compiler, and all known ones do. */
typedef char tinyasc_arithmetic_shift[((int32_t)-1 >> 1) == -1 ? 1 : -1];

static inline int32_t tinyasc_requantize_tflite(int32_t x, int32_t multiplier, int32_t shift)
{
    const int32_t high = (int32_t)(((int64_t)x * multiplier + ((int64_t)1 << 30)) >> 31);
    return (((high + (high >> 31)) >> (-1 - shift)) + 1) >> 1;
}

#endif
