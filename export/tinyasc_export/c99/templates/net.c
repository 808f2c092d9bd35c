/* Written by tinyasc; do not edit. */
#include "${name}.h"

#include "${name}_weights.h"
$includes
/* Every activation has its place here; several share one when they are not needed at the same time. */
static union {
    uint64_t alignment;
    ${name}_value values[$arena_values];
} arena;

$arguments
${name}_value *${name}_arena(void)
{
    return arena.values;
}

void ${name}_load(const ${name}_value input[${upper}_INPUT_SIZE])
{
    ${name}_value *to = arena.values + $input_at;
    int32_t i;
    for (i = 0; i < ${upper}_INPUT_SIZE; i++) {
        to[i] = input[i];
    }
}

void ${name}_store(${name}_value output[${upper}_OUTPUT_SIZE])
{
    const ${name}_value *from = arena.values + $output_at;
    int32_t i;
    for (i = 0; i < ${upper}_OUTPUT_SIZE; i++) {
        output[i] = from[i];
    }
}

void ${name}_run_operator(int32_t index)
{
    switch (index) {
$cases    default:
        break;
    }
}

void ${name}_invoke(const ${name}_value input[${upper}_INPUT_SIZE], ${name}_value output[${upper}_OUTPUT_SIZE])
{
    int32_t index;
    ${name}_load(input);
    for (index = 0; index < ${upper}_OPERATORS; index++) {
        ${name}_run_operator(index);
    }
    ${name}_store(output);
}
$labels
