/* switch.c — lays out a fresh stack for the assembly of fiber_x86_64.S and fiber_aarch64.S: as if the entry stub had
 * called hark__switch() and were about to be returned to. */
#ifndef HARK__UCONTEXT /* else fiber_ucontext.c */

#include "loop/switch.h"

#include <stdint.h>
#include <string.h>

void hark__switch_entry(void); /* in assembly: calls the function in a callee-saved register */

void *hark__switch_prepare(char *low, size_t bytes, void (*entry)(void))
{
	uintptr_t top = ((uintptr_t)low + bytes) & ~(uintptr_t)15;
#if defined(__x86_64__)
	void **sp = (void **)(top - 16 - 7 * sizeof(void *)); /* r15 r14 r13 r12 rbx rbp rip */
	memset(sp, 0, 7 * sizeof *sp);
	sp[3] = (void *)entry;
	sp[6] = (void *)hark__switch_entry;
#elif defined(__aarch64__)
	void **sp = (void **)(top - 160); /* x19 … x30 d8 … d15 */
	memset(sp, 0, 160);
	sp[0] = (void *)entry;
	sp[11] = (void *)hark__switch_entry;
#endif
	return sp;
}

#endif
