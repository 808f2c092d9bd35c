#include "tinyasc_copy_TYPE.h"

void tinyasc_copy_TYPE(const tinyasc_copy_TYPE_args *args, const VALUE_T *x, VALUE_T *y)
{
    int32_t i;
    int32_t j;
    int32_t k;
    for (i = 0; i < args->sizes[0]; i++) {
        for (j = 0; j < args->sizes[1]; j++) {
            for (k = 0; k < args->sizes[2]; k++) {
                const VALUE_T *from = x + i * args->x_strides[0] + j * args->x_strides[1] + k * args->x_strides[2];
                VALUE_T *to = y + i * args->y_strides[0] + j * args->y_strides[1] + k * args->y_strides[2];
                int32_t left;
                for (left = args->row; left > 0; left--) {
                    *to++ = *from++;
                }
            }
        }
    }
}
