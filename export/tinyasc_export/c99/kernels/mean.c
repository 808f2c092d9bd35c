#include "tinyasc_mean_TYPE.h"

#include "tinyasc_clamp_RANGE.h"
#include "tinyasc_REQUANTIZE.h"

static inline VALUE_T mean_of(const tinyasc_mean_TYPE_args *args, int32_t sum)
{
    const int32_t scaled = tinyasc_REQUANTIZE(sum - args->offset, args->multiplier, args->shift);
    return tinyasc_clamp_RANGE(scaled + args->zero, VALUE_MIN);
}

void tinyasc_mean_TYPE(const tinyasc_mean_TYPE_args *args, const VALUE_T *x, VALUE_T *y)
{
    const int32_t rows = args->rows;
    const int32_t inner = args->inner;
    const int32_t columns = args->columns;
    int32_t outer;
    for (outer = 0; outer < args->outer; outer++) {
        int32_t i = 0;
        int32_t r;
        if (columns == 1) {
            /* Four sums at once: neighbours in memory. */
            for (; i + 4 <= inner; i += 4) {
                const VALUE_T *from = x + i;
                int32_t sum0 = 0;
                int32_t sum1 = 0;
                int32_t sum2 = 0;
                int32_t sum3 = 0;
                for (r = rows;;) {
                    sum0 += from[0];
                    sum1 += from[1];
                    sum2 += from[2];
                    sum3 += from[3];
                    r--;
                    if (r == 0) {
                        break; /* before `from` leaves the input */
                    }
                    from += inner;
                }
                y[0] = mean_of(args, sum0);
                y[1] = mean_of(args, sum1);
                y[2] = mean_of(args, sum2);
                y[3] = mean_of(args, sum3);
                y += 4;
            }
        }
        for (; i < inner; i++) {
            const VALUE_T *from = x + i * columns;
            int32_t sum = 0;
            for (r = rows;;) {
                int32_t c;
                for (c = 0; c < columns; c++) {
                    sum += from[c];
                }
                r--;
                if (r == 0) {
                    break;
                }
                from += inner * columns;
            }
            *y++ = mean_of(args, sum);
        }
        x += rows * inner * columns;
    }
}
