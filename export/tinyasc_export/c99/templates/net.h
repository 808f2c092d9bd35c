/* A neural net: features in, logits out. Written by tinyasc; do not edit.
 *
 * input:  $input
 * output: $output
 * rounding: $rounding
 */
#ifndef ${upper}_H
#define ${upper}_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum {
    ${upper}_INPUT_SIZE = $input_size,
    ${upper}_OUTPUT_SIZE = $output_size,
    ${upper}_ARENA_BYTES = $arena_bytes,
    ${upper}_OPERATORS = $operators
};

typedef $value ${name}_value;

/* Runs the net. Both buffers are the caller's; the net keeps no state between calls, and its arena is static, so that
 * one call may run at a time. */
void ${name}_invoke(const ${name}_value input[${upper}_INPUT_SIZE], ${name}_value output[${upper}_OUTPUT_SIZE]);
$labels
/* For profiles and comparisons: where activations lie, and a single operator of 0 .. ${upper}_OPERATORS - 1. */
void ${name}_load(const ${name}_value input[${upper}_INPUT_SIZE]);
void ${name}_run_operator(int32_t index);
void ${name}_store(${name}_value output[${upper}_OUTPUT_SIZE]);
${name}_value *${name}_arena(void);

#ifdef __cplusplus
}
#endif

#endif
