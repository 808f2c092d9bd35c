#ifndef TINYASC_DEPTHWISE_TAPS_TYPE_H
#define TINYASC_DEPTHWISE_TAPS_TYPE_H

#include <stdint.h>

typedef struct {
    const int8_t *weights;     /* [channels][TAPS] */
    const ACC_T *bias;         /* [channels]; less the weights' sum times the input's zero point */
    const int32_t *multiplier; /* [channels] */
    const int8_t *shift;       /* [channels] */
    const int16_t *taps;       /* [TAPS][2]: row and column from the window's corner, padding taken off */
    int32_t height;
    int32_t width;
    int32_t channels;
    int32_t out_height;
    int32_t out_width;
    int32_t stride_height;
    int32_t stride_width;
    int32_t zero;              /* the output's zero point */
    int32_t low;               /* least output */
    VALUE_T padding;           /* the input's zero point */
} tinyasc_depthwise_TAPS_TYPE_args;

/* Depthwise convolution of TAPS taps, wherever in the window they lie. `scratch` (channels values) is what taps on the
 * padding read. */
void tinyasc_depthwise_TAPS_TYPE(const tinyasc_depthwise_TAPS_TYPE_args *args, const VALUE_T *x, VALUE_T *y,
                                 VALUE_T *scratch);

#endif
