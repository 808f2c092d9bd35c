#include "tinyasc_average_pool_TYPE.h"

/* Halves away from zero. */
static inline VALUE_T mean_of(int32_t sum, int32_t count)
{
    sum += sum > 0 ? count / 2 : -(count / 2);
    return (VALUE_T)(sum / count);
}

/* The mean of the values that lie inside the map. */
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
            int32_t left = channels;
            /* Four channels at once, written when all of them are read. */
            for (; left >= 4; left -= 4) {
                const VALUE_T *from = corner;
                int32_t sum0 = 0;
                int32_t sum1 = 0;
                int32_t sum2 = 0;
                int32_t sum3 = 0;
                int32_t r = i1 - i0;
                for (;;) {
                    int32_t s;
                    for (s = 0; s < span; s += channels) {
                        sum0 += from[s + 0];
                        sum1 += from[s + 1];
                        sum2 += from[s + 2];
                        sum3 += from[s + 3];
                    }
                    r--;
                    if (r == 0) {
                        break; /* before `from` leaves the map */
                    }
                    from += pitch;
                }
                y[0] = mean_of(sum0, count);
                y[1] = mean_of(sum1, count);
                y[2] = mean_of(sum2, count);
                y[3] = mean_of(sum3, count);
                corner += 4;
                y += 4;
            }
            for (; left > 0; left--) {
                const VALUE_T *from = corner++;
                int32_t sum = 0;
                int32_t r = i1 - i0;
                for (;;) {
                    int32_t s;
                    for (s = 0; s < span; s += channels) {
                        sum += from[s];
                    }
                    r--;
                    if (r == 0) {
                        break; /* before `from` leaves the map */
                    }
                    from += pitch;
                }
                *y++ = mean_of(sum, count);
            }
        }
    }
}
