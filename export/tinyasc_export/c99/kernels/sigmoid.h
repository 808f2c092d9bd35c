#ifndef TINYASC_SIGMOID_TYPE_H
#define TINYASC_SIGMOID_TYPE_H

#include <stdint.h>

typedef struct {
    const uint16_t *table; /* [256]: sigmoid(i / 24) in Q0.16 */
    int32_t count;
    int32_t factor;        /* brings x to steps of 1 / (3 * 4096), with the shift to the right */
    int32_t shift;
    int32_t half;          /* of 2^shift */
} tinyasc_sigmoid_TYPE_args;

/* The logistic function by straight lines between the entries of a table. y may be x. */
void tinyasc_sigmoid_TYPE(const tinyasc_sigmoid_TYPE_args *args, const VALUE_T *x, VALUE_T *y);

#endif
