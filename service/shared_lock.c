/* shared_lock.c — see shared_lock.h. */
#include "shared_lock.h"

#include <errno.h>

int shared_lock_init(pthread_mutex_t *m)
{
	pthread_mutexattr_t a;
	int r = pthread_mutexattr_init(&a);
	if (r != 0)
		return -r;
	(void)pthread_mutexattr_setpshared(&a, PTHREAD_PROCESS_SHARED);
	(void)pthread_mutexattr_setrobust(&a, PTHREAD_MUTEX_ROBUST);
	r = pthread_mutex_init(m, &a);
	(void)pthread_mutexattr_destroy(&a);
	return -r;
}

int shared_lock(pthread_mutex_t *m)
{
	int r = pthread_mutex_lock(m);
	if (r != EOWNERDEAD)
		return -r;
	(void)pthread_mutex_consistent(m);
	return 1;
}

void shared_unlock(pthread_mutex_t *m)
{
	(void)pthread_mutex_unlock(m);
}
