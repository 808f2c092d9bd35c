
# A program for the computer that builds: raw samples on standard input, a line for every window.
PROGRAMS = example

example: ${name}_example.c lib$name.a
	$$(CC) -std=c99 $$(CFLAGS) -o $$@ ${name}_example.c lib$name.a
