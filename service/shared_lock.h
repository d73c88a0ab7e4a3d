/* shared_lock.h — a lock in memory that processes share, of whom any may be killed with it:
 * pthread_mutexattr_setrobust(3). Not for who trusts the others less than itself: a robust lock is full of pointers. */
#ifndef SHARED_LOCK_H
#define SHARED_LOCK_H

#include <pthread.h>

/* 0 or -errno. */
int shared_lock_init(pthread_mutex_t *m);

/* 0; 1: who had it was killed, and what it guards may be changed by half; -errno: it is not locked. Whoever is killed
 * in turn leaves a 1 to the next one. */
int shared_lock(pthread_mutex_t *m);
void shared_unlock(pthread_mutex_t *m);

#endif
