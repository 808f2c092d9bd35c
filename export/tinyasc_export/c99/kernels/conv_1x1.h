#ifndef TINYASC_CONV_1X1_TYPE_H
#define TINYASC_CONV_1X1_TYPE_H

#include <stdint.h>

typedef struct {
    const int8_t *weights;     /* [outputs][inputs] */
    const ACC_T *bias;         /* [outputs]; less the weights' sum times the input's zero point */
    const int32_t *multiplier; /* [outputs] */
    const int8_t *shift;       /* [outputs] */
    int32_t inputs;
    int32_t outputs;
    int32_t zero;              /* the output's zero point */
    int32_t low;               /* least output */
} tinyasc_conv_1x1_TYPE_args;

/* y[position][output] = sum of weights[output][input] * x[position][input]: convolutions of one by one and linear
 * layers; at least one position. */
void tinyasc_conv_1x1_TYPE(const tinyasc_conv_1x1_TYPE_args *args, const VALUE_T *x, VALUE_T *y, int32_t positions);

#endif
