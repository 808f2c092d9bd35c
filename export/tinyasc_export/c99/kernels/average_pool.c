#include "tinyasc_average_pool_TYPE.h"

/* The mean of the values that lie inside the map, halves away from zero. */
void tinyasc_average_pool_TYPE(const tinyasc_average_pool_TYPE_args *args, const VALUE_T *x, VALUE_T *y)
{
    const int32_t channels = args->channels;
    const int32_t pitch = args->width * channels;
    int32_t row;
    int32_t column;
    for (row = 0; row < args->out_height; row++) {
        for (column = 0; column < args->out_width; column++) {
            const int32_t i = row * args->stride_height - args->top;
            const int32_t j = column * args->stride_width - args->left;
            const int32_t i0 = i > 0 ? i : 0;
            const int32_t j0 = j > 0 ? j : 0;
            const int32_t i1 = i + args->kernel_height < args->height ? i + args->kernel_height : args->height;
            const int32_t j1 = j + args->kernel_width < args->width ? j + args->kernel_width : args->width;
            const int32_t span = (j1 - j0) * channels;
            const int32_t count = (i1 - i0) * (j1 - j0);
            const VALUE_T *corner = x + i0 * pitch + j0 * channels;
            int32_t c;
            for (c = 0; c < channels; c++) {
                const VALUE_T *from = corner++;
                int32_t sum = 0;
                int32_t r;
                for (r = i1 - i0; r > 0; r--) {
                    int32_t s;
                    for (s = 0; s < span; s += channels) {
                        sum += from[s];
                    }
                    from += pitch;
                }
                sum += sum > 0 ? count / 2 : -(count / 2);
                *y++ = (VALUE_T)(sum / count);
            }
        }
    }
}
