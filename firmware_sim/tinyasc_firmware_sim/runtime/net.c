/* Runs a net that tinyasc wrote once, operator by operator, and hands every operator's output to the host.
 *
 * net_layout.h, which is written beside it, names the net's functions and says where tensors lie in the arena. It holds the
 * files' names as arrays: literals would count as the program's. */
#include "sim.h"
#include "net_layout.h"

static const char sim_input_file[] = "input";

__attribute__((noinline)) static int32_t sim_net(void)
{
    uint8_t *arena = (uint8_t *)NET_ARENA();
    if (sim_read(sim_input_file, arena + NET_INPUT_AT, NET_INPUT_BYTES) != (int32_t)NET_INPUT_BYTES) {
        return 1;
    }
    for (int32_t i = 0; i < NET_OPERATORS; i++) {
        sim_step();
        NET_RUN_OPERATOR(i);
        sim_step();
        if (sim_write(sim_outputs[i].file, arena + sim_outputs[i].at, sim_outputs[i].bytes) != 0) {
            return 2;
        }
    }
    return 0;
}

int main(void)
{
    return (int)sim_net();
}
