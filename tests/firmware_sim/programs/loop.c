/* A loop of four instructions whose number of turns is read from a file. */
#include "sim.h"

void spin(uint32_t turns);
#if defined(__riscv)
__asm__(".section .text.spin,\"ax\"\n.globl spin\n.type spin,@function\n"
        "spin:\n1: addi a0,a0,-1\nnop\nnop\nbnez a0,1b\nret\n.size spin,.-spin\n.text\n");
#else
__asm__(".section .text.spin,\"ax\",%progbits\n.syntax unified\n.thumb\n.globl spin\n.type spin,%function\n.thumb_func\n"
        "spin:\n1: subs r0,r0,#1\nnop\ncmp r0,#0\nbne 1b\nbx lr\n.size spin,.-spin\n.text\n");
#endif

int main(void)
{
    uint32_t turns = 0;
    if (sim_read("turns", &turns, sizeof turns) != (int32_t)sizeof turns) {
        return 7;
    }
    spin(turns);
    return 0;
}
