#include "tinyasc_lookup_TYPE.h"

void tinyasc_lookup_TYPE(const tinyasc_lookup_TYPE_args *args, const VALUE_T *x, VALUE_T *y)
{
    const VALUE_T *middle = args->table - (VALUE_MIN);
    int32_t left;
    for (left = args->count; left > 0; left--) {
        *y++ = middle[*x++];
    }
}
