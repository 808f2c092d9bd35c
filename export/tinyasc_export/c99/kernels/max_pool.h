#ifndef TINYASC_MAX_POOL_TYPE_H
#define TINYASC_MAX_POOL_TYPE_H

#include <stdint.h>

typedef struct {
    int32_t height;
    int32_t width;
    int32_t channels;
    int32_t out_height;
    int32_t out_width;
    int32_t kernel_height;
    int32_t kernel_width;
    int32_t stride_height;
    int32_t stride_width;
    int32_t top;  /* padding, which is not read */
    int32_t left;
} tinyasc_max_pool_TYPE_args;

/* Every window holds at least one value of the map. Outputs are computed in the order of their addresses, so that y may
 * be x where there is no padding. */
void tinyasc_max_pool_TYPE(const tinyasc_max_pool_TYPE_args *args, const VALUE_T *x, VALUE_T *y);

#endif
