/* descriptors.h — closing what a process has no use for. */
#ifndef DESCRIPTORS_H
#define DESCRIPTORS_H

/* Closes every descriptor from first to last, both included; UINT_MAX: to the end. By close_range(2), and where that is
 * unknown (before Linux 5.9) or refused (a seccomp filter), one by one: those that /proc/self/fd lists; without /proc,
 * those up to RLIMIT_NOFILE. Bare system calls and 1.5 KB of stack: a child that shares its parent's memory may call
 * it. Changes errno. */
void descriptors_close(unsigned first, unsigned last);

/* Closes every descriptor from 3 on but these n, in any order; -1: none. Sorts them. */
void descriptors_keep(int *keep, int n);

#endif
