/* faults.h — makes one system call of hark__sys fail at its Nth use, and everything else work.
 *
 *   FAULT(int, socket, (int d, int t, int p), (d, t, p))      defines it, in the file's scope
 *   fault_install_socket(), fault_remove_socket()
 *
 * fault_countdown says which use fails; it is 0 once it has. */
#ifndef FAULTS_H
#define FAULTS_H

#include <errno.h>

#include "base/sys.h"

static int fault_countdown;
static int fault_errno = ENOMEM;

#define FAULT_RESULT(name, params, args, type, failure) \
	static type(*fault_real_##name) params; \
	static type fault_##name params \
	{ \
		if (fault_countdown > 0 && --fault_countdown == 0) { \
			errno = fault_errno; \
			return failure; \
		} \
		return fault_real_##name args; \
	} \
	static void fault_install_##name(void) \
	{ \
		fault_real_##name = hark__sys.name; \
		hark__sys.name = fault_##name; \
	} \
	static void fault_remove_##name(void) \
	{ \
		hark__sys.name = fault_real_##name; \
	}

#define FAULT(type, name, params, args) FAULT_RESULT(name, params, args, type, -1)
#define FAULT_NULL(name, params, args)  FAULT_RESULT(name, params, args, void *, NULL)
#define FAULT_ROW(name) \
	{ \
#name, fault_install_##name, fault_remove_##name \
	}

struct fault {
	const char *name;
	void (*install)(void);
	void (*remove)(void);
};

#endif
