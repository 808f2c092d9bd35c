#ifndef TINYASC_MUL_TYPE_H
#define TINYASC_MUL_TYPE_H

#include <stdint.h>

/* Three outer axes with each operand's stride (0 where it is repeated), then a row, in which `a` advances and `b`
 * advances or is repeated. */
typedef struct {
    int32_t sizes[3];
    int32_t a_strides[3];
    int32_t b_strides[3];
    int32_t row;
    int32_t b_step;
    int32_t a_zero;
    int32_t b_zero;
    int32_t multiplier;
    int32_t shift;
    int32_t zero; /* the output's zero point */
    int32_t low;  /* least output */
} tinyasc_mul_TYPE_args;

/* y may be a, or b if that has y's shape. */
void tinyasc_mul_TYPE(const tinyasc_mul_TYPE_args *args, const VALUE_T *a, const VALUE_T *b, VALUE_T *y);

#endif
