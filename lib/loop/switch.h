/* switch.h — what a machine has to provide for fibers: two functions. See fiber_x86_64.S. */
#ifndef HARK__SWITCH_H
#define HARK__SWITCH_H

#include <stddef.h>

/* Leaves the running stack, keeping its place in *save, and goes on where the other one left. */
void hark__switch(void **save, void *to);

/* Lays out a fresh stack of bytes from low so that switching to the result calls entry, which never returns. */
void *hark__switch_prepare(char *low, size_t bytes, void (*entry)(void));

#endif
