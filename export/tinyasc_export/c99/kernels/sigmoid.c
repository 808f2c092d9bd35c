#include "tinyasc_sigmoid_TYPE.h"

void tinyasc_sigmoid_TYPE(const tinyasc_sigmoid_TYPE_args *args, const VALUE_T *x, VALUE_T *y)
{
    int32_t left;
    for (left = args->count; left > 0; left--) {
        const int32_t scaled = (*x++ * args->factor + args->half) >> args->shift;
        const int32_t size = scaled < 0 ? -scaled : scaled;
        const int32_t at = size >> 9;
        int32_t value = (int32_t)0x7FFF << 10;
        if (at < 255) {
            const int32_t low = args->table[at];
            value = low * 512 + (size & 511) * (args->table[at + 1] - low);
        }
        *y++ = (VALUE_T)((scaled >= 0 ? value + 512 : ((int32_t)1 << 25) - value + 511) >> 10);
    }
}
