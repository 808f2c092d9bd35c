#include "tinyasc_maximum_TYPE.h"

void tinyasc_maximum_TYPE(const tinyasc_maximum_TYPE_args *args, const VALUE_T *a, const VALUE_T *b, VALUE_T *y)
{
    const int32_t b_step = args->b_step;
    int32_t i;
    int32_t j;
    int32_t k;
    for (i = 0; i < args->sizes[0]; i++) {
        for (j = 0; j < args->sizes[1]; j++) {
            for (k = 0; k < args->sizes[2]; k++) {
                const VALUE_T *from_a = a + i * args->a_strides[0] + j * args->a_strides[1] + k * args->a_strides[2];
                const VALUE_T *from_b = b + i * args->b_strides[0] + j * args->b_strides[1] + k * args->b_strides[2];
                int32_t left;
                for (left = args->row; left > 0; left--) {
                    *y++ = *from_a > *from_b ? *from_a : *from_b;
                    from_a++;
                    from_b += b_step;
                }
            }
        }
    }
}
