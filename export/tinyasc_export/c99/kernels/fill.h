#ifndef TINYASC_FILL_TYPE_H
#define TINYASC_FILL_TYPE_H

#include <stdint.h>

typedef struct {
    VALUE_T value;
    int32_t count;
} tinyasc_fill_TYPE_args;

void tinyasc_fill_TYPE(const tinyasc_fill_TYPE_args *args, VALUE_T *y);

#endif
