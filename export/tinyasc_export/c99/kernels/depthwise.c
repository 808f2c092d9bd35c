#include "tinyasc_depthwise_TAPS_TYPE.h"

#include "tinyasc_clamp_RANGE.h"
#include "tinyasc_REQUANTIZE.h"

/* All channels of one position. */
static inline void one_position(const tinyasc_depthwise_TAPS_TYPE_args *args, const VALUE_T *const *taps, VALUE_T *y)
{
    const int32_t channels = args->channels;
    const int32_t zero = args->zero;
    const int32_t low = args->low;
    const int8_t *w = args->weights;
    const ACC_T *bias = args->bias;
    const int32_t *multiplier = args->multiplier;
    const int8_t *shift = args->shift;
    const VALUE_T *xEACH = taps[EACH];
    int32_t c;
    for (c = 0; c < channels; c++) {
        ACC_T sum = bias[c];
        sum += w[EACH] * xEACH[c];
        w += TAPS;
        y[c] = tinyasc_clamp_RANGE(tinyasc_REQUANTIZE(sum, multiplier[c], shift[c]) + zero, low);
    }
}

void tinyasc_depthwise_TAPS_TYPE(const tinyasc_depthwise_TAPS_TYPE_args *args, const VALUE_T *x, VALUE_T *y,
                                 VALUE_T *scratch)
{
    const int32_t channels = args->channels;
    const VALUE_T *taps[TAPS];
    int32_t row;
    int32_t column;
    int32_t t;
    for (t = 0; t < channels; t++) {
        scratch[t] = args->padding;
    }
    for (row = 0; row < args->out_height; row++) {
        for (column = 0; column < args->out_width; column++) {
            for (t = 0; t < TAPS; t++) {
                const int32_t i = row * args->stride_height + args->taps[2 * t];
                const int32_t j = column * args->stride_width + args->taps[2 * t + 1];
                const int inside = i >= 0 && i < args->height && j >= 0 && j < args->width;
                taps[t] = inside ? x + (i * args->width + j) * channels : scratch;
            }
            one_position(args, taps, y);
            y += channels;
        }
    }
}
