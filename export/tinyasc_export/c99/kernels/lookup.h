#ifndef TINYASC_LOOKUP_TYPE_H
#define TINYASC_LOOKUP_TYPE_H

#include <stdint.h>

typedef struct {
    const VALUE_T *table; /* [256], from the least value to the largest */
    int32_t count;
} tinyasc_lookup_TYPE_args;

/* Any function of one value: sigmoid, hard swish, reciprocal root, rescaling ReLU. y may be x. */
void tinyasc_lookup_TYPE(const tinyasc_lookup_TYPE_args *args, const VALUE_T *x, VALUE_T *y);

#endif
