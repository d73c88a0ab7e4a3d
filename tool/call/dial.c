/* dial.c — connects a call, telling each attempt as it happens. */
#include "call.h"

#define DIAL_NS (30 * HARK_S)

/* The look-up is over when the first attempt begins: it is told before that. */
struct attempts {
	struct call *call;
	struct hark_dial_report report;
	bool looked_up;
};

static void attempt(const struct hark_attempt *a, void *arg)
{
	struct attempts *s = arg;

	if (!s->looked_up)
		report_lookup(s->call, s->report.resolved_ns);
	s->looked_up = true;
	report_attempt(a, s->call);
}

int call_dial(struct call *c)
{
	struct hark_why why = {""};
	struct attempts s = {.call = c};
	const struct hark_dial_opts opts = {
		.deadline = hark_after(c->args.connect_timeout > 0 ? c->args.connect_timeout : DIAL_NS),
		.local = c->local[0] != '\0' ? c->local : NULL,
		.reserved_port = c->args.reserved_port,
		.report = &s.report,
		.why = &why,
		.attempt = attempt,
		.attempt_arg = &s,
	};
	int err = hark_dial(c->address, &opts, &c->peer);

	if (err == 0 && c->tls) {
		tls_rename(c->address);
		return call_begin_tls(c, opts.deadline);
	}
	if (err == 0)
		return STATUS_DONE;
	if (why.text[0] != '\0')
		report_error(c, "%s", why.text);
	else
		report_error(c, "dial %s: %s", c->address, hark_strerror(err));
	return STATUS_FAILED;
}
