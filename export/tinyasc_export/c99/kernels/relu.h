#ifndef TINYASC_RELU_TYPE_H
#define TINYASC_RELU_TYPE_H

#include <stdint.h>

typedef struct {
    int32_t count;
    int32_t multiplier;
    int32_t shift;
} tinyasc_relu_TYPE_args;

/* max(x, 0) on another scale, both zero points 0. y may be x. */
void tinyasc_relu_TYPE(const tinyasc_relu_TYPE_args *args, const VALUE_T *x, VALUE_T *y);

#endif
