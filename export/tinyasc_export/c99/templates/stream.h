/* From samples to class scores. Written by tinyasc; do not edit.
 *
 *     static ${name}_value scores[${upper}_OUTPUT_SIZE];
 *     ${name}_init();
 *     for (;;) {
 *         ... n samples from the microphone: int16, one channel, $sample_rate Hz ...
 *         while (n > 0) {
 *             const int32_t taken = ${name}_push(samples, n);
 *             samples += taken;
 *             n -= taken;
 *             if (${name}_ready()) {
 *                 ${name}_scores(scores);
 *             }
 *         }
 *     }
 *
 * A score q is the logit $scale * (q $minus_zero_point); the largest names the class, and a softmax over the logits gives
 * probabilities. Everything is static: one stream, no heap. Calls must not interrupt each other.
 */
#ifndef ${upper}_STREAM_H
#define ${upper}_STREAM_H

#include "${name}.h"

#ifdef __cplusplus
extern "C" {
#endif

enum {
    ${upper}_FRAMES = $n_frames,         /* of one window, which is what the net hears at once: $window_samples samples */
    ${upper}_WINDOW_HOP = $window_hop,     /* frames from one window to the next: $hop_samples samples */
    ${upper}_STREAM_STATE_BYTES = $state_bytes /* of RAM beside the arena, the front end's included */
};

/* Forgets all sound. Has to be called before the first push. */
void ${name}_init(void);

/* Takes samples until a window is whole or none are left; says how many. Of an n of 0 or less it takes none, returns 0
 * and changes nothing; `samples` may then be null. */
int32_t ${name}_push(const int16_t *samples, int32_t n);

/* Whether a window is whole and not yet scored. The next frame that is pushed gives it up. */
int ${name}_ready(void);

/* Runs the net on the window. Returns 0, and leaves `scores` alone, where none is ready. */
int ${name}_scores(${name}_value scores[${upper}_OUTPUT_SIZE]);

#ifdef __cplusplus
}
#endif

#endif
