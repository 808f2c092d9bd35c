#ifndef TINYASC_MAXIMUM_TYPE_H
#define TINYASC_MAXIMUM_TYPE_H

#include <stdint.h>

/* Three outer axes with each operand's stride (0 where it is repeated), then a row, in which `a` advances and `b`
 * advances or is repeated. */
typedef struct {
    int32_t sizes[3];
    int32_t a_strides[3];
    int32_t b_strides[3];
    int32_t row;
    int32_t b_step;
} tinyasc_maximum_TYPE_args;

/* y may be a, or b if that has y's shape. */
void tinyasc_maximum_TYPE(const tinyasc_maximum_TYPE_args *args, const VALUE_T *a, const VALUE_T *b, VALUE_T *y);

#endif
