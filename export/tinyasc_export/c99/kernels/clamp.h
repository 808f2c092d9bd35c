/* Saturation at the end of an operator. `low` is the zero point after a ReLU, else the type's least value. */
#ifndef TINYASC_CLAMP_TYPE_H
#define TINYASC_CLAMP_TYPE_H

#include <stdint.h>

static inline VALUE_T tinyasc_clamp_TYPE(int32_t y, int32_t low)
{
    /* To the type first, which is one instruction where a processor saturates. */
    y = y < VALUE_MIN ? VALUE_MIN : y > VALUE_MAX ? VALUE_MAX : y;
    return (VALUE_T)(y < low ? low : y);
}

#endif
