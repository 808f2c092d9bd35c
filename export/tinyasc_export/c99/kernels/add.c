#include "tinyasc_add_TYPE.h"

#include "tinyasc_clamp_RANGE.h"
#include "tinyasc_REQUANTIZE.h"

void tinyasc_add_TYPE(const tinyasc_add_TYPE_args *args, const VALUE_T *a, const VALUE_T *b, VALUE_T *y)
{
    const int32_t unit = (int32_t)1 << SPARE_BITS; /* both operands are brought to one scale with so many bits more */
    const int32_t row = args->row;
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
                for (left = row; left > 0; left--) {
                    const int32_t value_a = (*from_a - args->a_zero) * unit;
                    const int32_t value_b = (*from_b - args->b_zero) * unit;
                    const int32_t sum = tinyasc_REQUANTIZE(value_a, args->a_multiplier, args->a_shift) +
                                        tinyasc_REQUANTIZE(value_b, args->b_multiplier, args->b_shift);
                    const int32_t scaled = tinyasc_REQUANTIZE(sum, args->multiplier, args->shift);
                    *y++ = tinyasc_clamp_RANGE(scaled + args->zero, args->low);
                    from_a++;
                    from_b += b_step;
                }
            }
        }
    }
}
