/* The stream of samples to scores that tinyasc wrote, with its operators watched.
 *
 * The written file is compiled in here as it stands, but for one name: where it calls net_run_operator it calls
 * sim_run_operator, which sets counts apart and hands features and outputs to the host. What feeds it is a file of its own
 * (stream_main.c), since the stream's functions, put into a function of the harness, would not be counted. */
#include "sim.h"
#include "net_layout.h"
#include "net_stream.h"

static const char sim_features_file[] = "features";

__attribute__((noinline)) static void sim_run_operator(int32_t index)
{
    const uint8_t *arena = (const uint8_t *)NET_ARENA();
    if (index == 0 && sim_write(sim_features_file, arena + NET_INPUT_AT, NET_INPUT_BYTES) != 0) {
        sim_exit(2);
    }
    sim_step();
    NET_RUN_OPERATOR(index);
    sim_step();
    if (sim_write(sim_outputs[index].file, arena + sim_outputs[index].at, sim_outputs[index].bytes) != 0) {
        sim_exit(2);
    }
}

#define net_run_operator sim_run_operator
#include "net_stream.c"
