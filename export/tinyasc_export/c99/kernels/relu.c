#include "tinyasc_relu_TYPE.h"

#include "tinyasc_clamp_RANGE.h"
#include "tinyasc_REQUANTIZE.h"

void tinyasc_relu_TYPE(const tinyasc_relu_TYPE_args *args, const VALUE_T *x, VALUE_T *y)
{
    int32_t left;
    for (left = args->count; left > 0; left--) {
        *y++ = tinyasc_clamp_RANGE(tinyasc_REQUANTIZE(*x++, args->multiplier, args->shift), 0);
    }
}
