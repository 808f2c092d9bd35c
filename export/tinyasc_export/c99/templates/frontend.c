/* Written by tinyasc; do not edit. */
#include "${name}_frontend.h"

#include "$kernel.h"
#include "tinyasc_frontend_samples.h"

$tables
static const ${kernel}_args front_end = {
$arguments};

static int16_t ring[$n_fft];
static $work_type work[$n_fft];
static tinyasc_frontend_samples last_window;

void ${name}_frontend_init(void)
{
    tinyasc_frontend_samples_init(&last_window, ring, $n_fft);
}

int ${name}_frontend_push(const int16_t **samples, int32_t *n, $value frame[${upper}_BANDS])
{
    int32_t taken;
    if (*n <= 0) {
        return 0;
    }
    taken = tinyasc_frontend_samples_take(&last_window, $n_fft, *samples, *n);
    *samples += taken;
    *n -= taken;
    if (last_window.missing > 0) {
        return 0;
    }
    last_window.missing = ${upper}_HOP_LENGTH;
    $kernel(&front_end, ring, last_window.at, work, frame);
    return 1;
}

int ${name}_frontend_is_exact(void)
{
    return $is_exact;
}
