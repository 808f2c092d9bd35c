#include "tinyasc_fill_TYPE.h"

void tinyasc_fill_TYPE(const tinyasc_fill_TYPE_args *args, VALUE_T *y)
{
    const VALUE_T value = args->value;
    int32_t left;
    for (left = args->count; left > 0; left--) {
        *y++ = value;
    }
}
