/* overflow.c — explains a stack overflow: "hark: fiber 'echo' has overflowed its stack of 65536 bytes".
 *
 * A write to a guard page raises SIGSEGV. The handler runs on an alternate stack (the fiber has none left), looks the
 * address up, writes one line to standard error, and lets the signal take its course. Faults elsewhere go to whoever
 * handled SIGSEGV before. The only place in the library that writes anything by itself: there is nobody left to return
 * to. */
#include "loop/overflow.h"

#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/sys.h"
#include "loop/loop.h"

#define ALT_BYTES (16u << 10)

static struct sigaction before;
static pthread_once_t once = PTHREAD_ONCE_INIT;
static __thread void *alt; /* this thread's alternate stack, if it is ours */

static void say(const char *text)
{
	ssize_t n = write(STDERR_FILENO, text, strlen(text));
	(void)n;
}

static void explain(const struct hark__fiber *f, size_t stack_bytes)
{
	char digits[24];
	size_t at = sizeof digits - 1;
	digits[at] = '\0';
	for (size_t n = stack_bytes; n > 0; n /= 10) /* printf is not async-signal-safe */
		digits[--at] = (char)('0' + n % 10);
	say("hark: fiber '");
	say(f->top->name[0] ? f->top->name : "unnamed");
	say("' has overflowed its stack of ");
	say(digits + at);
	say(" bytes\n");
}

static void on_fault(int sig, siginfo_t *info, void *context)
{
	const struct hark__loop *l = hark__loop_current;
	bool sent = info->si_code <= 0; /* by kill(2) and the like: no instruction has failed, none will again */
	const struct hark__fiber *f = l != NULL && !sent ? hark__stacks_guarded(&l->stacks, info->si_addr) : NULL;
	if (f != NULL) {
		explain(f, l->stacks.stride - l->stacks.guard_bytes);
		(void)signal(sig, SIG_DFL); /* the faulting instruction runs again and ends the process */
		return;
	}
	if (before.sa_flags & SA_SIGINFO)
		before.sa_sigaction(sig, info, context);
	else if (before.sa_handler != SIG_DFL && before.sa_handler != SIG_IGN)
		before.sa_handler(sig);
	else if (!sent || before.sa_handler == SIG_DFL) {
		(void)signal(sig, SIG_DFL);
		if (sent)
			(void)raise(sig); /* comes as soon as the handler has returned */
	}
}

static void install(void)
{
	struct sigaction a = {.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO | SA_ONSTACK};
	(void)sigemptyset(&a.sa_mask);
	(void)sigaction(SIGSEGV, &a, &before);
}

void hark__overflow_watch(void)
{
	stack_t old;
	(void)pthread_once(&once, install);
	if (sigaltstack(NULL, &old) < 0 || !(old.ss_flags & SS_DISABLE))
		return; /* the thread has one already: a sanitizer's, or the program's */
	alt = hark__sys.malloc(ALT_BYTES);
	if (alt == NULL)
		return; /* an overflow then dies unexplained, no more */
	stack_t ours = {.ss_sp = alt, .ss_size = ALT_BYTES};
	if (sigaltstack(&ours, NULL) < 0) {
		free(alt);
		alt = NULL;
	}
}

void hark__overflow_unwatch(void)
{
	if (alt == NULL)
		return;
	stack_t none = {.ss_flags = SS_DISABLE};
	if (sigaltstack(&none, NULL) == 0)
		free(alt);
	alt = NULL;
}
