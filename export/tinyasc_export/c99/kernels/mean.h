#ifndef TINYASC_MEAN_TYPE_H
#define TINYASC_MEAN_TYPE_H

#include <stdint.h>

/* The input is read as [outer][rows][inner][columns]; rows and columns are averaged. */
typedef struct {
    int32_t outer;
    int32_t rows;
    int32_t inner;
    int32_t columns;
    int32_t offset;     /* what the input's zero point adds to a sum */
    int32_t multiplier; /* the division by rows * columns is in it */
    int32_t shift;
    int32_t zero;       /* the output's zero point */
} tinyasc_mean_TYPE_args;

void tinyasc_mean_TYPE(const tinyasc_mean_TYPE_args *args, const VALUE_T *x, VALUE_T *y);

#endif
