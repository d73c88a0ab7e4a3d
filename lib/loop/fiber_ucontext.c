/* fiber_ucontext.c — the fiber switch where there is no assembly for the machine, by swapcontext(3).
 *
 * Slower, as each switch also saves the signal mask by a system call; the same contract. A context lives at the
 * stack pointer that the rest of the library keeps: *save points at the ucontext_t, on the stack of its fiber. */
#include <stdint.h>
#include <string.h>
#include <ucontext.h>

#include "loop/loop.h"
#include "loop/switch.h"

void hark__switch(void **save, void *to)
{
	ucontext_t self;
	*save = &self;
	(void)swapcontext(&self, to); /* fails only for lack of stack in makecontext's successor, which is not used */
}

void *hark__switch_prepare(char *low, size_t bytes, void (*entry)(void))
{
	/* The context itself sits at the top of the stack, the stack proper below it. */
	uintptr_t top = ((uintptr_t)low + bytes - sizeof(ucontext_t)) & ~(uintptr_t)63;
	ucontext_t *volatile made = (ucontext_t *)
		top; /* getcontext(3) could return twice, for all that the compiler knows */
	memset(made, 0, sizeof *made);
	if (getcontext(made) < 0)
		return NULL;
	ucontext_t *u = made;
	u->uc_stack.ss_sp = low;
	u->uc_stack.ss_size = top - (uintptr_t)low;
	u->uc_link = NULL;
	makecontext(u, entry, 0);
	return u;
}
