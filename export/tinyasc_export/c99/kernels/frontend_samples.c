#include "tinyasc_frontend_samples.h"

void tinyasc_frontend_samples_init(tinyasc_frontend_samples *state, int16_t *ring, int32_t n_fft)
{
    state->ring = ring;
    state->at = 0;
    state->missing = n_fft; /* the first frame overwrites the whole ring */
}

int32_t tinyasc_frontend_samples_take(tinyasc_frontend_samples *state, int32_t n_fft, const int16_t *samples, int32_t n)
{
    const int32_t taken = n < state->missing ? n : state->missing;
    int32_t at = state->at;
    int32_t i;
    for (i = 0; i < taken; i++) {
        state->ring[at] = samples[i];
        at = (at + 1) & (n_fft - 1);
    }
    state->at = at;
    state->missing -= taken;
    return taken;
}
