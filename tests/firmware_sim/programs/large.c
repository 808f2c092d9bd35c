/* So much RAM and so much flash. */
#include "sim.h"

static volatile uint8_t net_arena[RAM_BYTES];
static const uint8_t weights[FLASH_BYTES] = {1};

int main(void)
{
    const volatile uint8_t *w = weights;
    net_arena[RAM_BYTES - 1] = w[FLASH_BYTES - 1];
    return net_arena[RAM_BYTES - 1];
}
