/* What a program that runs on an emulated board may ask of its host: text, files in memory, an exit code. */
#ifndef TINYASC_SIM_H
#define TINYASC_SIM_H

#include <stdint.h>

/* Prints text; `text` ends with a zero byte. */
void sim_print(const char *text);

/* Reads at most `size` bytes of a file that the host offers; gives back how many, or -1 where there is no such file. */
int32_t sim_read(const char *name, void *to, uint32_t size);

/* Opens a file that the host offers, for sim_read_on; gives back its number, or -1. */
int32_t sim_open(const char *name);

/* Reads at most `size` bytes from where the last call ended; gives back how many, 0 at the file's end. */
int32_t sim_read_on(int32_t file, void *to, uint32_t size);

/* Writes a file that the host finds in the result; gives back 0, or -1. */
int32_t sim_write(const char *name, const void *from, uint32_t size);

/* What runs until the next call is counted apart. */
void sim_step(void);

/* Ends the run, as returning from main does. */
void sim_exit(int32_t code);

#endif
