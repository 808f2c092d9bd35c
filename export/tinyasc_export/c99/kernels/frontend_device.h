#ifndef TINYASC_FRONTEND_DEVICE_TYPE_H
#define TINYASC_FRONTEND_DEVICE_TYPE_H

#include <stdint.h>

/* Tables of one front end, in float32. */
typedef struct {
    int32_t n_fft;         /* a power of two */
    int32_t n_mels;
    const float *window;   /* n_fft / 2 + 1: half of it, times 2^-16 */
    const float *cosine;   /* n_fft / 4 + 1: of 2 pi k / n_fft */
    const int16_t *begin;  /* n_mels + 2: first bin at or above each edge of the mel triangles */
    const float *ratio;    /* one per bin from begin[0]: where it lies between two edges */
    const float *height;   /* n_mels: of the triangles */
    const float *factor;   /* n_mels: to units of the integers */
    const float *addend;   /* n_mels: counted from the least integer */
    const float *log2;     /* 6: log2(1 + f) is f times their polynomial */
    float amin;            /* power below which the logarithm is cut off; 0 where there is no logarithm */
} tinyasc_frontend_device_TYPE_args;

/* The integers of one frame.
 *
 * ring: n_fft samples, the oldest at `at`.
 * work: n_fft values, whose content is lost.
 * features: n_mels values. */
void tinyasc_frontend_device_TYPE(const tinyasc_frontend_device_TYPE_args *args, const int16_t *ring, int32_t at,
                                  float *work, VALUE_T *features);

/* Whether this file was built so that products and sums are rounded one by one, in the order written: 1 or 0. */
int tinyasc_frontend_device_TYPE_is_exact(void);

#endif
