/* The front end: samples in, features of the net out, one frame at a time. Written by tinyasc; do not edit.
 *
 * Samples are int16, one channel, $sample_rate Hz. Arithmetic: $arithmetic.
 */
#ifndef ${upper}_FRONTEND_H
#define ${upper}_FRONTEND_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum {
    ${upper}_SAMPLE_RATE = $sample_rate,
    ${upper}_BANDS = $n_mels,
    ${upper}_HOP_LENGTH = $hop_length, /* samples between frames; the first one takes $n_fft */
    ${upper}_FRONTEND_STATE_BYTES = $state_bytes
};

/* Forgets all samples. Has to be called before the first push. */
void ${name}_frontend_init(void);

/* Takes samples until a frame is finished or none are left; *samples and *n advance by what was taken.
 * Returns 1 where a frame was finished and written: there may be more in the samples left. Of an *n of 0 or less nothing
 * is taken or read, so that *samples may be null. */
int ${name}_frontend_push(const int16_t **samples, int32_t *n, $value frame[${upper}_BANDS]);

/* $exactness */
int ${name}_frontend_is_exact(void);

#ifdef __cplusplus
}
#endif

#endif
