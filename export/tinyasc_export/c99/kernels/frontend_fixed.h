#ifndef TINYASC_FRONTEND_FIXED_TYPE_H
#define TINYASC_FRONTEND_FIXED_TYPE_H

#include <stdint.h>

/* Tables of one front end, in integers. */
typedef struct {
    int32_t n_fft;          /* a power of two */
    int32_t n_mels;
    int32_t fraction;       /* bits below one of windowed samples */
    int32_t shift;          /* bits below one of features */
    const uint16_t *window; /* n_fft / 2 + 1: half of it, Q16 */
    const uint16_t *cosine; /* n_fft / 4 + 1: of 2 pi k / n_fft, Q15 */
    const int16_t *begin;   /* n_mels + 2: first bin at or above each edge of the mel triangles */
    const uint16_t *ratio;  /* one per bin from begin[0]: where it lies between two edges, Q16 */
    const int32_t *floor;   /* n_mels: log2 of the power below which the logarithm is cut off, Q16 */
    const int16_t *factor;  /* n_mels: to units of the integers */
    const int32_t *addend;  /* n_mels: the integer at the floor, times 2^shift */
    const int32_t *log2;    /* 65: log2(1 + i / 64), Q16 */
} tinyasc_frontend_fixed_TYPE_args;

/* The integers of one frame.
 *
 * ring: n_fft samples, the oldest at `at`.
 * work: n_fft values, whose content is lost.
 * features: n_mels values. */
void tinyasc_frontend_fixed_TYPE(const tinyasc_frontend_fixed_TYPE_args *args, const int16_t *ring, int32_t at,
                                 int32_t *work, VALUE_T *features);

#endif
