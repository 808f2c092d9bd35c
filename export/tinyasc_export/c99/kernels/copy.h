#ifndef TINYASC_COPY_TYPE_H
#define TINYASC_COPY_TYPE_H

#include <stdint.h>

/* Three outer axes with their strides in x and in y, then a row of neighbours. */
typedef struct {
    int32_t sizes[3];
    int32_t x_strides[3];
    int32_t y_strides[3];
    int32_t row;
} tinyasc_copy_TYPE_args;

void tinyasc_copy_TYPE(const tinyasc_copy_TYPE_args *args, const VALUE_T *x, VALUE_T *y);

#endif
