#include "tinyasc_max_pool_TYPE.h"

void tinyasc_max_pool_TYPE(const tinyasc_max_pool_TYPE_args *args, const VALUE_T *x, VALUE_T *y)
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
            const VALUE_T *corner = x + i0 * pitch + j0 * channels;
            int32_t left = channels;
            /* Four channels at once, written when all of them are read. */
            for (; left >= 4; left -= 4) {
                const VALUE_T *from = corner;
                VALUE_T largest0 = from[0];
                VALUE_T largest1 = from[1];
                VALUE_T largest2 = from[2];
                VALUE_T largest3 = from[3];
                int32_t r = i1 - i0;
                for (;;) {
                    int32_t s;
                    for (s = 0; s < span; s += channels) {
                        largest0 = from[s + 0] > largest0 ? from[s + 0] : largest0;
                        largest1 = from[s + 1] > largest1 ? from[s + 1] : largest1;
                        largest2 = from[s + 2] > largest2 ? from[s + 2] : largest2;
                        largest3 = from[s + 3] > largest3 ? from[s + 3] : largest3;
                    }
                    r--;
                    if (r == 0) {
                        break; /* before `from` leaves the map */
                    }
                    from += pitch;
                }
                y[0] = largest0;
                y[1] = largest1;
                y[2] = largest2;
                y[3] = largest3;
                corner += 4;
                y += 4;
            }
            for (; left > 0; left--) {
                const VALUE_T *from = corner++;
                VALUE_T largest = *from;
                int32_t r = i1 - i0;
                for (;;) {
                    int32_t s;
                    for (s = 0; s < span; s += channels) {
                        largest = from[s] > largest ? from[s] : largest;
                    }
                    r--;
                    if (r == 0) {
                        break; /* before `from` leaves the map */
                    }
                    from += pitch;
                }
                *y++ = largest;
            }
        }
    }
}
