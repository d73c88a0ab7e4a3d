/* overflow.h — a fiber that runs out of stack is told by name before the process dies of it. */
#ifndef HARK__OVERFLOW_H
#define HARK__OVERFLOW_H

/* Sees to it that the calling thread's guard page hits are explained; undoes it for the thread. */
void hark__overflow_watch(void);
void hark__overflow_unwatch(void);

#endif
