#ifndef TINYASC_FRONTEND_SAMPLES_H
#define TINYASC_FRONTEND_SAMPLES_H

#include <stdint.h>

/* The last window of a stream of samples. */
typedef struct {
    int16_t *ring;   /* n_fft samples; the oldest, which is the next one to go, is ring[at] */
    int32_t at;
    int32_t missing; /* samples until the next frame is due */
} tinyasc_frontend_samples;

void tinyasc_frontend_samples_init(tinyasc_frontend_samples *state, int16_t *ring, int32_t n_fft);

/* Takes samples until a frame is due (state->missing is 0) or `n` are taken; says how many. */
int32_t tinyasc_frontend_samples_take(tinyasc_frontend_samples *state, int32_t n_fft, const int16_t *samples, int32_t n);

#endif
