/* wakeup.c — see wakeup.h. A fiber is woken directly by its own loop's thread, else by a post to its loop: neither it
 * nor the loop can go before that has run. A thread waits as in every other call, in poll(2), so that it hears of a
 * drain's end. */
#include "loop/wakeup.h"

#include <errno.h>
#include <sys/eventfd.h>

#include "base/sys.h"
#include "hark.h"
#include "loop/loop.h"

static void teller_run(struct hark__waiter *t)
{
	struct hark__wakeup *w = hark__container(t, struct hark__wakeup, teller);
	w->told = true;
	hark__fiber_wake(w->fiber);
}

int hark__wakeup_init(struct hark__wakeup *w)
{
	*w = (struct hark__wakeup){.loop = hark__loop_current, .teller.run = teller_run, .event.fd = -1};
	if (w->loop != NULL) {
		w->fiber = hark__fiber_self();
		return 0;
	}
	int fd = hark__sys.eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (fd < 0)
		return -errno;
	hark__source_init(&w->event, fd);
	return 0;
}

void hark__wakeup_done(struct hark__wakeup *w)
{
	if (w->event.fd >= 0)
		(void)hark__sys.close(w->event.fd);
	w->event.fd = -1;
}

static bool told(struct hark__wakeup *w)
{
	uint64_t count;
	if (w->loop == NULL && !w->told)
		w->told = hark__sys.read(w->event.fd, &count, sizeof count) == sizeof count;
	return w->told;
}

int hark__wakeup_wait(struct hark__wakeup *w, int64_t deadline, const char *doing)
{
	int r = 0;
	while (r == 0 && !told(w)) {
		hark__ready_clear(&w->event, HARK__IN | HARK__OUT);
		r = w->loop != NULL ? hark__park(deadline, doing)
		                    : hark__wait_one(&w->event, HARK__IN, deadline, doing);
	}
	return told(w) ? 0 : r;
}

void hark__wakeup_await(struct hark__wakeup *w, const char *doing)
{
	while (!told(w)) {
		if (w->loop != NULL)
			hark__park_uncancellable(doing);
		else
			(void)hark__sys.poll(&(struct pollfd){.fd = w->event.fd, .events = POLLIN}, 1, -1);
	}
}

void hark__wakeup_tell(struct hark__wakeup *w)
{
	uint64_t one = 1;
	if (w->loop == NULL) {
		while (hark__sys.write(w->event.fd, &one, sizeof one) < 0 && errno == EINTR)
			;
	} else if (w->loop == hark__loop_current) {
		teller_run(&w->teller);
	} else {
		hark__loop_post(w->loop, &w->teller);
	}
}
