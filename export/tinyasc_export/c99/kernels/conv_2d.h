#ifndef TINYASC_CONV_2D_TYPE_H
#define TINYASC_CONV_2D_TYPE_H

#include <stdint.h>

#include "tinyasc_conv_1x1_TYPE.h"

typedef struct {
    tinyasc_conv_1x1_TYPE_args product; /* of a patch: inputs = taps * channels */
    const int16_t *taps;                /* [tap_count][2]: row and column from the window's corner, padding taken off */
    int32_t tap_count;                  /* taps whose weights are all zero are left out */
    int32_t height;
    int32_t width;
    int32_t channels;
    int32_t out_height;
    int32_t out_width;
    int32_t stride_height;
    int32_t stride_width;
    VALUE_T padding;                    /* the input's zero point */
} tinyasc_conv_2d_TYPE_args;

/* Any convolution: the patches of two positions are gathered in `scratch` (2 * taps * channels values) and multiplied
 * as a convolution of one by one. */
void tinyasc_conv_2d_TYPE(const tinyasc_conv_2d_TYPE_args *args, const VALUE_T *x, VALUE_T *y, VALUE_T *scratch);

#endif
