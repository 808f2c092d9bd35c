/* Written by tinyasc; do not edit. */
#include "${name}.h"

#include "${name}_weights.h"
$includes
/* Every activation has its place here; several share one when they are not needed at the same time. */
static union {
    uint64_t alignment;
    $value values[$arena_values];
} memory;

$arguments
$value *${name}_arena(void)
{
    return memory.values;
}

void ${name}_load(const $value input[${upper}_INPUT_SIZE])
{
    $value *to = memory.values + $input_at;
    int32_t i;
    for (i = 0; i < ${upper}_INPUT_SIZE; i++) {
        to[i] = input[i];
    }
}

void ${name}_store($value output[${upper}_OUTPUT_SIZE])
{
    const $value *from = memory.values + $output_at;
    int32_t i;
    for (i = 0; i < ${upper}_OUTPUT_SIZE; i++) {
        output[i] = from[i];
    }
}

void ${name}_run_operator(int32_t index)
{
    $value *const arena = memory.values;
    switch (index) {
$cases    default:
        break;
    }
}

void ${name}_invoke(const $value input[${upper}_INPUT_SIZE], $value output[${upper}_OUTPUT_SIZE])
{
    int32_t index;
    ${name}_load(input);
    for (index = 0; index < ${upper}_OPERATORS; index++) {
        ${name}_run_operator(index);
    }
    ${name}_store(output);
}
$labels
