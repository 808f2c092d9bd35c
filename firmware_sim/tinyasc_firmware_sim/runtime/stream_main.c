/* Feeds a stream that tinyasc wrote from a file of int16 samples, a piece at a time, as a board's DMA would, until a window
 * is whole; then scores it. */
#include "sim.h"
#include "net_stream.h"

#define SIM_PIECE 256 /* samples */

static const char sim_samples_file[] = "samples";
static const char sim_scores_file[] = "scores";

__attribute__((noinline)) static int32_t sim_stream(void)
{
    static int16_t sim_piece[SIM_PIECE];
    static net_value sim_scores[NET_OUTPUT_SIZE];
    int32_t file = sim_open(sim_samples_file);
    if (file < 0) {
        return 1;
    }
    sim_step();
    net_init();
    while (!net_ready()) {
        const int16_t *from = sim_piece;
        int32_t n = sim_read_on(file, sim_piece, sizeof sim_piece) / (int32_t)sizeof *sim_piece;
        if (n == 0) {
            return 3;
        }
        while (n > 0 && !net_ready()) {
            int32_t taken = net_push(from, n);
            from += taken;
            n -= taken;
        }
    }
    sim_step();
    if (!net_scores(sim_scores)) {
        return 4;
    }
    sim_step();
    return sim_write(sim_scores_file, sim_scores, sizeof sim_scores) == 0 ? 0 : 2;
}

int main(void)
{
    return (int)sim_stream();
}
